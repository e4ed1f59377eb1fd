"""Class maps: from images to the class of each pixel, at the network's size and at the images'."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.base.processor_fields import both_sides
from mobilevit_jax.data.masks import decode_mask
from mobilevit_jax.data.voc_names import VOID
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.processing import ImageProcessor

_LONGEST = 16  # times the short side


def make_classify(model: Any) -> Callable[[Any, Any], jax.Array]:
    """Returns `f(variables, images) -> classes`, to be compiled.

    Its images are float32 [b, h, w, 3] as the model takes them; classes are uint8 [b, h, w].
    """

    def classify(variables: Any, images: Any) -> jax.Array:
        logits = model.apply(variables, images)
        return jnp.argmax(logits, axis=-1).astype(jnp.uint8)

    return classify


def resize_classes(classes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a class map [h, w] to the nearest pixel on the upper left, as PyTorch does.

    The index is floor(i * in / out), in whole numbers. Since nearest resizing only picks pixels, it
    makes no difference that CVNets does it before the argmax.
    """
    rows = np.arange(height) * classes.shape[0] // height
    columns = np.arange(width) * classes.shape[1] // width
    return classes.take(rows, 0).take(columns, 1)


def whole_images(processor: ImageProcessor) -> ImageProcessor:
    """Returns the processor for whole images at a fixed size, whatever their aspect ratio.

    A mask covers its image, so nothing may be cut off: images are resized to the crop's size, and
    the margin around the crop, which Hugging Face's settings for segmentation have, is left aside.

    Raises:
        ConfigurationError: If it pads them.
    """
    if processor.do_pad:
        raise ConfigurationError(
            "segmentation resizes whole images and pads none: set do_pad of the processor to false"
        )
    size = _target(processor)
    return replace(processor, do_resize=True, size=size, do_center_crop=True, crop_size=size)


def keeping_aspect(
    processor: ImageProcessor, height: int, width: int, *, multiple: int = 1, name: str
) -> ImageProcessor:
    """Returns the processor that makes an image's short side as long as the crop's.

    Args:
        processor: What gives the crop's size.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        multiple: What both sides are rounded to a multiple of.
        name: What to call the image in an error.

    Raises:
        DataError: If the image is too long for that.
    """
    short = min(height, width)
    if max(height, width) > _LONGEST * short:
        raise DataError(
            f"{name}: {width}x{height} is too long to keep its aspect ratio; use the protocol fixed"
        )
    target = min(_target(processor))
    sides = height * target // short, width * target // short
    rounded = tuple(max(1, (side + multiple // 2) // multiple) * multiple for side in sides)
    return replace(processor, do_resize=True, size=rounded, do_center_crop=True, crop_size=rounded)


def read_mask(data: bytes, num_classes: int, *, name: str) -> np.ndarray:
    """Decodes a mask and checks that it has no classes that there are not.

    Args:
        data: A PNG file.
        num_classes: Number of classes, a background included.
        name: What to call the mask's image in an error.

    Returns:
        uint8 [h, w].

    Raises:
        DataError: See `decode_mask`; also for a value past the classes that is not 255, for void.
    """
    mask = decode_mask(data, name=f"mask of {name}")
    largest = int(mask.max(where=mask != VOID, initial=0))
    if largest >= num_classes:
        raise DataError(
            f"mask of {name} has the value {largest}; the classes are 0 to {num_classes - 1}, and "
            f"{VOID} is void"
        )
    return mask


def _target(processor: ImageProcessor) -> tuple[int, int]:
    """Returns the (height, width) that the model was trained on."""
    if processor.do_center_crop:
        return processor.crop_size
    return both_sides(processor.size)
