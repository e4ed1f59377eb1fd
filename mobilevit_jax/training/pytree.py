"""A pytree as {path of strings: leaf}, the form in which states are saved and compared."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import serialization, traverse_util

LeafPath = tuple[str, ...]


def leaves(tree: Any) -> dict[LeafPath, Any]:
    """Flattens a pytree to {path of strings: leaf}, without None and empty parts."""
    flat = traverse_util.flatten_dict(serialization.to_state_dict(tree))
    return {path: leaf for path, leaf in flat.items() if leaf is not None}


def params_first(paths: Iterable[LeafPath]) -> list[LeafPath]:
    """Sorts paths, parameters before the statistics and moments that differ because they do."""
    return sorted(paths, key=lambda path: (path[0] != "params", path))


def fill(tree: Any, values: Mapping[LeafPath, Any]) -> Any:
    """Returns the pytree with its leaves replaced by those of their path."""
    flat = traverse_util.flatten_dict(serialization.to_state_dict(tree), keep_empty_nodes=True)
    filled = {path: values.get(path, leaf) for path, leaf in flat.items()}
    return serialization.from_state_dict(tree, traverse_util.unflatten_dict(filled))


def to_host(values: Mapping[LeafPath, Any]) -> dict[LeafPath, np.ndarray]:
    """Copies arrays to the host; the state may be donated to the next step right after."""
    for leaf in values.values():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    return {path: np.array(_local(leaf)) for path, leaf in values.items()}


def _local(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if not leaf.is_fully_replicated:
            raise ValueError("only replicated arrays can be saved when there are several hosts")
        return leaf.addressable_data(0)
    return leaf


def place(value: np.ndarray, like: Any) -> Any:
    """Puts an array on the devices of another leaf, if that has a sharding."""
    sharding = getattr(like, "sharding", None)
    return value if sharding is None else jax.device_put(value, sharding)


def describe(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of an array or a number, without a sharding."""
    kind = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return jax.ShapeDtypeStruct(np.shape(leaf), kind)


def show(leaf: Any) -> str:
    """Returns the shape and dtype of a leaf as text, such as `float32[3, 3, 16, 32]`."""
    abstract = describe(leaf)
    return f"{abstract.dtype}{list(abstract.shape)}"
