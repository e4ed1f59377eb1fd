"""Dropout whose random bits are computed where they are used.

`jax.random` draws by a loop of its own for every mask, which on a CPU takes longer than the masking
itself, and has to be compiled for every module. Dropout needs no cryptographic generator: here
every element's number is hashed with the key by the finaliser of MurmurHash3 (Appleby, 2008; public
domain), which is integer arithmetic that fuses with its surroundings on every platform, so that no
mask need be stored.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

_GOLDEN = 0x9E3779B9  # 2**32 over the golden ratio: far apart for neighbouring numbers


def dropout(
    x: jax.Array, rate: float, key: jax.Array, salt: int = 0, broadcast_axes: Sequence[int] = ()
) -> jax.Array:
    """Sets elements to 0 at random and scales the others so that the mean stays.

    Args:
        x: Any array of up to 2**32 elements.
        rate: Share that is dropped, in [0, 1); to 2**-32.
        key: A key of `jax.random`; the same one drops the same elements.
        salt: Any number of 32 bits; another one drops other elements by the same key.
        broadcast_axes: Axes along which all elements are kept or dropped together.

    Returns:
        An array of the shape and type of `x`.
    """
    if rate == 0:
        return x
    shape = [1 if axis in broadcast_axes else size for axis, size in enumerate(x.shape)]
    kept = _bits(key, salt, shape) < jnp.uint32(round((1 - rate) * 2**32))
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


def _bits(key: jax.Array, salt: int, shape: Sequence[int]) -> jax.Array:
    """Returns 32 random bits for each element of a shape, uint32."""
    words = jax.random.key_data(key).reshape(-1)
    first = _mixed(words[0] ^ jnp.uint32(salt))
    second = _mixed(words[-1] + first)
    number = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):  # one axis of all, reshaped, would fix their order in memory
        step = jnp.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        number += step * lax.broadcasted_iota(jnp.uint32, shape, axis)
    # Twice, since keys would else merely exchange elements with one another.
    return _mixed(_mixed(number * jnp.uint32(_GOLDEN) + first) ^ second)


def _mixed(x: jax.Array) -> jax.Array:
    """Makes each bit of a uint32 depend on all of them."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
