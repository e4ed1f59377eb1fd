"""COCO's boxes, or those of any data set in its layout; see `coco_layout`.

The features are those of TFDS's own `coco`, so that either reads like the other, but that an area
keeps its fraction here. Crowds are kept: evaluation ignores what a detector finds in them. What
lies outside an image is cut off, and a box that has no area, or none within its image, is left
out; both are counted in `metadata.json`.
"""

import io
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mobilevit_jax.data.builders.base import Item, StoredBuilder
from mobilevit_jax.data.builders.coco_files import (
    CocoImage,
    ImageEntry,
    Instances,
    area_of,
    box_of,
    read_checked,
    read_items,
)
from mobilevit_jax.data.builders.coco_layout import LAYOUT, find_splits
from mobilevit_jax.errors import DataError, count

# Annotators' boxes pass the edge by fractions of a pixel; more than this counts as outside.
_TOLERANCE = 1.0
# So many boxes and more, most of them outside, are taken for boxes of another kind.
_ENOUGH_TO_TELL = 8
CLIPPED = "boxes cut off at the edge of their image"
_NO_BOXES = "images, none of which has a box to find"
_EMPTY = "boxes without area left out"
# Compact: COCO has 860,000 of them.
OBJECT = np.dtype(
    [
        ("id", np.int64),
        ("area", np.float32),
        ("box", np.float64, 4),  # ymin, xmin, ymax, xmax from 0 to 1
        ("label", np.int64),
        ("is_crowd", bool),
    ]
)
Content = tuple[dict[int, str], dict[str, list[Item]]]


class ObjectsBuilder(StoredBuilder, skip_registration=True):
    """Images with the boxes of objects, however they were written down."""

    @property
    @abstractmethod
    def _content(self) -> Content:
        """The categories by their numbers, and the items of each split.

        The content of an item is a `CocoImage` with objects of the type `OBJECT`.
        """

    def features(self) -> tfds.features.FeaturesDict:
        """Returns image (as in its file), its name and id, and objects.

        An object's label counts the categories by their ids, from 0; `bbox` is (ymin, xmin, ymax,
        xmax) from 0 to 1, `area` in pixels.
        """
        names = list(self._content[0].values())
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "image/filename": tfds.features.Text(),
                "image/id": np.int64,
                "objects": tfds.features.Sequence(
                    {
                        "id": np.int64,
                        "area": np.float32,
                        "bbox": tfds.features.BBoxFeature(),
                        "label": tfds.features.ClassLabel(names=names),
                        "is_crowd": np.bool_,
                    }
                ),
            }
        )

    def items(self) -> Mapping[str, Sequence[Item]]:
        """Returns the images of each split, those without objects included."""
        return self._content[1]

    def example(self, item: Item) -> dict[str, Any]:
        """Reads an image; its bytes pass untouched, but must decode to the annotated size."""
        return self.stored(item.content, read_checked(item.content))

    def stored(self, image: CocoImage, data: bytes) -> dict[str, Any]:
        """Returns the example of an image and the bytes of its file."""
        return {
            "image": io.BytesIO(data),
            # Text is stored as UTF-8, whatever bytes the name of the file is.
            "image/filename": os.fsencode(image.path.name).decode("utf-8", "replace"),
            "image/id": image.image_id,
            "objects": [
                {
                    "id": int(row["id"]),
                    "area": float(row["area"]),
                    "bbox": tfds.features.BBox(*row["box"].tolist()),
                    "label": int(row["label"]),
                    "is_crowd": bool(row["is_crowd"]),
                }
                for row in image.objects
            ],
        }

    def check_stored(self, split: str, items: Sequence[Item]) -> None:
        """Refuses training images that have nothing to find, and notes others."""
        skipped = set(self.skipped.get(split, ()))
        stored = [item.content.objects for item in items if item.key not in skipped]
        if any(not objects["is_crowd"].all() for objects in stored):
            return
        if split != "train":
            self.notes[split][_NO_BOXES] = len(stored)
            return
        raise DataError(
            f"none of the {count(len(stored), 'image')} of the split 'train' of {self.source} has "
            "a box, those of crowds and difficult objects aside; complete the annotations"
        )

    def extra_metadata(self) -> dict[str, Any]:
        """Returns the ids of the categories, by class."""
        return {"category_ids": list(self._content[0])}


class Coco(ObjectsBuilder, skip_registration=True):
    """Images with the boxes of objects, from files in the layout of COCO."""

    name = "coco"
    layout = LAYOUT

    @classmethod
    def splits_in(cls, source: Path) -> set[str]:
        """Returns the splits that have both annotations and a folder of images."""
        return set(find_splits(source))

    @cached_property
    def _content(self) -> Content:
        return read_items(self, _objects)


def _objects(instances: Instances, counts: Counter[str], _: bool) -> list[np.ndarray]:
    """Returns the objects of each image, and counts the boxes that had to be changed."""
    labels = {number: label for label, number in enumerate(instances.categories)}
    objects, farthest = [], 0.0
    for image in instances.images:
        rows = []
        for annotation in image.annotations:
            x, y, width, height = box_of(annotation, instances.path)
            box, outside = clip_box(x, y, width, height, image)
            farthest = max(farthest, x + width, y + height)
            empty = box[2] <= box[0] or box[3] <= box[1]
            counts[_EMPTY] += empty
            counts[CLIPPED] += outside and not empty
            if not empty:
                area = area_of(annotation, instances.path)
                rows.append(
                    (
                        annotation["id"],
                        width * height if area is None else area,
                        box,
                        labels[annotation["category_id"]],
                        annotation.get("iscrowd", 0),
                    )
                )
        objects.append(np.array(rows, OBJECT))
    _check_kind_of_boxes(instances, counts, farthest)
    return objects


def clip_box(
    x: float, y: float, width: float, height: float, image: ImageEntry
) -> tuple[tuple[float, float, float, float], bool]:
    """Returns (ymin, xmin, ymax, xmax) from 0 to 1, and whether more than a pixel was cut off."""
    beyond = max(-x, -y, x + width - image.width, y + height - image.height)
    left, right = (min(max(v / image.width, 0.0), 1.0) for v in (x, x + width))
    top, bottom = (min(max(v / image.height, 0.0), 1.0) for v in (y, y + height))
    # As float32 stores them: a sliver may end where it begins.
    stored = np.array([top, left, bottom, right], np.float32).tolist()
    return (stored[0], stored[1], stored[2], stored[3]), beyond > _TOLERANCE


def _check_kind_of_boxes(instances: Instances, counts: Counter[str], farthest: float) -> None:
    """Raises if most boxes pass the edge of their image, or none the first pixel.

    These are corners, or in other units.
    """
    total = sum(len(image.annotations) for image in instances.images)
    outside = counts[CLIPPED]
    if total >= _ENOUGH_TO_TELL and 2 * outside > total:
        raise DataError(
            f"{instances.path}: {outside} of {total} boxes reach beyond their image; a box must be "
            "(x, y, width, height) in pixels, not two corners"
        )
    if total >= _ENOUGH_TO_TELL and farthest <= 1:
        raise DataError(
            f"{instances.path}: all {total} boxes lie within the first pixel of their image; a box "
            "must be in pixels, not in shares of the image"
        )
