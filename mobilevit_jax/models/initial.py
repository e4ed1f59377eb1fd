"""Initial variables as `model.init` draws them, without tracing and compiling the model.

Compiling `init` takes seconds on a CPU, nearly all of them for kernels that differ in nothing but
their shapes. What a key of JAX's draws begins the same for any length, so here the kernels are
drawn as rows of a few arrays, longer than needed, and cut to their shapes.
"""

import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import flax.core.scope
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mobilevit_jax.models.variables import Path, variables_of

# Lengths of rows: few arrays, and at most three of four numbers for nothing.
_SHORTEST, _FACTOR = 1024, 4

# The kernel is the first variable that its module draws; flax counts them from 1.
_KERNEL = 1

_Draw = Callable[..., jax.Array]


def initialise(
    model: nn.Module, key: jax.Array, paths: Collection[Path] | None = None
) -> dict[Path, np.ndarray]:
    """Draws the variables that `model.init(key, ...)` does, up to rounding.

    Args:
        model: A model of `create_model`.
        key: `jax.random.key(seed)`; one of another kind than JAX's own (`impl="rbg"`) gives other
            values of the same distributions.
        paths: Of the variables asked for, such as ("params", "classifier", "kernel"); all if None.

    Returns:
        The variables by path, float32.
    """
    known = variables_of(model)
    wanted = known.shapes if paths is None else paths
    if known.foreign:  # layers of others draw as they will
        image = jnp.zeros((1, 32, 32, 3))
        drawn: Any = traverse_util.flatten_dict(jax.jit(model.init)(key, image))
        return {path: np.asarray(drawn[path]) for path in wanted}
    shapes = {path: known.shapes[path] for path in wanted}
    initializers = known.initializers
    kernels = [path for path in shapes if path[-1] == "kernel"]
    variables = {
        path: np.full(shape, known.constants[path], np.float32)
        for path, shape in shapes.items()
        if path not in initializers
    }
    groups: dict[tuple[_Draw, int], list[Path]] = {}
    for path in kernels:
        group = initializers[path].draw, _padded(math.prod(shapes[path]))
        groups.setdefault(group, []).append(path)
    keys = [_keys(key, group) for group in groups.values()]
    for group, rows in zip(groups.values(), _rows(tuple(groups), keys), strict=True):
        for path, row in zip(group, np.asarray(rows), strict=True):
            shape = shapes[path]
            scale = np.float32(initializers[path].scale(shape))
            variables[path] = scale * row[: math.prod(shape)].reshape(shape)
    return variables


def _padded(size: int) -> int:
    length = _SHORTEST
    while length < size:
        length *= _FACTOR
    return length


def _keys(key: jax.Array, paths: Sequence[Path]) -> jax.Array:
    """Returns the keys [n] that flax's modules draw their kernels by."""
    rng = flax.core.scope.LazyRng.create
    keys = [rng(key, *path[1:-1], _KERNEL).as_jax_rng() for path in paths]
    data = jnp.asarray(np.stack([jax.random.key_data(key) for key in keys]))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


@functools.partial(jax.jit, static_argnums=0)
def _rows(groups: tuple[tuple[_Draw, int], ...], keys: list[jax.Array]) -> list[jax.Array]:
    """Draws an array [n, length] for each group, from its keys [n]."""
    return [
        jax.vmap(lambda key, draw=draw, length=length: draw(key, (length,), jnp.float32))(of_group)
        for (draw, length), of_group in zip(groups, keys, strict=True)
    ]
