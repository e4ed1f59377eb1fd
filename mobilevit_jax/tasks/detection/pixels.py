"""From what the network saw of an image back to the image: boxes in its pixels."""

import numpy as np

from mobilevit_jax.base.processor_fields import both_sides
from mobilevit_jax.processing import ImageProcessor


def pixel_boxes(
    boxes: np.ndarray, height: int, width: int, processor: ImageProcessor
) -> np.ndarray:
    """Places boxes in the image that they were found in.

    Args:
        boxes: [..., 4], corners as shares of what the network saw.
        height: Height of the image in pixels, before the processor.
        width: Width of the image in pixels, before the processor.
        processor: What the image went through.

    Returns:
        float32 [..., 4], corners (x1, y1, x2, y2) in pixels, clipped to the image.
    """
    left, top, right, bottom = seen_part(height, width, processor)
    start = np.array([left, top] * 2)
    size = np.array([right - left, bottom - top] * 2)
    pixels = start + np.asarray(boxes, np.float64) * size
    return np.clip(pixels, 0, np.array([width, height] * 2)).astype(np.float32)


def seen_part(
    height: int, width: int, processor: ImageProcessor
) -> tuple[float, float, float, float]:
    """Returns the part that the network sees of an image of so many pixels.

    If the processor resizes to the very size of the crop, that is the whole image; a central crop
    of a larger one leaves out the edges, and a letterbox begins at the image's corner.

    Returns:
        (x1, y1, x2, y2) in pixels of the image; beyond its edges where others were put around it.
    """
    resized_height, resized_width = processor.resized_size(height, width)
    down, across = height / resized_height, width / resized_width
    if processor.do_pad:
        seen_height, seen_width = both_sides(processor.size)
        return 0, 0, seen_width * across, seen_height * down
    crop_height, crop_width = resized_height, resized_width
    if processor.do_center_crop:
        crop_height, crop_width = processor.crop_size
    # Negative where zeros surround the image: an odd number of them has one more in front.
    top, left = (resized_height - crop_height) // 2, (resized_width - crop_width) // 2
    return left * across, top * down, (left + crop_width) * across, (top + crop_height) * down
