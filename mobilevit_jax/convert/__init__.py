"""State dicts of the PyTorch implementations, both directions: names here, tensors transposed here.

CVNets v0.1 naming so far.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from mobilevit_jax.convert import cvnets
from mobilevit_jax.errors import DataError

Tree = dict[str, Any]


def load_state_dict(model: nn.Module, state_dict: Mapping[str, Any]) -> Tree:
    """Turns a PyTorch state dict into variables for `model.apply`.

    Args:
        model: The model that the tensors are for.
        state_dict: {name: array} in CVNets v0.1 naming, PyTorch layout (OIHW, [out, in]).

    Returns:
        {"params": ..., "batch_stats": ...}, float32.

    Raises:
        DataError: If a tensor is missing, left over or of another shape; all are listed.
    """
    left = {name for name in state_dict if not name.endswith("num_batches_tracked")}
    missing, misshapen, loaded = [], [], {}
    for path, (name, shape) in _entries(model).items():
        if name not in left:
            missing.append(name)
            continue
        left.remove(name)
        array = _from_torch(np.asarray(state_dict[name], np.float32), path)
        if array.shape != shape:
            misshapen.append(f"{name} {array.shape} instead of {shape}")
        loaded[path] = array
    problems = {"missing": missing, "unexpected": sorted(left), "of another shape": misshapen}
    if any(problems.values()):
        lists = "; ".join(
            f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names
        )
        raise DataError(f"the state dict does not fit the model; {lists}")
    return traverse_util.unflatten_dict(loaded)


def to_state_dict(model: nn.Module, variables: Tree, layout: str = "cvnets") -> dict[str, Any]:
    """Turns variables into a PyTorch state dict of numpy arrays.

    Args:
        model: The model that the variables are of.
        variables: {"params": ..., "batch_stats": ...}.
        layout: Naming; "cvnets" (v0.1).

    Returns:
        {name: array} in PyTorch layout, with `num_batches_tracked` as int64 0.

    Raises:
        ValueError: If the layout is unknown.
    """
    if layout != "cvnets":
        raise ValueError(f"unknown layout {layout!r}; known: 'cvnets'")
    flat = traverse_util.flatten_dict(variables)
    state_dict: dict[str, Any] = {}
    for path, (name, _) in _entries(model).items():
        state_dict[name] = _to_torch(np.asarray(flat[path]), path)
        if name.endswith("running_var"):
            counter = name.replace("running_var", "num_batches_tracked")
            state_dict[counter] = np.zeros((), np.int64)
    return state_dict


def _entries(model: Any) -> dict[tuple[str, ...], tuple[str, tuple[int, ...]]]:
    """Returns {our path: (CVNets name, our shape)} for every tensor of the model."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    variables: Any = jax.eval_shape(model.init, jax.random.key(0), image)
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables)
    depths = {f"layer_{3 + i}": depth for i, depth in enumerate(model.variant.depths)}
    return {
        path: (
            cvnets.name_of(path[1:], depths=depths, kernel_size=model.kernel_size),
            leaf.shape,
        )
        for path, leaf in flat.items()
    }


def _from_torch(array: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    """OIHW to HWIO, [out, in] to [in, out]."""
    if path[-1] != "kernel":
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_torch(array: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    """HWIO to OIHW, [in, out] to [out, in]."""
    if path[-1] != "kernel":
        return array
    array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return np.ascontiguousarray(array)
