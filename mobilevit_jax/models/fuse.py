"""Batch norms fused into the convolutions in front of them, for inference."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.layers import BATCH_NORM_EPS


def fuse_batch_norm(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Multiplies every batch norm into the convolution in front of it, which gets a bias.

    The same model takes the result, `model.apply(fuse_batch_norm(variables), images)`, and gives
    the same outputs up to rounding; it is for inference, and can neither be trained nor saved in
    the layouts of other libraries.

    Args:
        variables: {"params", "batch_stats"} of any model of `create_model`.

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
    return {"params": _fused(params, statistics)}


def _fused(params: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Walks down to the blocks that have a norm; what has no statistics is left as it is."""
    if "norm" in statistics:
        return {"conv": _fused_conv(params["conv"], params["norm"], statistics["norm"])}
    return {
        name: _fused(value, statistics[name]) if name in statistics else value
        for name, value in params.items()
    }


def _fused_conv(conv: Any, norm: Any, statistics: Any) -> dict[str, Any]:
    factor = norm["scale"] * lax.rsqrt(statistics["var"] + BATCH_NORM_EPS)
    # Output channels are the last axis of every kernel, also of depthwise ones.
    kernel = jnp.asarray(conv["kernel"]) * factor.reshape(1, 1, 1, -1)
    return {"kernel": kernel, "bias": norm["bias"] - statistics["mean"] * factor}
