"""RandAugment (Cubuk et al. 2020) and random erasing (Zhong et al. 2020) of uint8 images.

Pure functions of an image and a random generator. The fourteen operations, their ranges and signs
are those of torchvision, which CVNets v0.2 applies to Pillow images: bilinear interpolation, black
where nothing was. Results are Pillow's within two levels of each channel, but that the outermost
pixels of what was turned or sheared are blended with the black.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import cv2
import numpy as np

from mobilevit_jax.data.decode import ChannelOrder

STRONGEST = 30  # of RandAugment's magnitudes, from 0 on: 31 of them

_LEVELS = np.arange(256)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
_TRIES = 10


class Operation(NamedTuple):
    """One of RandAugment's.

    Attributes:
        apply: Makes uint8 [h, w, 3] of (image, strength, channel order).
        strongest: The strength at the highest magnitude; it grows from 0 in proportion.
        signed: Whether the strength is turned round by chance.
    """

    apply: Callable[[np.ndarray, float, ChannelOrder], np.ndarray]
    strongest: float = 0.0
    signed: bool = False


def rand_augment(
    image: np.ndarray,
    rng: np.random.Generator,
    operations: int,
    magnitude: int,
    channel_order: ChannelOrder,
) -> np.ndarray:
    """Applies operations, drawn uniformly with replacement, one after another.

    Args:
        image: uint8 [h, w, 3]; not changed.
        rng: Source of every random draw: one for each operation.
        operations: How many.
        magnitude: From 0 to `STRONGEST`.
        channel_order: Of the image; grey is not the same of red and of blue.

    Returns:
        uint8 [h, w, 3].
    """
    for _ in range(operations):
        number, negative = divmod(int(rng.integers(2 * len(OPERATIONS))), 2)
        apply, strongest, signed = list(OPERATIONS.values())[number]
        strength = strongest * magnitude / STRONGEST
        image = apply(image, -strength if signed and negative else strength, channel_order)
    return image


def random_erase(
    image: np.ndarray,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> np.ndarray:
    """Blackens a box.

    Its area and its aspect ratio are drawn up to ten times until it is smaller than the image in
    both directions; if it never is, the image stays as it is.

    Args:
        image: uint8 [h, w, 3]; not changed.
        rng: Source of every random draw.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest height / width, drawn log-uniformly.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = image.shape[:2]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_TRIES):
        u_area, u_ratio, u_top, u_left = rng.random(4).tolist()
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u_area)
        aspect = math.exp(low + (high - low) * u_ratio)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = int(u_top * (height - h + 1)), int(u_left * (width - w + 1))
            erased = image.copy()
            erased[top : top + h, left : left + w] = 0
            return erased
    return image


def _warp(image: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    """Takes each pixel from where a matrix [2, 3] says; the first one's middle is (0.5, 0.5)."""
    height, width = image.shape[:2]
    places = np.array(matrix, np.float64)
    places[:, 2] += places[:, :2] @ (0.5, 0.5) - 0.5
    return cv2.warpAffine(
        image, places, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )


def _identity(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    return image


def _shear_x(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    return _warp(image, [[1, strength, 0], [0, 1, 0]])


def _shear_y(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    return _warp(image, [[1, 0, 0], [strength, 1, 0]])


def _translate_x(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    return _warp(image, [[1, 0, -int(strength * image.shape[1])], [0, 1, 0]])


def _translate_y(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    return _warp(image, [[1, 0, 0], [0, 1, -int(strength * image.shape[0])]])


def _rotate(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    """Turns by degrees, to the left if they are positive."""
    cos, sin = math.cos(math.radians(strength)), math.sin(math.radians(strength))
    y, x = image.shape[0] / 2, image.shape[1] / 2
    return _warp(image, [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


def _brightness(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    return cv2.LUT(image, _table(_LEVELS * np.float32(1 + strength)))


def _color(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    grey = cv2.cvtColor(_grey(image, order), cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(image, 1 + strength, grey, -strength, 0)


def _contrast(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    mean = int(cv2.mean(_grey(image, order))[0] + 0.5)
    return cv2.LUT(image, _table(mean + np.float32(1 + strength) * (_LEVELS - mean)))


def _sharpness(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    kernel = -strength * _SMOOTH
    kernel[1, 1] += 1 + strength
    sharp = image.copy()  # as Pillow's filters, this leaves the outermost pixels alone
    sharp[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel)[1:-1, 1:-1]
    return sharp


def _posterize(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    """Clears round(strength) of the lower bits."""
    return cv2.LUT(image, _table(_LEVELS >> round(strength) << round(strength)))


def _solarize(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    """Inverts the highest levels, as many as the strength."""
    return cv2.LUT(image, _table(np.where(_LEVELS < 255 - strength, _LEVELS, 255 - _LEVELS)))


def _auto_contrast(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    """Stretches each channel until it has black and white."""

    def table(counts: np.ndarray) -> np.ndarray:
        low, high = np.flatnonzero(counts)[[0, -1]]
        if high == low:
            return _LEVELS
        scale = 255 / (high - low)
        return _LEVELS * scale - low * scale

    return _by_channel(image, table)


def _equalize(image: np.ndarray, strength: float, order: ChannelOrder) -> np.ndarray:
    """Has about as many pixels of a channel at each level, counted as Pillow does."""

    def table(counts: np.ndarray) -> np.ndarray:
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        if step == 0:
            return _LEVELS
        return (step // 2 + np.cumsum(counts) - counts) // step

    return _by_channel(image, table)


def _by_channel(image: np.ndarray, table: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Maps each channel's levels by what a function makes of the numbers of its pixels [256]."""
    counts = [cv2.calcHist([image], [c], None, [256], [0, 256]).astype(np.int64) for c in range(3)]
    return cv2.LUT(image, _table(np.stack([table(one.ravel()) for one in counts], 1)[:, None]))


def _grey(image: np.ndarray, order: ChannelOrder) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY if order == "bgr" else cv2.COLOR_RGB2GRAY)


def _table(values: np.ndarray) -> np.ndarray:
    """Returns values as levels: cut off at both ends, their fractions dropped."""
    return np.clip(values, 0, 255).astype(np.uint8)


# 331 is the width of the images that the ranges were made for.
OPERATIONS: Mapping[str, Operation] = {
    "identity": Operation(_identity),
    "shear_x": Operation(_shear_x, 0.3, True),
    "shear_y": Operation(_shear_y, 0.3, True),
    "translate_x": Operation(_translate_x, 150 / 331, True),
    "translate_y": Operation(_translate_y, 150 / 331, True),
    "rotate": Operation(_rotate, 30, True),
    "brightness": Operation(_brightness, 0.9, True),
    "color": Operation(_color, 0.9, True),
    "contrast": Operation(_contrast, 0.9, True),
    "sharpness": Operation(_sharpness, 0.9, True),
    "posterize": Operation(_posterize, 4),
    "solarize": Operation(_solarize, 255),
    "auto_contrast": Operation(_auto_contrast),
    "equalize": Operation(_equalize),
}
