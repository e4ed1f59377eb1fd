"""What the comparisons with PyTorch's implementations share."""

# Neither torch nor transformers need be installed where the types are checked.
# pyright: reportMissingImports=false

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax import convert
from mobilevit_jax.convert.config import to_huggingface
from mobilevit_jax.models import Model

SIZES = ("xxs", "xs", "s")
# Divided by patches everywhere; taller than wide, and layer_5 resized; three stages resized.
SHAPES = ((256, 256), (288, 224), (200, 176))


# Compiling takes longer than running once, even unoptimised.
compiled = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def images(height: int, width: int, count: int = 1) -> np.ndarray:
    """Returns random images [count, height, width, 3] in [0, 1)."""
    return np.random.default_rng(height * width).random((count, height, width, 3), np.float32)


def nchw(x: Any) -> Any:
    """Returns a PyTorch tensor [b, c, h, w] of an array [b, h, w, c]."""
    import torch

    return torch.from_numpy(np.array(np.asarray(x).transpose(0, 3, 1, 2), order="C"))


def nhwc(x: Any) -> np.ndarray:
    """Returns an array [b, h, w, c] of a PyTorch tensor [b, c, h, w]."""
    return x.detach().numpy().transpose(0, 2, 3, 1)


def difference(ours: Any, theirs: Any, least: float = 0.0) -> float:
    """Returns the largest difference, as a share of the largest value, or of `least`."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), least))


def huggingface_twin(model: Model, variables: Any) -> Any:
    """Returns transformers' model with our weights, in evaluation mode."""
    import torch
    import transformers

    config = to_huggingface(model)
    kind = getattr(transformers, config["architectures"][0])
    twin = kind(kind.config_class(**config))
    state_dict = convert.to_state_dict(model, variables, "huggingface")
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in state_dict.items()})
    return twin.eval()


def gradients_of(twin: Any, model: Model) -> Any:
    """Returns the gradients that a twin has, as our "params"."""
    tensors = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    # Running statistics have none, but there is no state dict without them.
    tensors |= {name: b.numpy() for name, b in twin.named_buffers() if b.is_floating_point()}
    return convert.load_state_dict(model, tensors)["params"]


def weighted_sum(logits: Any) -> Any:
    """Returns a loss that every logit has its own share in; for JAX and for PyTorch."""
    shares = np.random.default_rng(5).standard_normal(logits.shape).astype(np.float32)
    if isinstance(logits, jax.Array):
        return jnp.sum(logits * shares)
    import torch

    return (logits * torch.from_numpy(shares)).sum()


def worst(ours: Any, theirs: Any, least: float = 0.0) -> tuple[float, str]:
    """Returns the largest `difference` of two trees' leaves, and the leaf's path."""
    leaves = jax.tree_util.tree_leaves_with_path(theirs)
    differences = jax.tree.map(functools.partial(difference, least=least), ours, theirs)
    return max(
        (value, jax.tree_util.keystr(path))
        for value, (path, _) in zip(jax.tree.leaves(differences), leaves, strict=True)
    )


@contextlib.contextmanager
def messages_of_transformers() -> Iterator[list[str]]:
    """Collects what transformers says with the weight of a warning or more."""
    from transformers.utils import logging as transformers_logging

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    said: list[str] = []
    logger, collector = logging.getLogger("transformers"), Collector(logging.WARNING)
    transformers_logging.disable_progress_bar()
    logger.addHandler(collector)
    try:
        yield said
    finally:
        logger.removeHandler(collector)


def load_quietly(directory: Path, kind: str = "MobileViTForImageClassification") -> Any:
    """Returns transformers' model of a directory, which must load without a word."""
    import transformers

    with messages_of_transformers() as said:
        loaded: Any = getattr(transformers, kind).from_pretrained(
            directory, output_loading_info=True
        )
    twin, info = loaded
    assert said == []
    assert not any(info.values()), info
    return twin.eval()


class SilentReporter:
    """Hears a training out and keeps it to itself."""

    def say(self, message: str) -> None:
        """Nothing."""

    def begin(self, first_step: int) -> None:
        """Nothing."""

    def update(
        self,
        step: int,
        *,
        epoch: int,
        loss: float | None = None,
        images_per_second: float | None = None,
    ) -> None:
        """Nothing."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Nothing."""
