"""Batch norms fused into the convolutions in front of them, for inference."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.variables import Path, variables_of


def fuse_batch_norm(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Multiplies every batch norm into the convolution in front of it, which gets a bias.

    The same model takes the result, `model.apply(fuse_batch_norm(model, variables), images)`, and
    gives the same outputs up to rounding; it is for inference, and can neither be trained nor saved
    in the layouts of other libraries.

    Args:
        model: Any model of `create_model`.
        variables: Its {"params", "batch_stats"}.

    Returns:
        {"params"} without norms; the given variables stay as they are.

    Raises:
        ConfigurationError: If there is nothing to fuse, as in what this function returned.
    """
    params, statistics = variables["params"], variables.get("batch_stats")
    if not statistics:
        raise ConfigurationError(
            "there are no running statistics to fuse: give both params and batch_stats"
        )
    return {"params": _fused(params, statistics, variables_of(model).eps, ())}


def _fused(
    params: Mapping[str, Any], statistics: Mapping[str, Any], eps: Mapping[Path, float], path: Path
) -> dict[str, Any]:
    """Walks down to the blocks that have a norm; what has no statistics is left as it is."""
    if (norm := (*path, "norm")) in eps:
        fused = _fused_conv(params["conv"], params["norm"], statistics["norm"], eps[norm])
        return {"conv": fused}
    return {
        name: _fused(value, statistics[name], eps, (*path, name)) if name in statistics else value
        for name, value in params.items()
    }


def _fused_conv(conv: Any, norm: Any, statistics: Any, eps: float) -> dict[str, Any]:
    factor = norm["scale"] * lax.rsqrt(statistics["var"] + eps)
    # Output channels are the last axis of every kernel, also of depthwise ones.
    kernel = jnp.asarray(conv["kernel"]) * factor.reshape(1, 1, 1, -1)
    return {"kernel": kernel, "bias": norm["bias"] - statistics["mean"] * factor}
