"""Full k x k convolution whose gradients are fast on each platform.

On a CPU, XLA's gradient of the kernel is a convolution with a window as large as the image, slower
than k * k matrix products, so there it is those. Accelerators keep XLA's own.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.ops.forms import by_platform, current_form


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
        return _convolution(x, kernel, stride, dilation)
    return _conv(x, kernel, dilation, current_form())


def _convolution(x, kernel, stride, dilation):
    pad = kernel.shape[0] // 2 * dilation
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, dilation, form):
    return _convolution(x, kernel, 1, dilation)


def _forward(x, kernel, dilation, form):
    return _conv(x, kernel, dilation, form), (x, kernel)


def _backward(dilation, form, residuals, gradient):
    x, kernel = residuals
    (to_x,) = jax.vjp(lambda x: _convolution(x, kernel, 1, dilation), x)[1](gradient)

    def products(x, gradient):
        return _kernel_gradient(x, gradient, kernel, dilation)

    def convolution(x, gradient):
        return jax.vjp(lambda k: _convolution(x, k, 1, dilation), kernel)[1](gradient)[0]

    return to_x, by_platform(form, products, convolution, x, gradient)


_conv.defvjp(_forward, _backward)


def _kernel_gradient(x, gradient, kernel, dilation):
    """Multiplies what each tap sees by the output's gradient, all pixels in one product."""
    size = kernel.shape[0]
    pad = size // 2 * dilation
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = gradient.reshape(-1, gradient.shape[-1])
    taps = [
        padded[:, top : top + height, left : left + width].reshape(-1, x.shape[-1]).T @ rows
        for top in range(0, size * dilation, dilation)
        for left in range(0, size * dilation, dilation)
    ]
    return jnp.stack(taps).reshape(kernel.shape)
