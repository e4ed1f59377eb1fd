"""Objects: boxes with their labels, read alike from whatever data set has some.

Prepared by `coco` here or by TFDS, a record of COCO nests them as "objects", with boxes as (ymin,
xmin, ymax, xmax), and labels counted from 0; so does `shapes`, without crowds, areas and image
ids. Detection wants corners (x1, y1, x2, y2), labels counted from 1, and all of these.
"""

import io
from typing import Any, NamedTuple

import numpy as np

from mobilevit_jax.data.decode import quiet_decoders
from mobilevit_jax.errors import DataError


def to_detection(record: dict[str, Any], position: int) -> dict[str, Any]:
    """Turns a record of a data set with objects into the form that detection uses.

    Args:
        record: From `Split.records`.
        position: Its place in the split; stands for the id of an image that has none.

    Returns:
        "image" (bytes), "boxes" (float32 [n, 4], corners from 0 to 1), "labels" (int32 [n], from
        1), "is_crowd" (bool [n]), "area" (float32 [n], of the object in pixels of the stored
        image, or of its box where the data set has none), "image_id" (int), "name" (str).

    Raises:
        DataError: If it has no objects.
    """
    objects = record.get("objects")
    if not isinstance(objects, dict) or "bbox" not in objects or "label" not in objects:
        raise DataError(f"{record['name']} has no boxes: its data set is not one for detection")
    boxes = np.asarray(objects["bbox"], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
    count = len(boxes)
    crowd = objects.get("is_crowd")
    area = objects.get("area")
    return {
        "image": record["image"],
        "boxes": boxes,
        "labels": np.asarray(objects["label"], np.int32).reshape(count) + 1,
        "is_crowd": np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
        "area": _box_areas(boxes, record) if area is None else np.asarray(area, np.float32),
        "image_id": int(record.get("image/id", position)),
        "name": record["name"],
    }


class PaddedObjects(NamedTuple):
    """Objects in arrays of fixed size.

    Attributes:
        boxes: float32 [limit, 4]; zeros where there is no object.
        labels: int32 [limit]; 0 where there is no object.
        left_out: How many objects there were beyond the limit.
    """

    boxes: np.ndarray
    labels: np.ndarray
    left_out: int


def pad_objects(boxes: np.ndarray, labels: np.ndarray, limit: int) -> PaddedObjects:
    """Pads objects to a fixed number; of more than that, those of the largest boxes are kept.

    Args:
        boxes: float32 [n, 4], corners from 0 to 1.
        labels: int32 [n], from 1.
        limit: The number of rows to return; at least 1.
    """
    if limit < 1:
        raise ValueError(f"the limit must be at least 1, not {limit}")
    kept = np.arange(len(boxes))
    if len(boxes) > limit:
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        # Of equal areas the first are kept; their order stays.
        kept = np.sort(np.argsort(-areas, kind="stable")[:limit])
    padded = PaddedObjects(
        np.zeros((limit, 4), np.float32), np.zeros(limit, np.int32), len(boxes) - len(kept)
    )
    padded.boxes[: len(kept)] = boxes[kept]
    padded.labels[: len(kept)] = labels[kept]
    return padded


def for_training(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a detector is trained on: neither crowds nor boxes without area.

    Args:
        record: From `to_detection`.

    Returns:
        boxes float32 [m, 4] and labels int32 [m].
    """
    boxes = record["boxes"]
    kept = ~record["is_crowd"] & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[kept], record["labels"][kept]


def _box_areas(boxes: np.ndarray, record: dict[str, Any]) -> np.ndarray:
    from PIL import Image

    quiet_decoders()
    try:
        # The header alone is read. Turning it by EXIF would not change the product.
        with Image.open(io.BytesIO(record["image"])) as image:
            pixels = image.width * image.height
    except Exception as error:  # Pillow's plugins raise whatever their parsing trips over
        raise DataError(f"{record['name']}: not an image that can be decoded") from error
    share = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (share * pixels).astype(np.float32)
