"""MobileViT in JAX and Flax: exact models, multi-scale training, evaluation and prediction.

Names are imported when they are first used, so that `import mobilevit_jax` and the models need
nothing but jax, flax and optax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilevit_jax.models import create_model, list_models
    from mobilevit_jax.processing import ImageProcessor

__version__ = "0.1.0"

__all__ = ["ImageProcessor", "create_model", "list_models"]

_HOMES = {
    "ImageProcessor": "mobilevit_jax.processing",
    "create_model": "mobilevit_jax.models",
    "list_models": "mobilevit_jax.models",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
