"""Full k x k convolution in the form that is fast on each platform.

On a CPU, a 3x3 convolution is Winograd's (`ops/winograd.py`), with its gradients, unless there are
so few tiles that transforming the kernel costs more than it saves. What Winograd's does not suit
has the kernel's gradient as k * k matrix products there: XLA's is a convolution with a window as
large as the image, and slower. Accelerators keep XLA's own.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.ops.dispatch import by_platform, current_form
from mobilevit_jax.ops.winograd import (
    tiles,
    winograd_conv,
    winograd_input_gradient,
    winograd_kernel_gradient,
)

# With 64, Winograd's forward pass was measured 1.3 times as fast from 128 to 64 channels, and 0.9
# times from 256 to 128; with 256, faster for every width tried.
_FEWEST_TILES = 64


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolves, padded by (k - 1) / 2 * dilation on every side.

    Args:
        x: Images, [b, h, w, c].
        kernel: Filters, [k, k, c, features], k odd.
        stride: Step of the output in pixels.
        dilation: Distance of neighbouring taps in pixels.

    Returns:
        [b, ceil(h / stride), ceil(w / stride), features], in the type of `x`.
    """
    if stride > 1:  # only the first layer, whose three channels make small matrices
        return plain_conv(x, kernel, stride, dilation)
    return _conv(x, kernel, dilation, current_form())


def plain_conv(x, kernel, stride, dilation):
    """XLA's own convolution, in groups where the kernel has fewer channels than the images."""
    pad = kernel.shape[0] // 2 * dilation
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def pad_edges(x, kernel, dilation):
    """Surrounds images with as many zeros as the kernel reaches beyond them."""
    pad = kernel.shape[0] // 2 * dilation
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))


def taps(padded, size, height, width, stride, dilation):
    """Yields (row, column, view of `padded` that this tap of the kernel sees)."""
    for row in range(size):
        for column in range(size):
            top, left = row * dilation, column * dilation
            bottom, right = top + (height - 1) * stride + 1, left + (width - 1) * stride + 1
            yield row, column, padded[..., top:bottom:stride, left:right:stride, :]


def _suits_winograd(x, kernel, dilation):
    return (
        kernel.shape[:2] == (3, 3)
        and dilation == 1
        and x.dtype == jnp.float32  # whose digits suffice for the transforms
        and tiles(x.shape) >= _FEWEST_TILES
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, dilation, form):
    def plain(x, kernel):
        return plain_conv(x, kernel, 1, dilation)

    cpu = winograd_conv if _suits_winograd(x, kernel, dilation) else plain
    return by_platform(form, cpu, plain, x, kernel)


def _forward(x, kernel, dilation, form):
    return _conv(x, kernel, dilation, form), (x, kernel)


def _backward(dilation, form, residuals, gradient):
    def plain(x, kernel, gradient):
        return jax.vjp(lambda x, k: plain_conv(x, k, 1, dilation), x, kernel)[1](gradient)

    def products(x, kernel, gradient):
        (to_x,) = jax.vjp(lambda x: plain_conv(x, kernel, 1, dilation), x)[1](gradient)
        return to_x, _kernel_gradient(x, gradient, kernel, dilation)

    def winograd(x, kernel, gradient):
        to_x = winograd_input_gradient(gradient, kernel)
        return to_x, winograd_kernel_gradient(x, gradient)

    cpu = winograd if _suits_winograd(residuals[0], residuals[1], dilation) else products
    return by_platform(form, cpu, plain, *residuals, gradient)


_conv.defvjp(_forward, _backward)


def _kernel_gradient(x, gradient, kernel, dilation):
    """Multiplies what each tap sees by the output's gradient, all pixels in one product."""
    rows, (height, width) = gradient.reshape(-1, gradient.shape[-1]), x.shape[1:3]
    views = taps(pad_edges(x, kernel, dilation), kernel.shape[0], height, width, 1, dilation)
    products = [view.reshape(-1, x.shape[-1]).T @ rows for _, _, view in views]
    return jnp.stack(products).reshape(kernel.shape)
