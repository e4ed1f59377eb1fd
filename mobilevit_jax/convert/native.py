"""This package's own arrays under flat names: "params/backbone/conv_1/conv/kernel", JAX layout."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from mobilevit_jax.convert.tensors import gather, listed, misfit
from mobilevit_jax.errors import DataError
from mobilevit_jax.models.backbone import BackboneModel
from mobilevit_jax.models.shapes import Path, variable_shapes

Tree = dict[str, Any]


def to_native(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turns variables into flat, contiguous float32 arrays.

    Args:
        variables: {"params": ..., "batch_stats": ...}.
    """
    flat: dict[str, Any] = traverse_util.flatten_dict(variables, sep="/")
    return {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in flat.items()}


def from_native(model: BackboneModel, tensors: Mapping[str, Any]) -> Tree:
    """Turns what `to_native` gave back into variables.

    Args:
        model: The model that they are for.
        tensors: {"params/...": array, "batch_stats/...": array}; float32, which is not copied.

    Raises:
        DataError: If a tensor is missing, left over, of another shape or type, or not finite.
    """
    wanted = {"/".join(path): shape for path, shape in variable_shapes(model).items()}
    gathered = gather(wanted, tensors)
    if gathered.report:
        raise misfit(gathered, wanted)
    gathered.check_numbers()
    return traverse_util.unflatten_dict(gathered.tensors, sep="/")


def flatten_checked(model: BackboneModel, variables: Mapping[str, Any]) -> dict[Path, np.ndarray]:
    """Returns {path: array} of variables that are exactly the model's.

    Raises:
        DataError: If one is missing, left over or of another shape.
    """
    shapes = variable_shapes(model)
    flat: dict[Path, Any] = traverse_util.flatten_dict(variables)
    problems = {
        "missing": [path for path in shapes if path not in flat],
        "unexpected": [path for path in flat if path not in shapes],
        "of another shape than the model's": [
            path for path in shapes if path in flat and np.shape(flat[path]) != shapes[path]
        ],
    }
    if any(problems.values()):
        lists = "; ".join(
            f"{kind}: {listed(map('/'.join, paths))}" for kind, paths in problems.items() if paths
        )
        raise DataError(f"the variables do not fit the model; {lists}")
    return {path: np.asarray(flat[path], np.float32) for path in shapes}
