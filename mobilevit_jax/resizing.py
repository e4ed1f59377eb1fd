"""The arithmetic of resizing and padding images, for `processing`; NumPy alone."""

import math

import numpy as np


def on_whole_pixels(source: int, resized: int, start: int, stop: int) -> tuple[int, int]:
    """Widens a range of a resized axis until its ends fall between two pixels of the source.

    Pillow keeps the ends of a box in single precision, which for others shifts what it weighs.
    """
    step = resized // math.gcd(source, resized)
    return start // step * step, min(-(-stop // step) * step, resized)


def interpolation(
    source: int, resized: int, start: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns lower index, upper index and weight of the upper for bilinear resizing of an axis.

    Pixel centres are at half positions, and nothing lies beyond the border, as in OpenCV.
    """
    positions = (np.arange(start, start + count) + 0.5) * (source / resized) - 0.5
    positions = np.clip(positions, 0, source - 1)
    lower = positions.astype(np.int64)
    return lower, np.minimum(lower + 1, source - 1), (positions - lower).astype(np.float32)


def interpolate(image: np.ndarray, rows, columns) -> np.ndarray:
    """Returns uint8 [rows, columns, 3] interpolated between pixels of the image."""
    above, below, down = rows
    left, right, across = columns
    down, across = down[:, None, None], across[None, :, None]

    def along(row: np.ndarray) -> np.ndarray:
        return image[np.ix_(row, left)] * (1 - across) + image[np.ix_(row, right)] * across

    return np.rint(along(above) * (1 - down) + along(below) * down).astype(np.uint8)


def fit_within(height: int, width: int, most_height: int, most_width: int) -> tuple[int, int]:
    """Returns the largest size in pixels of an image that keeps its aspect ratio and fits.

    In whole numbers, fractions of a pixel dropped, so that one side always fits exactly; no side
    is less than a pixel.
    """
    if most_height * width <= most_width * height:
        return most_height, max(1, width * most_height // height)
    return max(1, height * most_width // width), most_width


def pad_after(array: np.ndarray, height: int, width: int, value: int) -> np.ndarray:
    """Adds a value below and on the right; nothing to an array that is large enough."""
    missing = height - array.shape[0], width - array.shape[1]
    if missing == (0, 0):
        return array
    widths = ((0, missing[0]), (0, missing[1]), (0, 0))[: array.ndim]
    return np.pad(array, widths, constant_values=value)


def pad_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Centres an image in zeros; an odd number of them has one more above and on the left."""
    missing = height - image.shape[0], width - image.shape[1]
    if missing == (0, 0):
        return np.ascontiguousarray(image)
    before = (missing[0] + 1) // 2, (missing[1] + 1) // 2
    after = missing[0] - before[0], missing[1] - before[1]
    return np.pad(image, ((before[0], after[0]), (before[1], after[1]), (0, 0)))
