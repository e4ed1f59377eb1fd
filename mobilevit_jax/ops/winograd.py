"""3x3 convolution with 4 products a pixel instead of 9: Winograd's F(2x2, 3x3).

Lavin & Gray (2016), "Fast Algorithms for Convolutional Neural Networks", section 4.1: the input is
cut into tiles of 4x4 pixels that overlap by two, tiles and kernel are transformed, their products
summed over the channels by one matrix product for each of the 16 places in a tile, and each result
transformed to 2x2 pixels. Sums and halves are all the transforms need, so that float32 loses about
a digit at most.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.ops.barriers import after

_Matrix = tuple[tuple[float, ...], ...]
_INPUT: _Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL: _Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT: _Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))
_PLACES = 4  # of a tile, in each direction


def tiles(shape: Sequence[int]) -> int:
    """Returns into how many tiles images [b, h, w, c] are cut."""
    batch, height, width, _ = shape
    return batch * -(-height // 2) * -(-width // 2)


def winograd_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves, padded by one pixel on every side.

    Args:
        x: Images, [b, h, w, c].
        kernel: Filters, [3, 3, c, features].

    Returns:
        [b, h, w, features].
    """
    batch, height, width, _ = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    products = _of_tiles(x) @ _of_kernel(kernel)
    products = products.reshape(_PLACES, _PLACES, batch, rows, columns, -1)
    upper, lower = (_combined(_OUTPUT, row) for row in _combined(_OUTPUT, products))
    y = jnp.stack([jnp.stack(upper, 3), jnp.stack(lower, 3)], 2)
    return y.reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def winograd_input_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the gradient by the images [b, h, w, c], from that by the output."""
    return winograd_conv(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))


def winograd_kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns the gradient by the kernel [3, 3, c, features].

    Args:
        x: Images, [b, h, w, c].
        gradient: Gradient by the output, [b, h, w, features].
    """
    to_places, to_taps = (tuple(zip(*m, strict=True)) for m in (_OUTPUT, _KERNEL))
    rows = jnp.stack(_combined(to_places, _phases(_even(gradient), 1)))
    places = jnp.stack(_combined(to_places, _phases(rows, 3)), 1)
    to_products = places.reshape(_PLACES**2, -1, gradient.shape[-1])
    to_kernel = _of_tiles(after(gradient, x, "cpu")).swapaxes(1, 2) @ to_products
    to_kernel = to_kernel.reshape(_PLACES, _PLACES, *to_kernel.shape[1:])
    return jnp.stack([jnp.stack(_combined(to_taps, row)) for row in _combined(to_taps, to_kernel)])


def _of_tiles(x):
    """Returns the transformed tiles, [16, tiles, c]."""
    padded = jnp.pad(_even(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = _one_pass(jnp.stack(_combined(_INPUT, _overlapping(padded, 1))))
    places = jnp.stack(_combined(_INPUT, _overlapping(rows, 3)), 1)
    return places.reshape(_PLACES**2, -1, x.shape[-1])


def _of_kernel(kernel):
    """Returns the transformed kernel, [16, c, features]."""
    rows = _one_pass(jnp.stack(_combined(_KERNEL, kernel)))
    places = jnp.stack(_combined(_KERNEL, rows.swapaxes(0, 1)), 1)
    return places.reshape(_PLACES**2, *kernel.shape[2:])


def _one_pass(x):
    # Else XLA computes what a row has in common anew for each of its four places.
    return lax.optimization_barrier(x)


def _even(x):
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))


def _overlapping(x, axis):
    """Returns the four places of tiles that begin at every second pixel and overlap by two."""
    size = x.shape[axis]
    return [lax.slice_in_dim(x, i, size - _PLACES + 1 + i, 2, axis) for i in range(_PLACES)]


def _phases(x, axis):
    return [lax.slice_in_dim(x, i, None, 2, axis) for i in range(2)]


def _combined(matrix, parts):
    """Multiplies a matrix by a vector of arrays."""
    return [_sum_of(factors, parts) for factors in matrix]


def _sum_of(factors, parts):
    terms = [
        part if factor == 1 else lax.neg(part) if factor == -1 else part * factor
        for factor, part in zip(factors, parts, strict=True)
        if factor
    ]
    return functools.reduce(lax.add, terms)
