"""Training augmentation of images together with their masks: random resize, crop and flip.

Pure functions of an image, its mask and a random generator. The defaults are the recipe of CVNets
v0.1 for PASCAL VOC at 512 x 512: the short side drawn from 256 to 1024 pixels, a random crop, and
a horizontal flip. Later CVNets limits the long side, surrounds small images instead of enlarging
them, and avoids crops of a single class; its colour, blur and rotation are not here.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from mobilevit_jax.data.voc_names import VOID
from mobilevit_jax.errors import check_fields
from mobilevit_jax.resizing import pad_after

_TRIES = 10  # crops drawn for `class_share`, as in later CVNets


@dataclass(frozen=True)
class MaskAugmentConfig:
    """What happens to a training image and its mask.

    Attributes:
        short_side: Smallest and largest length of the resized image's short side, as a multiple of
            the crop's; a whole number of pixels in between is drawn. (0.5, 2.0) is 256 to 1024 for
            a crop of 512.
        long_side: Largest length of its long side, as a multiple of the crop's, or None (later
            CVNets: 2.0).
        pad: Whether a resized image that is smaller than the crop is surrounded with zeros, its
            mask with void (later CVNets), instead of being enlarged until it covers the crop.
        class_share: Largest share of a crop's labelled pixels that one class may have; up to ten
            crops are drawn for it, and the last one is taken as it is. 1 takes the first (later
            CVNets: 0.75).
        flip_probability: Probability of a horizontal flip.
    """

    short_side: tuple[float, float] = (0.5, 2.0)
    long_side: float | None = None
    pad: bool = False
    class_share: float = 1.0
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        low, high = self.short_side
        long = 1 if self.long_side is None else self.long_side
        check_fields(
            self,
            short_side=(0 < low <= high < math.inf, "(low, high) with 0 < low <= high"),
            long_side=(0 < long < math.inf, "above 0 or None"),
            class_share=(0 < self.class_share <= 1, "in (0, 1]"),
            flip_probability=(0 <= self.flip_probability <= 1, "in [0, 1]"),
        )


def augment_mask(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    height: int,
    width: int,
    config: MaskAugmentConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes an image and its mask, cuts the same random part out of both, and mirrors by chance.

    Args:
        image: uint8 [h, w, 3] of any size; not changed.
        mask: uint8 [h, w], a class index a pixel, 255 for void; not changed.
        rng: Source of every random draw.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        config: Ranges of the draws.

    Returns:
        uint8 [height, width, 3], interpolated bilinearly, and uint8 [height, width], whose values
        are those of the mask (and void, where an image is surrounded); both contiguous.
    """
    flip = rng.random() < config.flip_probability
    resized = random_size(image.shape[0], image.shape[1], rng, height, width, config)
    for _ in range(_TRIES if config.class_share < 1 else 1):
        top, left = _random_place(resized, rng, height, width)
        cut_mask = cut_out_mask(mask, resized, top, left, height, width)
        if config.class_share == 1 or largest_share(cut_mask) <= config.class_share:
            break
    cut_image = cut_out_image(image, resized, top, left, height, width)
    if flip:
        return cv2.flip(cut_image, 1), cv2.flip(cut_mask, 1)
    return cut_image, cut_mask


def random_size(
    image_height: int,
    image_width: int,
    rng: np.random.Generator,
    height: int,
    width: int,
    config: MaskAugmentConfig,
) -> tuple[int, int]:
    """Draws the size that an image is resized to, its aspect ratio kept.

    Args:
        image_height: Of the image, in pixels.
        image_width: Of the image, in pixels.
        rng: Source of the draw.
        height: Of the crop, in pixels.
        width: Of the crop, in pixels.
        config: The ranges.

    Returns:
        (height, width) in pixels; without `pad`, no side is shorter than the crop's.
    """
    low, high = (max(1, round(share * min(height, width))) for share in config.short_side)
    factor = int(rng.integers(low, high, endpoint=True)) / min(image_height, image_width)
    if config.long_side is not None:
        longest = config.long_side * max(height, width)
        factor = min(factor, longest / max(image_height, image_width))
    # A rounding error must not take the last pixel of a side: 0.1 * 3 * 10 is 3.0000000000000004.
    resized = (
        max(1, int(image_height * factor + 1e-6)),
        max(1, int(image_width * factor + 1e-6)),
    )
    enlarge = max(height / resized[0], width / resized[1])
    if config.pad or enlarge <= 1:
        return resized
    return max(height, round(resized[0] * enlarge)), max(width, round(resized[1] * enlarge))


def cut_out_image(
    image: np.ndarray, resized: tuple[int, int], top: int, left: int, height: int, width: int
) -> np.ndarray:
    """Returns a part of an image as if it had been resized: bilinear, without antialiasing.

    Only that part is computed: a picture of 1 x 1000 pixels would fill gigabytes if it were
    resized as a whole first. OpenCV rounds places in the image to 1/32 of a pixel here.

    Args:
        image: uint8 [h, w, 3].
        resized: (height, width) that it is resized to.
        top: First row of the part.
        left: First column of the part.
        height: Rows of the part; zeros stand for those that the resized image lacks.
        width: Columns of the part.
    """
    inside = min(height, resized[0]), min(width, resized[1])
    rows, columns = image.shape[0] / resized[0], image.shape[1] / resized[1]
    # Centres of pixels are at half positions: x -> (x + left + 0.5) * columns - 0.5.
    places = np.array(
        [[columns, 0, (left + 0.5) * columns - 0.5], [0, rows, (top + 0.5) * rows - 0.5]]
    )
    part = cv2.warpAffine(
        image,
        places,
        (inside[1], inside[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return pad_after(part, height, width, 0)


def cut_out_mask(
    mask: np.ndarray, resized: tuple[int, int], top: int, left: int, height: int, width: int
) -> np.ndarray:
    """Returns a part of a mask as if it had been resized to the nearest pixel.

    Takes the arguments of `cut_out_image`; void stands for rows and columns that are lacking.
    """
    rows = _nearest(mask.shape[0], resized[0], top, min(height, resized[0]))
    columns = _nearest(mask.shape[1], resized[1], left, min(width, resized[1]))
    return pad_after(mask.take(rows, 0).take(columns, 1), height, width, VOID)


def largest_share(mask: np.ndarray) -> float:
    """Returns the share of the most frequent class among labelled pixels; 1 without any."""
    counts = np.bincount(mask.ravel(), minlength=VOID + 1)[:VOID]
    return counts.max() / counts.sum() if counts.any() else 1.0


def _random_place(
    resized: tuple[int, int], rng: np.random.Generator, height: int, width: int
) -> tuple[int, int]:
    """Draws the top left corner of a crop, each with equal probability."""
    top, left = rng.random(2).tolist()
    return int(top * max(1, resized[0] - height + 1)), int(left * max(1, resized[1] - width + 1))


def _nearest(source: int, resized: int, start: int, count: int) -> np.ndarray:
    """Returns the source pixel in which each pixel's centre lies, of an axis that is resized."""
    return (2 * np.arange(start, start + count) + 1) * source // (2 * resized)
