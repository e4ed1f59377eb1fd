"""Affine maps of images and their boxes, in pixels.

A map is float64 [2, 3] and takes a place (x, y) to another one. Places are continuous: pixel i of
a row reaches from i to i + 1, as boxes have it.
"""

import math

import cv2
import numpy as np


def random_affine(
    rng: np.random.Generator,
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    rotation: float,
    scale: tuple[float, float],
    shear: float,
    translate: float,
) -> np.ndarray:
    """Draws a map that turns, scales, shears and shifts, from one centre to the other.

    Args:
        rng: Source of every draw; all are uniform.
        source: (height, width) in pixels of what is mapped.
        target: (height, width) in pixels of what it is mapped to.
        rotation: Largest angle, either way, in degrees.
        scale: Smallest and largest factor.
        shear: Largest angle of either axis, either way, in degrees.
        translate: Largest shift, either way, as a share of the target's width and height.
    """
    angle = math.radians(rng.uniform(-rotation, rotation))
    factor = rng.uniform(*scale)
    across, down = np.tan(np.radians(rng.uniform(-shear, shear, 2)))
    shift = rng.uniform(-translate, translate, 2) * target[::-1]
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    linear = np.array([[1, across], [down, 1]]) @ (factor * turn)
    start, end = np.array(source[::-1]) / 2, np.array(target[::-1]) / 2
    return np.column_stack([linear, end + shift - linear @ start])


def warp(image: np.ndarray, matrix: np.ndarray, height: int, width: int, value: int) -> np.ndarray:
    """Maps an image, bilinearly and without antialiasing; OpenCV rounds places to 1/32 of a pixel.

    Args:
        image: uint8 [h, w, 3].
        matrix: The map.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        value: Of the pixels that the image does not reach.
    """
    linear, shift = matrix[:, :2], matrix[:, 2]
    # OpenCV's places are those of the pixels' centres.
    centred = np.column_stack([linear, linear @ (0.5, 0.5) + shift - 0.5])
    return cv2.warpAffine(
        image,
        centred,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(value, value, value),
    )


def map_boxes(boxes: np.ndarray, matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """Maps boxes: the hull of each one's four corners, cut off at the edges of the result.

    Args:
        boxes: [n, 4], corners (x1, y1, x2, y2) in pixels.
        matrix: The map.
        height: Height of the result in pixels.
        width: Width of the result in pixels.

    Returns:
        float64 [n, 4] in pixels; without area where nothing of a box is left.
    """
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    mapped = corners @ matrix[:, :2].T + matrix[:, 2]
    return clip_boxes(np.concatenate([mapped.min(1), mapped.max(1)], axis=1), height, width)


def clip_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cuts boxes [n, 4] in pixels off at the edges of an image of so many pixels."""
    return np.clip(boxes, 0, [width, height] * 2)
