"""Matrix product over the last axis, for 1x1 convolutions and linear layers."""

import jax


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies every position's channels by a matrix.

    All positions become one axis first. With several, as `einsum` or `nn.Dense` leave them, the
    kernel's gradient on a CPU works on a transposed copy of the output's gradient, into which XLA
    moves the activation's and the norm's backward pass: two to four times slower.

    Args:
        x: [..., c].
        kernel: [c, features].

    Returns:
        [..., features].
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])
