"""State dicts of the PyTorch implementations, both directions: names here, tensors transposed here.

The names are tables that stand with the backbones and heads; PyTorch need not be installed.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, overload

import jax
import numpy as np
from flax import traverse_util

from mobilevit_jax.convert import infer_model as _inference
from mobilevit_jax.convert import layouts as _layouts
from mobilevit_jax.convert.names import Layout
from mobilevit_jax.convert.native import flatten_checked
from mobilevit_jax.convert.tensors import Gathered, Report, as_array, gather, misfit
from mobilevit_jax.errors import ConfigurationError, DataError, unknown_name
from mobilevit_jax.models.initial import initialise
from mobilevit_jax.models.model import Model
from mobilevit_jax.models.registry import family_of, kind_of, options_of
from mobilevit_jax.models.variables import Path, Shape, variable_shapes

__all__ = [
    "LAYOUTS",
    "Report",
    "detect_layout",
    "load_state_dict",
    "to_state_dict",
]

LAYOUTS: tuple[str, ...] = _layouts.LAYOUTS

Tree = dict[str, Any]

# Options that decide which tensors a model has.
_SHAPING = (
    *("num_classes", "fusion", "kernel_size", "stem", "aspp_features", "aux_head", "aux_width"),
    *("head_width", "depthwise"),
)


def detect_layout(names: Iterable[str]) -> str:
    """Returns which of `LAYOUTS` the names of a state dict are in.

    Args:
        names: The names; prefixes of wrappers ("module.") must be gone.

    Raises:
        DataError: If they are those of another network.
    """
    return _layouts.detect(names)[0].name


@overload
def load_state_dict(
    model: Model,
    state_dict: Mapping[str, Any],
    *,
    strict: Literal[True] = True,
    allow_half: bool = False,
) -> Tree: ...


@overload
def load_state_dict(
    model: Model,
    state_dict: Mapping[str, Any],
    *,
    strict: Literal[False],
    allow_half: bool = False,
) -> tuple[Tree, Report]: ...


def load_state_dict(
    model: Model,
    state_dict: Mapping[str, Any],
    *,
    strict: bool = True,
    allow_half: bool = False,
) -> Tree | tuple[Tree, Report]:
    """Turns a PyTorch state dict into variables for `model.apply`.

    Args:
        model: The model that the tensors are for.
        state_dict: {name: tensor} in PyTorch layout (OIHW, [out, in]) and in the naming of CVNets,
            Hugging Face, torchvision or timm, which is detected; DeepLabv3 also in that of later
            CVNets. Arrays of NumPy, JAX or PyTorch; a mapping that reads them when asked is asked
            once for each.
        strict: Whether a tensor that does not fit is an error. If not, what is missing or of
            another shape is initialised as by `model.init(jax.random.key(0), ...)`; so a detector
            takes the backbone of a classifier's tensors.
        allow_half: Whether float16 and bfloat16 tensors are widened, which is exact.

    Returns:
        {"params": ..., "batch_stats": ...}, NumPy arrays in float32 (float64 is rounded) that may
        be views of the input: copy them if that is going to change. With `strict=False`, that and
        a `Report`.

    Raises:
        DataError: If the naming is unknown, or that of another backbone or of an implementation
            without such models; if, with `strict`, a tensor is missing, left over or of another
            shape; if one has half precision (unless allowed), is not of floating point, or is not
            finite. All are listed.
        ConfigurationError: If the layout's names cannot tell the model's tensors apart.
    """
    found, prefix = _layouts.detect(state_dict)
    family = family_of(model)
    if family not in (found.family, None):
        raise DataError(
            f"the tensors are those of a {found.kind} in the naming of {found.title}, and the "
            f"model is a {kind_of(model)}; create the one that they are of, or take other weights"
        )
    table = found if found.kind == kind_of(model) else _layouts.table_of(found.name, model)
    if table is None:
        raise DataError(
            f"the tensors are those of a {found.kind} in the naming of {found.title}, which has no "
            f"{kind_of(model)}"
        )
    entries = _entries(model, table, prefix)
    wanted = {name: entry.shape for entry in entries.values() for name in entry.names}
    gathered = gather(wanted, state_dict, allow_half=allow_half)
    if strict and gathered.report:
        raise misfit(gathered, wanted, _hint(model, gathered, state_dict))
    gathered.check_numbers()
    variables = traverse_util.unflatten_dict(_assemble(model, entries, gathered.tensors))
    return variables if strict else (variables, gathered.report)


def to_state_dict(
    model: Model, variables: Mapping[str, Any], layout: str = "huggingface"
) -> dict[str, np.ndarray]:
    """Turns variables into a PyTorch state dict of NumPy arrays.

    Args:
        model: The model that the variables are of.
        variables: {"params": ..., "batch_stats": ...}.
        layout: One of `LAYOUTS`; "cvnets" has the names of v0.1, or of the version that the
            backbone came with.

    Returns:
        {name: array}, float32, contiguous, in PyTorch layout, with `num_batches_tracked` as int64
        0. Without a classifier (`num_classes=0`), its names are left out.

    Raises:
        ConfigurationError: If the layout is unknown, or its names cannot express the model.
        DataError: If the variables do not fit the model, or are not finite.
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    table = _layouts.table_of(layout, model)
    if table is None:
        raise ConfigurationError(f"the layout {layout!r} has no names for a {kind_of(model)}")
    if refused := table.cannot_express(model):
        raise ConfigurationError(
            f"the layout {layout!r} ({table.title}) cannot express {', '.join(refused)}"
        )
    flat = flatten_checked(model, variables)
    state_dict: dict[str, np.ndarray] = {}
    for path, (names, _) in _entries(model, table, table.prefixes[0]).items():
        for name, part in zip(names, np.split(_to_torch(flat[path]), len(names)), strict=True):
            state_dict[name] = np.ascontiguousarray(part)
        if path[-1] == "var":
            counter = names[0].removesuffix("running_var") + "num_batches_tracked"
            state_dict[counter] = np.zeros((), np.int64)
    return state_dict


class _Entry(NamedTuple):
    """Where one of our tensors is in a state dict.

    Attributes:
        names: The tensors that it is made of, along the outputs.
        shape: The shape of each of them.
    """

    names: tuple[str, ...]
    shape: Shape


def _entries(model: Model, layout: Layout, prefix: str) -> dict[Path, _Entry]:
    if refused := layout.cannot_name(model):
        raise ConfigurationError(f"the layout {layout.name!r} cannot express {', '.join(refused)}")
    entries = {}
    for path, ours in variable_shapes(model).items():
        names = layout.name_path(path[1:], model.backbone, prefix)
        outputs, *rest = _torch_shape(ours)
        entries[path] = _Entry(names, (outputs // len(names), *rest))
    return entries


def _assemble(
    model: Model, entries: Mapping[Path, _Entry], tensors: dict[str, np.ndarray]
) -> dict[Path, np.ndarray]:
    """Joins tensors to ours, those that are not there freshly initialised.

    `tensors` is emptied on the way, so that what is joined is not held twice.
    """
    lacking = [p for p, entry in entries.items() if not all(n in tensors for n in entry.names)]
    fresh = initialise(model, jax.random.key(0), lacking)
    loaded = {}
    for path, (names, _) in entries.items():
        if path in fresh:
            parts = np.split(_to_torch(fresh[path]), len(names))
            parts = [tensors.pop(name, part) for name, part in zip(names, parts, strict=True)]
        else:
            parts = [tensors.pop(name) for name in names]
        loaded[path] = _from_torch(parts[0] if len(parts) == 1 else np.concatenate(parts))
    return loaded


def _hint(model: Model, gathered: Gathered, state_dict: Mapping[str, Any]) -> str:
    """Says which options of the model would fit the tensors, if that can be told."""
    missing = gathered.report.missing
    if missing and all(name.endswith(("running_mean", "running_var")) for name in missing):
        return "they are without the norms' running statistics: save the state_dict() of the model"
    left_over = {name: as_array(state_dict[name])[0].shape for name in gathered.report.unexpected}
    try:
        found = _inference.recognise(gathered.shapes | left_over)
    except DataError:
        return ""
    options = []
    family, theirs = family_of(model), options_of(found.model)
    ours = options_of(model)
    size = found.name or "the tensors, which is none of the published"
    if found.kind != kind_of(model):
        options.append(f"the kind and size of {found.name or found.kind}")
    elif family and not family.same_tensors(theirs["variant"], ours["variant"]):
        options.append(f"the size of {size}")
    options += [
        f"{option}={theirs[option]}"
        for option in _SHAPING
        if option in theirs and theirs[option] != ours.get(option)
    ]
    return f"they would fit a model with {', '.join(options)}" if options else ""


def _torch_shape(shape: Shape) -> Shape:
    """HWIO to OIHW, [in, out] to [out, in]; biases and norms as they are."""
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _from_torch(array: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, [out, in] to [in, out]."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_torch(array: np.ndarray) -> np.ndarray:
    """HWIO to OIHW, [in, out] to [out, in]."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
