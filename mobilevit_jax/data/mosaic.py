"""Training augmentation of YOLOX: four images in one, an affine map, colours, flip; mixup.

Pure functions of images, their boxes and a random generator, with the numbers of YOLOX-Tiny (Ge et
al. 2021, section 2.1; mosaic is Bochkovskiy et al.'s of 2020, mixup Zhang et al.'s of 2018). The
affine map is about the centres of mosaic and result, so that a scale of 1 shows the middle of the
mosaic. Boxes are corners (x1, y1, x2, y2) as shares of the image's width and height.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from mobilevit_jax.data.affine import clip_boxes, map_boxes, random_affine, warp
from mobilevit_jax.data.augment_boxes import change_hsv
from mobilevit_jax.data.decode import ChannelOrder
from mobilevit_jax.errors import check_fields, check_parts
from mobilevit_jax.resizing import fit_within, pad_after

_SECTION = "detection.mosaic."
_HUES = 180  # OpenCV's circle in 8 bits: half a degree each

# Options that have no effect while the one before them is 0.
_PARTS = {
    "mosaic_probability": ("rotation", "scale", "shear", "translate", "mixup_probability"),
    "mixup_probability": ("mixup_scale",),
    "distort_probability": ("hue", "saturation", "value"),
}


@dataclass(frozen=True)
class MosaicConfig:
    """What happens to a training image and its boxes; the defaults are YOLOX-Tiny's.

    Attributes:
        mosaic_probability: Probability that an image becomes one of four of a mosaic. The others
            are only resized to fit, recoloured and mirrored.
        rotation: Largest angle that a mosaic is turned by, either way, in degrees.
        scale: Smallest and largest factor on a mosaic.
        shear: Largest angle that either axis is turned by itself, either way, in degrees.
        translate: Largest shift, either way, as a share of the image's width and height.
        mixup_probability: Probability that half of another image is laid over a mosaic, and its
            objects added. 0 for none, as YOLOX-Nano and Tiny have it.
        mixup_scale: Smallest and largest factor on that image.
        distort_probability: Probability of each change of colours.
        hue: Most that is added to the hue or taken off, of OpenCV's 180.
        saturation: Most that is added to the saturation or taken off, of 255.
        value: Most that is added to the value (of HSV) or taken off, of 255.
        flip_probability: Probability of a horizontal flip.
        min_box_side: Boxes that are not wider and higher than this are left out, in pixels of the
            result. An image that loses all of its objects is taken without augmentation.
    """

    mosaic_probability: float = 1.0
    rotation: float = 10.0
    scale: tuple[float, float] = (0.5, 1.5)
    shear: float = 2.0
    translate: float = 0.1
    mixup_probability: float = 0.0
    mixup_scale: tuple[float, float] = (0.5, 1.5)
    distort_probability: float = 0.5
    hue: int = 5
    saturation: int = 30
    value: int = 30
    flip_probability: float = 0.5
    min_box_side: float = 1.0

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[bool, str]] = {}
        for part in ("mosaic", "mixup", "distort", "flip"):
            name = f"{part}_probability"
            allowed[name] = (0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("scale", "mixup_scale"):
            pair = getattr(self, name)
            holds = len(pair) == 2 and 0 < pair[0] <= pair[1] < math.inf
            allowed[name] = (holds, "(low, high) with 0 < low <= high")
        check_fields(
            self,
            _SECTION,
            **allowed,
            rotation=(0 <= self.rotation <= 180, "from 0 to 180 degrees"),
            shear=(0 <= self.shear < 45, "at least 0 and below 45 degrees"),
            translate=(0 <= self.translate <= 1, "in [0, 1]"),
            hue=(0 <= self.hue <= _HUES // 2, f"from 0 to {_HUES // 2}"),
            saturation=(0 <= self.saturation <= 255, "from 0 to 255"),
            value=(0 <= self.value <= 255, "from 0 to 255"),
            min_box_side=(0 <= self.min_box_side < math.inf, "at least 0"),
        )
        check_parts(self, _PARTS, _SECTION)


class Labelled(NamedTuple):
    """An image with its objects.

    Attributes:
        image: uint8 [h, w, 3].
        boxes: [n, 4]; as shares of the image, float32, or inside this file in pixels, float64.
        labels: int32 [n].
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def count_others(rng: np.random.Generator, config: MosaicConfig) -> int:
    """Draws how many other images `augment_mosaic` gets: 0 for no mosaic, 3, or 4 with mixup."""
    mosaic, mixup = rng.random(2) < (config.mosaic_probability, config.mixup_probability)
    return 3 + int(mixup) if mosaic else 0


def augment_mosaic(
    first: Labelled,
    others: Sequence[Labelled],
    rng: np.random.Generator,
    height: int,
    width: int,
    config: MosaicConfig,
    *,
    channel_order: ChannelOrder = "bgr",
    pad_value: int = 114,
) -> Labelled:
    """Makes a training example of an image and others.

    Args:
        first: The image that it is about, of any size; not changed.
        others: As many as `count_others` says: three for the mosaic, a fourth to mix it with.
        rng: Source of every random draw.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        config: Probabilities and ranges.
        channel_order: Of the images.
        pad_value: What pixels are that no image covers.

    Returns:
        uint8 [height, width, 3], contiguous; boxes float32 and labels of the objects that are left
        of all images, of which each box is above `min_box_side`.
    """
    if len(others) not in (0, 3, 4):
        raise ValueError(f"a mosaic takes 3 other images, 4 with mixup, or none; got {len(others)}")
    if others:
        made = _mosaic([first, *others[:3]], rng, height, width, config, pad_value)
    else:
        made = _fit(first, height, width)
    for second in others[3:]:
        made = _mix(made, second, rng, height, width, config, pad_value)
    made = made._replace(image=shift_colours(made.image, rng, config, channel_order))
    if rng.random() < config.flip_probability:
        made = _flip(made)
    made = _drop_small(made, config)
    if not len(made.labels) and any(len(one.labels) for one in (first, *others)):
        made = _drop_small(_fit(first, height, width), config)
    shares = np.clip(made.boxes / ([width, height] * 2), 0, 1).astype(np.float32)
    image = np.ascontiguousarray(pad_after(made.image, height, width, pad_value))
    return Labelled(image, shares, made.labels)


def shift_colours(
    image: np.ndarray,
    rng: np.random.Generator,
    config: MosaicConfig,
    channel_order: ChannelOrder = "bgr",
) -> np.ndarray:
    """Adds to hue, saturation and value, each by chance and as much as is drawn.

    Args:
        image: uint8 [h, w, 3]; not changed.
        rng: Source of every random draw.
        config: Probability and ranges.
        channel_order: Of the image.

    Returns:
        uint8 [h, w, 3].
    """
    happens = rng.random(3) < config.distort_probability
    most = np.array([config.hue, config.saturation, config.value])
    added = (rng.uniform(-1, 1, 3) * most * happens).astype(np.int64)  # the fraction dropped
    if not added.any():
        return image
    tables = np.arange(256)[:, None] + added
    tables[:, 0] %= _HUES
    return change_hsv(image, tables, channel_order)


def _fit(one: Labelled, height: int, width: int) -> Labelled:
    """Resizes an image to what fits, its aspect ratio kept; boxes in pixels of that."""
    h, w = fit_within(one.image.shape[0], one.image.shape[1], height, width)
    image = cv2.resize(one.image, (w, h), interpolation=cv2.INTER_LINEAR)
    return one._replace(image=image, boxes=one.boxes.astype(np.float64) * ([w, h] * 2))


def _mosaic(
    four: Sequence[Labelled],
    rng: np.random.Generator,
    height: int,
    width: int,
    config: MosaicConfig,
    pad_value: int,
) -> Labelled:
    """Lays four images around a place in the middle of a canvas, and maps it to the result."""
    size = (2 * height, 2 * width)
    centre = rng.uniform(0.5, 1.5, 2) * (height, width)
    placed = _place_four(four, (int(centre[0]), int(centre[1])), size, pad_value)
    placed = _drop_small(placed, config)
    matrix = random_affine(
        rng,
        size,
        (height, width),
        rotation=config.rotation,
        scale=config.scale,
        shear=config.shear,
        translate=config.translate,
    )
    return Labelled(
        warp(placed.image, matrix, height, width, pad_value),
        map_boxes(placed.boxes, matrix, height, width),
        placed.labels,
    )


def _place_four(
    four: Sequence[Labelled], centre: tuple[int, int], size: tuple[int, int], pad_value: int
) -> Labelled:
    """Puts images on a canvas so that each has a corner at the centre, cut off at the edges.

    Each is resized to what fits into half of the canvas's height and width.
    """
    canvas = np.full((*size, 3), pad_value, np.uint8)
    boxes = []
    height, width = size
    for place, one in enumerate(four):
        image, own, _ = _fit(one, height // 2, width // 2)
        h, w = image.shape[:2]
        top = centre[0] - (h if place < 2 else 0)
        left = centre[1] - (w if place % 2 == 0 else 0)
        inside = canvas[max(0, top) : top + h, max(0, left) : left + w]
        start = max(0, -top), max(0, -left)
        inside[:] = image[start[0] :, start[1] :][: inside.shape[0], : inside.shape[1]]
        boxes.append(clip_boxes(own + [left, top] * 2, height, width))
    return Labelled(canvas, np.concatenate(boxes), np.concatenate([one.labels for one in four]))


def _mix(
    made: Labelled,
    second: Labelled,
    rng: np.random.Generator,
    height: int,
    width: int,
    config: MosaicConfig,
    pad_value: int,
) -> Labelled:
    """Lays half of another image over one, scaled, mirrored by chance, at a random place.

    A smaller one lies inside the first, of a larger one a part is seen.
    """
    factor = rng.uniform(*config.mixup_scale)
    flip = rng.random() < config.flip_probability
    left, top = rng.random(2) * (1 - factor) * (width, height)
    across, start = (-factor, left + factor * width) if flip else (factor, left)
    matrix = np.array([[across, 0, start], [0, factor, top]])
    other = _fit(second, height, width)
    warped = warp(
        pad_after(other.image, height, width, pad_value), matrix, height, width, pad_value
    )
    return Labelled(
        cv2.addWeighted(made.image, 0.5, warped, 0.5, 0),
        np.concatenate([made.boxes, map_boxes(other.boxes, matrix, height, width)]),
        np.concatenate([made.labels, other.labels]),
    )


def _flip(one: Labelled) -> Labelled:
    """Mirrors an image and its boxes in pixels."""
    x1, y1, x2, y2 = one.boxes.T
    width = one.image.shape[1]
    return one._replace(
        image=cv2.flip(one.image, 1), boxes=np.stack([width - x2, y1, width - x1, y2], axis=1)
    )


def _drop_small(one: Labelled, config: MosaicConfig) -> Labelled:
    """Leaves out boxes in pixels that are too low or too narrow, such as those cut off."""
    kept = (one.boxes[:, 2:] - one.boxes[:, :2]).min(1) > config.min_box_side
    return one._replace(boxes=one.boxes[kept], labels=one.labels[kept])
