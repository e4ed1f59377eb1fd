"""Reads YOLO's label files: a line for each object, its class and its box or outline.

A box is `class x y width height`, with x and y of its centre; an outline, as of segmentation, is
`class x1 y1 x2 y2 x3 y3 ...`, and counts as the box around it. Coordinates are shares of the
image's width and height.
"""

import math
from collections import Counter
from pathlib import Path

import numpy as np

from mobilevit_jax.base.texts import read_lines, to_number
from mobilevit_jax.data.builders.coco import CLIPPED, OBJECT
from mobilevit_jax.errors import DataError, shortened

OUTLINES = "outlines of objects taken as the boxes around them"
_FORMS = "class x y width height, or class and three or more points x y of an outline"
# Rounding may pass 0 and 1 by less: no more than that is a box in pixels, or of another kind.
_SLACK = 0.01
# About a pixel: less than that beyond the edge is rounding.
_TOLERANCE = 0.002

Box = tuple[float, float, float, float]


def read_labels(path: Path, classes: int, notes: Counter[str]) -> np.ndarray:
    """Reads a label file.

    Args:
        path: The file.
        classes: How many classes there are.
        notes: How many boxes were cut off at the edge, and outlines taken for boxes; is added to.

    Returns:
        `coco.OBJECT` [n], with ids of 0, and with areas as shares of the image.

    Raises:
        DataError: If a line is not as it must be; file and line are named.
    """
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        label, *coordinates = _numbers(line, where)
        if not label.is_integer() or not 0 <= label < classes:
            raise DataError(
                f"{where}: there is no class {label:g}; the {classes} classes are 0 to "
                f"{classes - 1}"
            )
        box = _clip(_corners(coordinates, where, notes), where, notes)
        area = (box[2] - box[0]) * (box[3] - box[1])
        rows.append((0, area, box, int(label), False))
    return np.array(rows, OBJECT)


def _numbers(line: str, where: str) -> list[float]:
    """Returns class and coordinates, finite, of a number that there may be."""
    columns = line.split()
    if len(columns) != 5 and (len(columns) < 7 or len(columns) % 2 == 0):
        raise DataError(f"{where} has {len(columns)} columns; a line is {_FORMS}")
    try:
        numbers = [to_number(column) for column in columns]
    except ValueError as error:
        raise DataError(f"{where}: {shortened(error, 80)}; a line is {_FORMS}") from error
    if not all(map(math.isfinite, numbers)):
        raise DataError(f"{where} has a number that is not finite: {shortened(line, 80)}")
    return numbers


def _corners(coordinates: list[float], where: str, notes: Counter[str]) -> Box:
    """Returns (ymin, xmin, ymax, xmax) of a box or an outline, which may pass the edge."""
    for value in coordinates:
        if not -_SLACK <= value <= 1 + _SLACK:
            raise DataError(
                f"{where}: {value:g} is not from 0 to 1; coordinates are shares of the image's "
                "width and height, not pixels"
            )
    if len(coordinates) > 4:
        notes[OUTLINES] += 1
        xs, ys = coordinates[::2], coordinates[1::2]
        return min(ys), min(xs), max(ys), max(xs)
    x, y, width, height = coordinates
    return y - height / 2, x - width / 2, y + height / 2, x + width / 2


def _clip(corners: Box, where: str, notes: Counter[str]) -> Box:
    # As float32 stores them: a sliver may end where it begins.
    box = np.clip(np.array(corners, np.float32), 0, 1).tolist()
    if box[2] <= box[0] or box[3] <= box[1]:
        raise DataError(f"{where}: the box has no area within the image; correct it or take it out")
    beyond = max(abs(stored - given) for stored, given in zip(box, corners, strict=True))
    notes[CLIPPED] += beyond > _TOLERANCE
    return box[0], box[1], box[2], box[3]
