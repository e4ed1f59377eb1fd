"""Training augmentation of classification: random resized crop, flip, and more on demand.

Pure functions of an image and a random generator. The default is the recipe of CVNets v0.1
(Inception crop, OpenCV's bilinear interpolation without antialiasing), which uses nothing else; the
options are what v0.2 adds for MobileViTv2, in its order.

Where photographs are much larger than what is trained on, decoding is nearly all of the work.
`AugmentConfig.scaled_decoding` then decodes a JPEG at a half, quarter or eighth of its size, as
long as the crop stays at least as large as the result. The crops are the same; their pixels are
averages of all that they stand for, where the recipe takes only those next to each sample. So it is
not quite the published recipe, and off by default.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from mobilevit_jax.data.decode import REDUCTIONS, ChannelOrder, decode_image, jpeg_size
from mobilevit_jax.data.random_augment import STRONGEST, rand_augment, random_erase
from mobilevit_jax.errors import check_fields, check_parts

Interpolation = Literal["bilinear", "bicubic"]

_Box = tuple[int, int, int, int]  # top, left, height, width in pixels

_TRIES = 10  # as in CVNets and torchvision
_RECORD_BITS = 40  # a trillion records; the other 24 bits of the word hold the epoch

# Options that have no effect while the one before them is 0.
_PARTS = {
    "rand_augment": ("rand_augment_magnitude",),
    "erase_probability": ("erase_scale", "erase_ratio"),
    "mixup_alpha": ("mixup_probability",),
    "cutmix_alpha": ("cutmix_probability",),
}


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training image.

    Attributes:
        crop_scale: Smallest and largest share of the image's area that a crop covers.
        crop_ratio: Smallest and largest width / height of a crop, drawn log-uniformly.
        flip_probability: Probability of a horizontal flip.
        scaled_decoding: Whether a JPEG whose crop is at least twice as high and wide as the result
            is decoded at a fraction of its size: faster for large photographs, and smoother.
        interpolation: "bilinear" is OpenCV's without antialiasing (CVNets v0.1), "bicubic" Pillow's
            with it (CVNets v0.2).
        rand_augment: Operations of RandAugment on each image, after crop and flip; 0 for none.
        rand_augment_magnitude: How strong they are, from 0 to 30.
        erase_probability: Probability that a box of the image is made black, at the end; 0 before
            the processor's mean is taken off.
        erase_scale: Smallest and largest share of the image's area that the box covers.
        erase_ratio: Smallest and largest height / width of the box, drawn log-uniformly.
        mixup_alpha: Mixup makes share * image + (1 - share) * other of the images of a pair, the
            share drawn from Beta(alpha, alpha); 0 for none.
        mixup_probability: Probability of that in a step, for all images of a device at once. If
            CutMix is on as well, half of the steps are its own and the others are Mixup's.
        cutmix_alpha: CutMix puts a box of an image into the other one. The share of the area that
            the box leaves is drawn from Beta(alpha, alpha), before it is cut off at the edges;
            labels count by what is left then. 0 for none.
        cutmix_probability: As `mixup_probability`.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    scaled_decoding: bool = False
    interpolation: Interpolation = "bilinear"
    rand_augment: int = 0
    rand_augment_magnitude: int = 9
    erase_probability: float = 0.0
    erase_scale: tuple[float, float] = (0.02, 0.33)
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    mixup_alpha: float = 0.0
    mixup_probability: float = 0.5
    cutmix_alpha: float = 0.0
    cutmix_probability: float = 0.5

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[bool, str]] = {}
        for part in ("crop", "erase"):
            low, high = getattr(self, f"{part}_scale")
            least, most = getattr(self, f"{part}_ratio")
            allowed |= {
                f"{part}_scale": (0 < low <= high <= 1, "(low, high) with 0 < low <= high <= 1"),
                f"{part}_ratio": (0 < least <= most < math.inf, "(low, high) with 0 < low <= high"),
            }
        for part in ("flip", "erase"):
            name = f"{part}_probability"
            allowed[name] = (0 <= getattr(self, name) <= 1, "in [0, 1]")
        for part in ("mixup", "cutmix"):
            name = f"{part}_probability"
            # Alpha turns it off.
            allowed[name] = (0 < getattr(self, name) <= 1, "above 0, at most 1")
        for name in ("mixup_alpha", "cutmix_alpha"):
            # Below, nearly all draws are 0 or 1, and their logarithms leave float32.
            alpha = getattr(self, name)
            allowed[name] = (alpha == 0 or 0.01 <= alpha < math.inf, "0.01 or more, or 0 for none")
        check_fields(
            self,
            "augment.",
            **allowed,
            interpolation=(self.interpolation in get_args(Interpolation), "bilinear or bicubic"),
            rand_augment=(self.rand_augment >= 0, "0 or more"),
            rand_augment_magnitude=(
                0 <= self.rand_augment_magnitude <= STRONGEST,
                f"from 0 to {STRONGEST}",
            ),
        )
        check_parts(self, _PARTS, "augment.")


class _Key(np.random.bit_generator.ISeedSequence):
    """Hands two words to Philox as they are; hashing them first takes three times as long."""

    def __init__(self, words: tuple[int, int]) -> None:
        self._words = words

    def generate_state(self, n_words, dtype=np.uint32):
        return np.array(self._words, dtype)


def example_rng(seed: int, epoch: int, record_id: int) -> np.random.Generator:
    """Makes the generator of one example's augmentation in one epoch.

    Philox is a keyed generator: different keys give independent streams, and here each
    (seed, epoch, record) has a key of its own. Takes some 5 microseconds.

    Args:
        seed: Seed of the run, 0 <= seed < 2**64.
        epoch: Epoch, 0 <= epoch < 2**24.
        record_id: Record in the split, 0 <= record_id < 2**40.
    """
    key = _Key((seed, epoch << _RECORD_BITS | record_id))
    # NumPy documents that this is allowed; its type stub does not say so.
    return np.random.Generator(np.random.Philox(key))  # pyright: ignore[reportArgumentType]


def augment(
    image: np.ndarray,
    rng: np.random.Generator,
    height: int,
    width: int,
    config: AugmentConfig,
    *,
    channel_order: ChannelOrder = "bgr",
) -> np.ndarray:
    """Cuts a random part out of an image, resizes it, mirrors it by chance; then what is on.

    Args:
        image: uint8 [h, w, 3] of any size; not changed.
        rng: Source of every random draw.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        config: What is done, and ranges of the draws.
        channel_order: Order of the three channels.

    Returns:
        uint8 [height, width, 3], contiguous.
    """
    flip, box = _draw(image.shape[0], image.shape[1], rng, config)
    crop = _cut(image, box, flip, height, width, config.interpolation)
    return _vary(crop, rng, config, channel_order)


def decode_and_augment(
    data: bytes,
    rng: np.random.Generator,
    height: int,
    width: int,
    config: AugmentConfig,
    *,
    name: str,
    channel_order: ChannelOrder = "bgr",
) -> np.ndarray:
    """Does what `augment` does with `decode_image`, and leaves out decoding below the crop.

    Args:
        data: The whole file.
        rng: Source of every random draw.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        config: What is done, ranges of the draws, and whether a JPEG may be decoded at a fraction
            of its size.
        name: What to call the image in an error.
        channel_order: Order of the three channels.

    Returns:
        uint8 [height, width, 3], contiguous.

    Raises:
        DataError: As `decode_image` does.
    """
    size = jpeg_size(data)
    if size is None or min(size) < 1:
        image = decode_image(data, name=name, channel_order=channel_order)
        return augment(image, rng, height, width, config, channel_order=channel_order)
    flip, box = _draw(*size, rng, config)
    top, _, h, w = box
    fits = [r for r in REDUCTIONS if h >= r * height and w >= r * width]
    reduction = max(fits, default=1) if config.scaled_decoding else 1
    image = decode_image(
        data, name=name, channel_order=channel_order, reduction=reduction, rows=top + h
    )
    whole = tuple(-(-pixels // reduction) for pixels in size)
    if image.shape[1] != whole[1]:  # a damaged orientation, read in two ways
        whole = image.shape[:2]
    crop = _cut(image, _scaled(box, size, whole), flip, height, width, config.interpolation)
    return _vary(crop, rng, config, channel_order)


def _draw(
    height: int, width: int, rng: np.random.Generator, config: AugmentConfig
) -> tuple[bool, _Box]:
    """Draws whether an image is mirrored, and what is cut out of it."""
    flip = rng.random() < config.flip_probability
    return flip, random_crop(height, width, rng, config)


def _cut(
    image: np.ndarray, box: _Box, flip: bool, height: int, width: int, interpolation: Interpolation
) -> np.ndarray:
    top, left, h, w = box
    crop = image[top : top + h, left : left + w]
    if interpolation == "bicubic":
        from PIL import Image

        cropped = Image.fromarray(np.ascontiguousarray(crop))
        resized = np.asarray(cropped.resize((width, height), Image.Resampling.BICUBIC))
    else:
        resized = cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(resized, 1) if flip else resized


def _vary(
    image: np.ndarray,
    rng: np.random.Generator,
    config: AugmentConfig,
    channel_order: ChannelOrder,
) -> np.ndarray:
    """Does what comes after crop and flip; draws nothing for what is off."""
    image = rand_augment(
        image, rng, config.rand_augment, config.rand_augment_magnitude, channel_order
    )
    if config.erase_probability and rng.random() < config.erase_probability:
        image = random_erase(image, rng, config.erase_scale, config.erase_ratio)
    return image


def _scaled(box: _Box, size: tuple[int, int], shape: tuple[int, ...]) -> _Box:
    """Returns a box of an image of one size in the same image of another, on whole pixels."""

    def along(start: int, length: int, before: int, now: int) -> tuple[int, int]:
        first = min(round(start * now / before), now - 1)
        return first, min(max(1, round(length * now / before)), now - first)

    top, height = along(box[0], box[2], size[0], shape[0])
    left, width = along(box[1], box[3], size[1], shape[1])
    return top, left, height, width


def random_crop(
    height: int, width: int, rng: np.random.Generator, config: AugmentConfig
) -> tuple[int, int, int, int]:
    """Draws the part of a height x width image that a random resized crop keeps.

    Area and aspect ratio are drawn up to ten times until the box fits; then the largest centred
    box with an allowed ratio is taken (Szegedy et al. 2015; the same as in torchvision).

    Returns:
        (top, left, height, width) in pixels, inside the image.
    """
    smallest, largest = config.crop_scale
    log_low, log_high = math.log(config.crop_ratio[0]), math.log(config.crop_ratio[1])
    for _ in range(_TRIES):
        u_area, u_ratio, u_top, u_left = rng.random(4).tolist()
        area = height * width * (smallest + (largest - smallest) * u_area)
        ratio = math.exp(log_low + (log_high - log_low) * u_ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w
    return _centre_box(height, width, config.crop_ratio)


def _centre_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    h, w = height, width
    if width < ratio[0] * height:
        h = min(height, max(1, round(width / ratio[0])))
    elif width > ratio[1] * height:
        w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w
