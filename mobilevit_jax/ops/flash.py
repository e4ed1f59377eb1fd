"""Attention on a TPU whose maps never leave the chip's small memory, as a Pallas kernel.

XLA writes every map of softmax(query key^T) out and reads it again, forward and backward: at 256
tokens that is more than all other maps of the block. Here a map lives between two matrix products
(Dao et al., 2022, "FlashAttention"). Tokens are contiguous, since the few channels of a head would
fill an eighth of a TPU's 128 lanes. A row's scores fit whole, so the softmax takes one pass.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_FEWEST_TOKENS = 64  # fewer leave lanes empty, and have small maps
_MEMORY = 15 * 2**20  # bytes; a kernel may use 16 MiB
_QUERIES = 256  # of a map that is computed at a time


def suits_flash(qkv: jax.Array) -> bool:
    """Tells whether there are enough tokens, and whether what one kernel works on fits.

    Args:
        qkv: [..., n, 3 * heads * d].
    """
    tokens, channels = qkv.shape[-2:]
    # Operands and results of the backward pass, of this step and of the next, and some maps.
    needed = 2 * 8 * channels // 3 * tokens * qkv.dtype.itemsize + 5 * tokens * _QUERIES * 4
    return tokens >= _FEWEST_TOKENS and needed <= _MEMORY


def flash_attention(qkv: jax.Array, heads: int, interpret: bool = False) -> jax.Array:
    """Computes softmax(query key^T / sqrt(d)) value for each head; tokens are the last axis.

    Args:
        qkv: [m, 3 * heads * d, n]: query, key and value one after another, in each the heads.
        heads: How many there are.
        interpret: Whether the kernel is interpreted, which any platform can.

    Returns:
        [m, heads * d, n] in the type of `qkv`; the softmax is float32.
    """
    return _run(_forward_kernel, (qkv,), heads, 1, interpret)


def flash_gradients(
    qkv: jax.Array, output: jax.Array, gradient: jax.Array, heads: int, interpret: bool = False
) -> jax.Array:
    """Returns the gradient by `qkv`; the maps are computed again.

    Args:
        qkv: As in `flash_attention`.
        output: Its result.
        gradient: By the output.
        heads: How many there are.
        interpret: As in `flash_attention`.
    """
    return _run(_backward_kernel, (qkv, output, gradient), heads, 3, interpret)


def _run(
    kernel: Any, operands: tuple[jax.Array, ...], heads: int, parts: int, interpret: bool
) -> jax.Array:
    """Runs a kernel over all m; its result has `parts` times as many channels as the output."""
    from jax.experimental import pallas as pl

    count, channels, tokens = operands[0].shape
    out_shape = jax.ShapeDtypeStruct((count, channels // 3 * parts, tokens), operands[0].dtype)
    products = 2 if parts == 1 else 5
    cost = pl.CostEstimate(
        flops=2 * products * count * channels // 3 * tokens**2,
        transcendentals=count * heads * tokens**2,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*operands, out_shape)),
    )

    def block(x: Any) -> Any:
        return pl.BlockSpec((1, *x.shape[1:]), lambda index: (index, 0, 0))

    return pl.pallas_call(
        functools.partial(kernel, heads),
        grid=(count,),
        in_specs=[block(x) for x in operands],
        out_specs=block(out_shape),
        out_shape=out_shape,
        cost_estimate=cost,
        interpret=interpret,
    )(*operands)


def _heads(ref: Any, heads: int, parts: int) -> Any:
    """Yields for each head where in the channels its parts are: query, key and value, or one."""
    depth = ref.shape[1] // (heads * parts)
    for head in range(heads):
        starts = (depth * (part * heads + head) for part in range(parts))
        yield [slice(start, start + depth) for start in starts]


def _forward_kernel(heads: int, qkv: Any, output: Any) -> None:
    for (query, key, value), (out,) in zip(
        _heads(qkv, heads, 3), _heads(output, heads, 1), strict=True
    ):
        keys, values = qkv[0, key], qkv[0, value]
        scale = keys.shape[0] ** -0.5
        for some in _parts(qkv.shape[2]):
            scores = _product(keys, qkv[0, query, some] * scale, 0, 0)  # [key, query]
            weights = jnp.exp(scores - jnp.max(scores, 0, keepdims=True))
            total = jnp.sum(weights, 0, keepdims=True)
            summed = _product(values, weights.astype(values.dtype), 1, 0)
            output[0, out, some] = (summed / total).astype(output.dtype)


def _backward_kernel(heads: int, qkv: Any, output: Any, gradient: Any, result: Any) -> None:
    for (query, key, value), (out,) in zip(
        _heads(qkv, heads, 3), _heads(output, heads, 1), strict=True
    ):
        keys, values = qkv[0, key], qkv[0, value]
        scale = keys.shape[0] ** -0.5
        to_keys = to_values = jnp.zeros(keys.shape, jnp.float32)
        for some in _parts(qkv.shape[2]):
            asked, sent = qkv[0, query, some] * scale, gradient[0, out, some]
            weights = jax.nn.softmax(_product(keys, asked, 0, 0), 0)
            along = sent.astype(jnp.float32) * output[0, out, some].astype(jnp.float32)
            along = jnp.sum(along, 0, keepdims=True)
            to_scores = weights * (_product(values, sent, 0, 0) - along)
            to_scores = to_scores.astype(keys.dtype)
            to_query = scale * _product(keys, to_scores, 1, 0)
            result[0, query, some] = to_query.astype(result.dtype)
            to_keys += _product(asked, to_scores, 1, 1)
            to_values += _product(sent, weights.astype(values.dtype), 1, 1)
        result[0, key] = to_keys.astype(result.dtype)
        result[0, value] = to_values.astype(result.dtype)


def _parts(tokens: int) -> list[slice]:
    return [slice(start, min(start + _QUERIES, tokens)) for start in range(0, tokens, _QUERIES)]


def _product(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
    """Sums over one axis of each, in float32."""
    axes = (((x_axis,), (y_axis,)), ((), ()))
    return lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)
