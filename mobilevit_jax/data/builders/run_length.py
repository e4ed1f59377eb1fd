"""COCO's run-length codes of masks: lengths of zeros and ones by turns, down the columns.

They are lists of numbers, or text: a number is characters of five bits each, the lowest first, and
of a sixth that says whether another follows; from the fourth number on it is the difference to the
one two before (`rleToString` of COCO's maskApi.c). That library trusts a text: from one that ends
early it makes a mask of whatever was in the memory.
"""

import math
from typing import Any

import numpy as np

from mobilevit_jax.errors import DataError

_FIRST = ord("0")
_BITS, _MORE, _SIGN = 5, 1 << 5, 1 << 4
_MOST_DIGITS = 7  # a number has 32 bits and a sign


def read_runs(counts: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Returns int64 [n]: the lengths of the runs, checked.

    Args:
        counts: A list, or a text as pycocotools writes it.
        size: Height and width of the image.
        where: What has the code, for the message.

    Raises:
        DataError: If it is no such code, or does not fill the image to its last pixel.
    """
    runs = _from_text(counts) if isinstance(counts, str) else _from_list(counts)
    if runs is None or (runs < 0).any():
        raise DataError(
            f"{where} has a damaged run-length code: counts must be a list of whole numbers, or "
            "text as pycocotools writes it"
        )
    total, pixels = sum(runs.tolist()), math.prod(size)
    if total != pixels:
        raise DataError(
            f"{where} has a run-length code that does not fill its image: {total} pixels instead "
            f"of {size[0]} x {size[1]} = {pixels}"
        )
    return runs


def draw_runs(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns bool [h, w], of runs from `read_runs`."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def _from_list(counts: Any) -> np.ndarray | None:
    try:
        # NumPy would take True for 1 among numbers.
        fit = isinstance(counts, list) and not any(isinstance(n, bool) for n in counts)
        numbers = np.array(counts if fit else None)
    except (ValueError, OverflowError):  # lists of several lengths
        return None
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        return None
    if not ((numbers == np.floor(numbers)) & (np.abs(numbers) < 2**53)).all():
        return None
    return numbers.astype(np.int64)


def _from_text(counts: str) -> np.ndarray | None:
    values = np.frombuffer(counts.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64)
    values -= _FIRST
    if not values.size or values.min() < 0 or values.max() >= 2 * _MORE or values[-1] & _MORE:
        return None
    ends = np.flatnonzero(values & _MORE == 0)
    starts = np.append(0, ends[:-1] + 1)
    digits = ends - starts + 1
    if digits.max() > _MOST_DIGITS:
        return None
    places = np.arange(len(values)) - np.repeat(starts, digits)
    runs = np.add.reduceat((values & (_MORE - 1)) << _BITS * places, starts)
    runs -= np.where(values[ends] & _SIGN, 1 << _BITS * digits, 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
