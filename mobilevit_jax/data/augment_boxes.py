"""Training augmentation of detection: crop, colours, flip, resize (Liu et al. 2016, section 3.3).

Pure functions of an image, its boxes and a random generator, in the order and with the numbers of
CVNets v0.1. Boxes are corners (x1, y1, x2, y2) as shares of the image's width and height.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from mobilevit_jax.errors import check_fields

Range = tuple[float, float]

# CVNets draws until a crop fits. A list of overlaps that none can have must end as well.
_PICKS = 50
_HUES = 180  # OpenCV's circle in 8 bits: half a degree each


@dataclass(frozen=True)
class BoxAugmentConfig:
    """What happens to a training image and its boxes; the defaults are CVNets v0.1's.

    Attributes:
        crop: Whether a part of the image is cut out.
        crop_overlaps: Least intersection over union of the crop with one of the boxes; one of
            these is picked for each image. 0 stands for the whole image.
        crop_scale: Smallest and largest width and height of a crop, as shares of the image's.
        crop_ratio: Smallest and largest height / width of a crop, in pixels.
        crop_tries: Crops drawn before another overlap is picked.
        distort_probability: Probability of each change of colours.
        contrast: Smallest and largest factor on all channels.
        brightness: Smallest and largest amount added to all channels, as a share of 255.
        saturation: Smallest and largest factor on the saturation.
        hue: Smallest and largest amount added to the hue, in units of 255 of OpenCV's 180 hues.
        shuffle_channels: Whether the colours change their places too, with that probability.
        flip_probability: Probability of a horizontal flip.
    """

    crop: bool = True
    crop_overlaps: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    crop_scale: Range = (0.3, 1.0)
    crop_ratio: Range = (0.5, 2.0)
    crop_tries: int = 40
    distort_probability: float = 0.5
    contrast: Range = (0.5, 1.5)
    brightness: Range = (-0.2, 0.2)
    saturation: Range = (0.5, 1.5)
    hue: Range = (-0.05, 0.05)
    shuffle_channels: bool = True
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        overlaps = self.crop_overlaps
        inside = bool(overlaps) and all(0 <= overlap <= 1 for overlap in overlaps)
        check_fields(
            self,
            distort_probability=(0 <= self.distort_probability <= 1, "in [0, 1]"),
            flip_probability=(0 <= self.flip_probability <= 1, "in [0, 1]"),
            crop_overlaps=(inside, "some numbers in [0, 1]"),
            crop_tries=(self.crop_tries >= 1, "at least 1"),
        )
        positive = ("crop_scale", "crop_ratio", "contrast", "saturation")
        for name in (*positive, "brightness", "hue"):
            low, high = getattr(self, name)
            lowest = 0 if name in positive else -1
            highest = np.inf if name in positive[1:] else 1
            holds = lowest < low <= high <= highest and high != np.inf
            what = f"(low, high), {lowest} < low <= high <= {highest}"
            check_fields(self, "", **{name: (holds, what)})


def augment_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    height: int,
    width: int,
    config: BoxAugmentConfig,
    *,
    channel_order: Literal["bgr", "rgb"] = "bgr",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops, distorts, mirrors and resizes a training image, and moves its boxes with it.

    Args:
        image: uint8 [h, w, 3] of any size; not changed.
        boxes: float32 [n, 4], corners from 0 to 1, each with some area.
        labels: int32 [n].
        rng: Source of every random draw.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        config: Probabilities and ranges.
        channel_order: Of the image.

    Returns:
        uint8 [height, width, 3], contiguous; boxes float32 [m, 4] and labels int32 [m] of the
        objects that are left: at least one if there was one.
    """
    if config.crop:
        top, left, h, w = draw_crop(image.shape[0], image.shape[1], boxes, rng, config)
        boxes, labels = crop_boxes(boxes, labels, image.shape[:2], (top, left, h, w))
        image = image[top : top + h, left : left + w]
    image = distort(image, rng, config, channel_order=channel_order)
    if rng.random() < config.flip_probability:
        image, boxes = cv2.flip(image, 1), flip_boxes(boxes)
    # Shares of the image do not change with its size.
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image, boxes, labels


def draw_crop(
    height: int,
    width: int,
    boxes: np.ndarray,
    rng: np.random.Generator,
    config: BoxAugmentConfig,
) -> tuple[int, int, int, int]:
    """Draws the part of a height x width image that is kept.

    An overlap is picked, then crops are drawn until one overlaps some box by as much and has the
    centre of some box inside; after `crop_tries` another overlap is picked.

    Returns:
        (top, left, height, width) in pixels, inside the image; the whole image if it has no boxes,
        if the overlap 0 was picked, or if 50 picks came to nothing.
    """
    whole = (0, 0, height, width)
    if len(boxes) == 0:
        return whole
    pixels = boxes * np.array([width, height, width, height], np.float32)
    for _ in range(_PICKS):
        least = config.crop_overlaps[rng.integers(len(config.crop_overlaps))]
        if least == 0:
            return whole
        crops = _draw_crops(height, width, rng, config)
        fits = (_overlaps(crops, pixels).max(1) >= least) & _inside(crops, pixels).any(1)
        if fits.any():
            left, top, right, bottom = crops[fits.argmax()].tolist()
            return top, left, bottom - top, right - left
    return whole


def _draw_crops(
    height: int, width: int, rng: np.random.Generator, config: BoxAugmentConfig
) -> np.ndarray:
    """Draws `crop_tries` crops, int64 corners in pixels [m, 4], those of a wrong shape left out."""
    draws = rng.random((config.crop_tries, 4))
    low, high = config.crop_scale
    size = (low + (high - low) * draws[:, :2]) * (width, height)
    start = draws[:, 2:] * ((width, height) - size)
    corners = np.concatenate([start, start + size], axis=1).astype(np.int64)
    ratio = size[:, 1] / size[:, 0]
    # A crop of a tiny image may have lost its last pixel.
    some = (corners[:, 2:] > corners[:, :2]).all(1)
    return corners[some & (config.crop_ratio[0] <= ratio) & (ratio <= config.crop_ratio[1])]


def _overlaps(crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns intersection over union of corners [m, 4] and [n, 4], both with area, [m, n]."""
    low = np.maximum(crops[:, None, :2], boxes[None, :, :2])
    high = np.minimum(crops[:, None, 2:], boxes[None, :, 2:])
    common = np.maximum(high - low, 0).prod(-1)
    areas = [(corners[:, 2:] - corners[:, :2]).prod(-1) for corners in (crops, boxes)]
    return common / (areas[0][:, None] + areas[1][None] - common)


def _inside(crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns which crops [m, 4] have the centres of which boxes [n, 4] inside, bool [m, n]."""
    centres = (boxes[None, :, :2] + boxes[None, :, 2:]) / 2
    inside = (crops[:, None, :2] < centres) & (centres < crops[:, None, 2:])
    return np.logical_and(inside[..., 0], inside[..., 1])


def crop_boxes(
    boxes: np.ndarray,
    labels: np.ndarray,
    size: tuple[int, ...],
    crop: tuple[int, int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the objects whose centre is inside a crop, and cuts their boxes off at its edge.

    Args:
        boxes: float32 [n, 4], corners as shares of the image.
        labels: int32 [n].
        size: (height, width) of the image in pixels.
        crop: (top, left, height, width) in pixels.

    Returns:
        boxes float32 [m, 4] as shares of the crop, and labels int32 [m].
    """
    top, left, height, width = crop
    if (top, left, height, width) == (0, 0, *size):
        return boxes, labels
    pixels = boxes * np.array([size[1], size[0]] * 2, np.float32)
    corners = np.array([left, top, left + width, top + height])
    kept = _inside(corners[None], pixels)[0]
    moved = (pixels[kept] - np.array([left, top] * 2)) / np.array([width, height] * 2)
    return np.clip(moved, 0, 1).astype(np.float32), labels[kept]


def flip_boxes(boxes: np.ndarray) -> np.ndarray:
    """Returns corners [n, 4] as they are in the image seen in a mirror."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([1 - x2, y1, 1 - x1, y2], axis=1)


def distort(
    image: np.ndarray,
    rng: np.random.Generator,
    config: BoxAugmentConfig,
    *,
    channel_order: Literal["bgr", "rgb"] = "bgr",
) -> np.ndarray:
    """Changes the colours of an image by chance.

    Contrast, brightness, saturation, hue, then contrast if it was left alone before, then the
    order of the channels: each with `distort_probability`, each value rounded down and kept from
    0 to 255.

    Args:
        image: uint8 [h, w, 3]; not changed.
        rng: Source of every random draw.
        config: Probability and ranges.
        channel_order: Of the image, to find hue and saturation.

    Returns:
        uint8 [h, w, 3].
    """
    happens = rng.random(6) < config.distort_probability
    contrast, brightness, saturation, hue, late = (
        rng.uniform(*bounds)
        for bounds in (
            config.contrast,
            config.brightness,
            config.saturation,
            config.hue,
            config.contrast,
        )
    )
    order = rng.permutation(3)
    levels = np.arange(256.0)
    if happens[:2].any():
        added = brightness * 255 * happens[1]
        image = cv2.LUT(image, _table(levels * (contrast if happens[0] else 1) + added))
    if happens[2:4].any():
        hues = (levels + int(hue * 255) * happens[3]) % _HUES
        # Hue is a circle; v0.1 stops at 0 instead, which keeps some reds red.
        saturations = levels * (saturation if happens[2] else 1)
        image = change_hsv(image, np.stack([hues, saturations, levels], axis=1), channel_order)
    if happens[4] and not happens[0]:
        image = cv2.LUT(image, _table(levels * late))
    if happens[5] and config.shuffle_channels:
        image = np.ascontiguousarray(image[:, :, order])
    return image


def change_hsv(
    image: np.ndarray, tables: np.ndarray, channel_order: Literal["bgr", "rgb"]
) -> np.ndarray:
    """Looks hue (0 to 179), saturation and value (0 to 255) of an image up in tables.

    Args:
        image: uint8 [h, w, 3]; not changed.
        tables: [256, 3], for the three in turn; rounded down and kept from 0 to 255.
        channel_order: Of the image.
    """
    bgr = channel_order == "bgr"
    image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV if bgr else cv2.COLOR_RGB2HSV)
    image = cv2.LUT(image, _table(tables)[:, None])
    return cv2.cvtColor(image, cv2.COLOR_HSV2BGR if bgr else cv2.COLOR_HSV2RGB)


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)
