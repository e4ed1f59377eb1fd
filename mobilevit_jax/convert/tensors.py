"""Tensors of any library as float32 arrays, checked and compared with what is wanted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mobilevit_jax.convert.layouts import is_counter
from mobilevit_jax.errors import DataError

Shape = tuple[int, ...]
_FULL, _HALF = ("float32", "float64"), ("float16", "bfloat16")


@dataclass(frozen=True)
class Report:
    """What of a state dict did not fit the model; true if anything.

    Attributes:
        missing: Names that the model needs and the state dict lacks.
        unexpected: Names that the model has no place for.
        misshapen: Names whose tensors have another shape than the model's.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)


@dataclass
class Gathered:
    """The tensors that were wanted, and all that is wrong with the others.

    Attributes:
        tensors: Those of the right shape and type, float32; they may be views of the input.
        report: What was missing, left over or of another shape.
        shapes: Shapes of all tensors that were read.
        half: {name: type} of half-precision tensors that were not allowed.
        unusable: {name: type} of tensors that are not floating-point numbers.
        not_finite: Names of tensors with NaN or infinite values.
    """

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    report: Report = Report()
    shapes: dict[str, Shape] = field(default_factory=dict)
    half: dict[str, str] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    not_finite: list[str] = field(default_factory=list)

    def check_numbers(self) -> None:
        """Raises DataError if tensors are of a wrong type or not finite."""
        if self.unusable:
            raise DataError(
                f"tensors must be floating-point numbers; found {_typed(self.unusable)}"
            )
        if self.half:
            raise DataError(
                f"half-precision tensors would be widened to float32: {_typed(self.half)}; allow "
                "it with allow_half=True, --allow-half on the command line"
            )
        if self.not_finite:
            raise DataError(
                f"NaN or infinite values in {listed(self.not_finite)}; the weights are damaged, or "
                "their training diverged"
            )


def gather(
    wanted: Mapping[str, Shape], state_dict: Mapping[str, Any], *, allow_half: bool = False
) -> Gathered:
    """Takes the wanted tensors out of a state dict; each is read once.

    Args:
        wanted: {name: shape}, in the state dict's layout.
        state_dict: {name: anything that NumPy or PyTorch takes for an array}, perhaps lazy.
        allow_half: Whether float16 and bfloat16 are widened.
    """
    names = [name for name in state_dict if not is_counter(name)]
    found, misshapen = Gathered(), []
    for name, shape in wanted.items():
        if name not in state_dict:
            continue
        array, kind = as_array(state_dict[name])
        found.shapes[name] = array.shape
        if kind not in _FULL + _HALF:
            found.unusable[name] = kind
            continue
        if kind in _HALF and not allow_half:
            found.half[name] = kind
        elif not np.isfinite(array := _as_float32(array)).all():
            found.not_finite.append(name)
        if array.shape == shape:
            found.tensors[name] = array
        else:
            misshapen.append(name)
    found.report = Report(
        tuple(name for name in wanted if name not in found.shapes),
        tuple(sorted(name for name in names if name not in wanted)),
        tuple(misshapen),
    )
    return found


def as_array(value: Any) -> tuple[np.ndarray, str]:
    """Returns a tensor of any library as an array, and its type's name; no copy where possible.

    What is no array comes as an empty one, with the name of its class.
    """
    try:
        if hasattr(value, "detach"):  # PyTorch's; perhaps on an accelerator or with a gradient
            kind = str(value.dtype).removeprefix("torch.")
            value = value.detach().cpu()
            # NumPy has no bfloat16.
            return np.asarray(value.float() if kind == "bfloat16" else value), kind
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # sparse, quantised, ragged, ...
        return np.empty(0), type(value).__name__
    return array, type(value).__name__ if array.dtype == object else array.dtype.name


def misfit(gathered: Gathered, wanted: Mapping[str, Shape], hint: str = "") -> DataError:
    """Builds the error that lists what does not fit.

    Args:
        gathered: Of `gather`.
        wanted: As `gather` was given.
        hint: How to mend it, put at the end.
    """
    report = gathered.report
    shapes = (
        f"{name} {gathered.shapes[name]} instead of {wanted[name]}" for name in report.misshapen
    )
    kinds = {
        "missing": report.missing,
        "unexpected": report.unexpected,
        "of another shape": tuple(shapes),
    }
    lists = "; ".join(f"{kind}: {listed(names)}" for kind, names in kinds.items() if names)
    return DataError(f"the tensors do not fit the model; {lists}{hint and f'; {hint}'}")


def listed(names: Iterable[str], limit: int = 10) -> str:
    """Joins names, those after the first ten as a count."""
    names = list(names)
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _typed(kinds: Mapping[str, str]) -> str:
    return f"{', '.join(sorted(set(kinds.values())))} in {listed(kinds)}"


def _as_float32(array: np.ndarray) -> np.ndarray:
    """Widens exactly, or rounds float64; beyond float32 it becomes infinite, which is found."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)
