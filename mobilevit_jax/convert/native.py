"""This package's own arrays under flat names: "params/backbone/conv_1/conv/kernel", JAX layout."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from flax import traverse_util

from mobilevit_jax.convert.tensors import gather, listed, misfit
from mobilevit_jax.errors import DataError
from mobilevit_jax.models.variables import Path, variable_shapes

Tree = dict[str, Any]


def to_native(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turns variables into flat, contiguous float32 arrays.

    Args:
        variables: {"params": ..., "batch_stats": ...}.
    """
    flat: dict[str, Any] = traverse_util.flatten_dict(variables, sep="/")
    return {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in flat.items()}


def from_native(model: nn.Module, tensors: Mapping[str, Any], *, allow_half: bool = False) -> Tree:
    """Turns what `to_native` gave back into variables.

    Args:
        model: The model that they are for.
        tensors: {"params/...": array, "batch_stats/...": array}; float32, which is not copied.
        allow_half: Whether float16 and bfloat16 tensors are widened, which is exact.

    Raises:
        DataError: If a tensor is missing, left over, of another shape or type, or not finite; half
            precision is another type unless allowed.
    """
    wanted = {"/".join(path): shape for path, shape in variable_shapes(model).items()}
    gathered = gather(wanted, tensors, allow_half=allow_half)
    if gathered.report:
        raise misfit(gathered, wanted)
    gathered.check_numbers()
    return traverse_util.unflatten_dict(gathered.tensors, sep="/")


def flatten_checked(model: nn.Module, variables: Mapping[str, Any]) -> dict[Path, np.ndarray]:
    """Returns {path: float32 array} of variables that are exactly the model's.

    Raises:
        DataError: If one is missing, left over, of another shape or not finite: what is written
            has to be readable again.
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
    with np.errstate(over="ignore"):  # beyond float32 it becomes infinite, which is found
        arrays = {path: np.asarray(flat[path], np.float32) for path in shapes}
    broken = ["/".join(path) for path, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise DataError(
            f"NaN or infinite values in {listed(broken)}; such variables are of no use, so take "
            "them from before the training diverged"
        )
    return arrays
