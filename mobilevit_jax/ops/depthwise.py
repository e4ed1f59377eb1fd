"""Depthwise convolution in the form that is fast on each platform.

XLA's grouped convolution is several times slower than PyTorch's on a CPU, so there a k x k
depthwise convolution is k*k shifted multiply-adds, and its weight gradient a scan over the batch
that keeps one image in cache, and sums it by tiles. Norm and activation before it can be computed
on the way, for memory: their result is as large as anything that training keeps. Accelerators keep
the plain convolution. The form is chosen when the computation is lowered for its platform, so an
exported program holds the right one for each.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.ops.barriers import after
from mobilevit_jax.ops.convolution import pad_edges, plain_conv, taps
from mobilevit_jax.ops.dispatch import by_platform, current_form
from mobilevit_jax.ops.recompute import pull_back

_TILE = 4  # pixels a side: smaller tiles write more sums, larger ones were not faster


def depthwise_conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    dilation: int = 1,
    before: Callable[..., jax.Array] | None = None,
    operands: tuple[jax.Array, ...] = (),
) -> jax.Array:
    """Convolves every channel with its own k x k filter, padded by (k - 1) / 2 * dilation.

    Args:
        x: Images, [b, h, w, c].
        kernel: Filters, [k, k, 1, c], k odd.
        stride: Step of the output in pixels.
        dilation: Distance of neighbouring taps in pixels.
        before: What happens to each element first, `before(x, *operands)` for any b, h and w. A
            CPU does not keep its result for the backward pass, which computes it again image by
            image.
        operands: Its other arguments, each [1, 1, 1, c].

    Returns:
        [b, ceil(h / stride), ceil(w / stride), c], in the type of the images that are convolved.
    """
    return _depthwise(x, operands, kernel, before, stride, dilation, current_form())


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _depthwise(x, operands, kernel, before, stride, dilation, form):
    return _forward(x, operands, kernel, before, stride, dilation, form)[0]


def _forward(x, operands, kernel, before, stride, dilation, form):
    seen = x if before is None else before(x, *operands)
    y = by_platform(
        form,
        lambda seen, kernel: _shifted(seen, kernel, stride, dilation),
        lambda seen, kernel: plain_conv(seen, kernel, stride, dilation),
        seen,
        kernel,
    )
    # A CPU needs no `seen` below, and XLA leaves out what nobody needs.
    return y, (x, operands, seen, kernel)


def _backward(before, stride, dilation, form, residuals, gradient):
    x, operands, seen, kernel = residuals

    def shifted(x, operands, seen, kernel, gradient):
        return (
            _shifted_input_gradient(seen, kernel, gradient, stride, dilation),
            _scanned_kernel_gradient(x, operands, kernel, gradient, before, stride, dilation),
        )

    def convolution(x, operands, seen, kernel, gradient):
        return jax.vjp(lambda x, k: plain_conv(x, k, stride, dilation), seen, kernel)[1](gradient)

    to_seen, to_kernel = by_platform(form, shifted, convolution, *residuals, gradient)
    if before is None:
        return to_seen, (), to_kernel
    to_x, *to_operands = pull_back(before, form, to_seen, after(to_seen, x, form), *operands)
    return to_x, tuple(to_operands), to_kernel


_depthwise.defvjp(_forward, _backward)


def _shifted(x, kernel, stride, dilation):
    height, width = (-(-n // stride) for n in x.shape[1:3])
    # The activation before it is in the same operation; XLA alone makes two of them, and slower.
    padded = lax.optimization_barrier(pad_edges(x, kernel, dilation))
    views = taps(padded, kernel.shape[0], height, width, stride, dilation)
    return sum(view * kernel[row : row + 1, column : column + 1] for row, column, view in views)


def _shifted_input_gradient(x, kernel, gradient, stride, dilation):
    """Adds up what each output pixel sends back through each tap.

    Rows and columns are taken by their place within a stride, since each place has its own taps;
    the outputs in between need not be filled up with zeros.
    """
    size, places = kernel.shape[0], range(stride)
    pad = size // 2 * dilation
    height, width = gradient.shape[1:3]
    padded = pad_edges(gradient, kernel, dilation)

    def through(place):  # the taps that reach this place, and how far away the outputs are
        taps = ((tap, place + pad - tap * dilation) for tap in range(size))
        return [(tap, pad + way // stride) for tap, way in taps if way % stride == 0]

    def at(row_place, column_place):
        views = (
            padded[:, top : top + height, left : left + width]
            * kernel[row : row + 1, column : column + 1]
            for row, top in through(row_place)
            for column, left in through(column_place)
        )
        return sum(views, jnp.zeros_like(gradient))

    rows = [_interleave([at(row, column) for column in places], 2) for row in places]
    return _interleave(rows, 1)[:, : x.shape[1], : x.shape[2]]


def _interleave(parts, axis):
    """Takes turns among arrays of one shape along an axis."""
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return jnp.stack(parts, axis + 1).reshape(shape)


def _scanned_kernel_gradient(x, operands, kernel, gradient, before, stride, dilation):
    """Adds up image by image what each tap sees times the output's gradient.

    Sums over tiles come first, all taps of a tile next to each other, so that its pixels are read
    from memory once; a sum over the whole image for each tap would read it anew.
    """
    size, places = kernel.shape[0], range(_TILE)
    tiles = [-(-n // _TILE) for n in gradient.shape[1:3]]
    needed = [(n * _TILE - 1) * stride + (size - 1) * dilation + 1 for n in tiles]
    of_image = _ends(x.shape[1:3], needed, size // 2 * dilation)
    of_gradient = _ends(gradient.shape[1:3], [n * _TILE for n in tiles], 0)

    def pixels(image, step):  # of each tile the one at a place; asked for again and again
        return functools.cache(lambda *place: _every(image, place, step, tiles))

    def add_image(total, image_and_gradient):
        image, image_gradient = image_and_gradient
        image = image if before is None else before(image[None], *operands)[0]
        image = lax.optimization_barrier(jnp.pad(image, of_image)).astype(jnp.float32)
        seen = pixels(image, _TILE * stride)
        sent = pixels(jnp.pad(image_gradient, of_gradient).astype(jnp.float32), _TILE)

        def tile_sums(tap_row, tap_column):
            top, left = tap_row * dilation, tap_column * dilation
            products = (
                lax.mul(seen(top + row * stride, left + column * stride), sent(row, column))
                for row in places
                for column in places
            )
            return functools.reduce(lax.add, products)

        sums = jnp.stack([tile_sums(i, j) for i in range(size) for j in range(size)], 2)
        return total + jnp.sum(lax.optimization_barrier(sums), (0, 1)), None

    zeros = jnp.zeros((size * size, x.shape[-1]), jnp.float32)
    total, _ = lax.scan(add_image, zeros, (x, gradient))
    return total.reshape(kernel.shape).astype(kernel.dtype)


def _ends(sizes, needed, before):
    """Returns the padding of [h, w, c] to at least so many rows and columns."""
    behind = (max(n - before - m, 0) for n, m in zip(needed, sizes, strict=True))
    return (*((before, n) for n in behind), (0, 0))


def _every(image, start, step, counts):
    """Returns of [h, w, c] so many rows and columns, the same step apart in both directions."""
    ends = (first + (count - 1) * step + 1 for first, count in zip(start, counts, strict=True))
    return lax.slice(image, (*start, 0), (*ends, image.shape[2]), (step, step, 1))
