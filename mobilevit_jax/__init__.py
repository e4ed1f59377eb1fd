"""MobileViT in JAX and Flax: exact models, multi-scale training, evaluation and prediction.

Names are imported when they are first used, so that `import mobilevit_jax` and the models need
nothing but jax, flax and optax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mobilevit_jax._version import __version__ as __version__

if TYPE_CHECKING:
    from mobilevit_jax import convert
    from mobilevit_jax.models import create_model, list_models
    from mobilevit_jax.models.fuse import fuse_batch_norm
    from mobilevit_jax.predictors import load_predictor
    from mobilevit_jax.pretrained import from_pretrained, load_weights
    from mobilevit_jax.processing import ImageProcessor
    from mobilevit_jax.saving import save_pretrained

__all__ = [
    "ImageProcessor",
    "convert",
    "create_model",
    "from_pretrained",
    "fuse_batch_norm",
    "list_models",
    "load_predictor",
    "load_weights",
    "save_pretrained",
]

# Name -> the module that has it; a module of the package stands for itself.
_HOMES = {
    "ImageProcessor": "mobilevit_jax.processing",
    "convert": "mobilevit_jax.convert",
    "create_model": "mobilevit_jax.models",
    "from_pretrained": "mobilevit_jax.pretrained",
    "fuse_batch_norm": "mobilevit_jax.models.fuse",
    "list_models": "mobilevit_jax.models",
    "load_predictor": "mobilevit_jax.predictors",
    "load_weights": "mobilevit_jax.pretrained",
    "save_pretrained": "mobilevit_jax.saving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    value = home if _HOMES[name] == f"{__name__}.{name}" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
