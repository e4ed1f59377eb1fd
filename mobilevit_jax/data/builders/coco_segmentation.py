"""COCO's instances drawn as masks of VOC's classes, for training with VOC and for evaluation.

The paper trains its segmentation on both, and evaluates on COCO's images too (Table 12). As in
CVNets, an instance of a category that VOC lacks is background, and where instances overlap the
one that stands first in the file wins. A crowd, which COCO stores as one region, is drawn like an
instance. All images are kept, also those that show nothing of VOC.
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mobilevit_jax.data.builders.base import Item
from mobilevit_jax.data.builders.coco_files import (
    CocoImage,
    ImageEntry,
    Instances,
    read_checked,
    read_items,
)
from mobilevit_jax.data.builders.coco_layout import LAYOUT, find_splits
from mobilevit_jax.data.builders.run_length import draw_runs, read_runs
from mobilevit_jax.data.builders.segmentation import SegmentationBuilder
from mobilevit_jax.data.coco_names import COCO_CATEGORIES
from mobilevit_jax.data.voc_names import VOC_OF_COCO
from mobilevit_jax.errors import DataError, quoted, shortened

_LEFT_OUT = "polygons that are empty or not of three points and more left out"
_LEAST_NUMBERS = 6  # x and y of three points
_FAR = 10  # times the size of the image


class _Region(NamedTuple):
    label: int  # of VOC
    region: list[np.ndarray] | dict[str, Any]  # polygons (float64 [2n] each), or a run-length code


class CocoSegmentation(SegmentationBuilder, skip_registration=True):
    """Images of COCO with masks of the classes of PASCAL VOC."""

    name = "coco_segmentation"
    layout = LAYOUT

    @classmethod
    def splits_in(cls, source: Path) -> set[str]:
        """Returns the splits that have both annotations and a folder of images."""
        return set(find_splits(source))

    def items(self) -> Mapping[str, Sequence[Item]]:
        """Returns the images of each split."""
        return read_items(self, _regions, regions=True)[1]

    def example(self, item: Item) -> dict[str, Any]:
        """Reads an image, whose bytes pass untouched, and draws its mask."""
        image: CocoImage = item.content
        if isinstance(image.objects, DataError):
            raise image.objects
        data = read_checked(image)
        return {"image": io.BytesIO(data), "mask": _draw(image), "name": image.path.name}


def _regions(
    instances: Instances, notes: Counter[str], allow_bad: bool
) -> list[list[_Region] | DataError]:
    """Returns what there is of VOC's classes on each image, and counts what was left out.

    In place of what is on an image there may be what is wrong with it, for `example` to raise.
    """
    for number, name in instances.categories.items():
        if COCO_CATEGORIES.get(number) != name:
            raise DataError(
                f"{instances.path}: the category {number} is {quoted(name, 60)}; the table from "
                "COCO to VOC is for COCO's own categories"
            )
    regions = []
    for image in instances.images:
        try:
            its_regions, bad = _regions_of(image, instances.path)
        except DataError as error:
            if not allow_bad:
                raise
            its_regions, bad = error, 0
        regions.append(its_regions)
        notes[_LEFT_OUT] += bad
    return regions


def _regions_of(image: ImageEntry, path: Path) -> tuple[list[_Region], int]:
    regions, left_out = [], 0
    for annotation in image.annotations:
        label = VOC_OF_COCO.get(annotation["category_id"])
        if label is None:
            continue
        region, bad = _region(annotation, (image.height, image.width), path)
        left_out += bad
        if region:
            regions.append(_Region(label, region))
    return regions, left_out


def _region(annotation: dict[str, Any], size: tuple[int, int], path: Path) -> tuple[Any, int]:
    """Returns the region of an annotation, checked, and how many polygons were left out."""
    where = f"{path}: annotation {annotation['id']}"
    stored = annotation.get("segmentation")
    if isinstance(stored, dict) and "counts" in stored:
        if stored.get("size") != list(size):
            raise DataError(
                f"{where} has a mask of size {shortened(stored.get('size'), 60)}, but its image "
                f"has {list(size)} (height, width)"
            )
        read_runs(stored["counts"], size, where)
        return stored, 0
    if not isinstance(stored, list):
        raise DataError(f"{where} has no segmentation, polygons or a run-length code")
    if not all(isinstance(polygon, np.ndarray) and polygon.ndim == 1 for polygon in stored):
        raise DataError(f"{where} has a polygon that is not a list of numbers")
    polygons: list[np.ndarray] = stored
    # Rasterising takes memory by the length of the outline.
    limit = _FAR * max(size)
    if not all((np.abs(polygon) <= limit).all() for polygon in polygons):
        raise DataError(f"{where} has a polygon that is not finite, or far outside its image")
    whole = [p for p in polygons if len(p) >= _LEAST_NUMBERS and len(p) % 2 == 0]
    return whole, max(len(polygons), 1) - len(whole)


def _draw(image: CocoImage) -> np.ndarray:
    """Returns uint8 [h, w]: the VOC class of each pixel."""
    from pycocotools import mask as coco_mask

    size = image.height, image.width
    drawn = np.zeros(size, np.uint8)
    for label, region in image.objects:
        if isinstance(region, dict):
            covered = draw_runs(read_runs(region["counts"], size, str(image.path)), size)
        else:
            codes = coco_mask.frPyObjects(region, *size)
            covered = coco_mask.decode(coco_mask.merge(codes)).astype(bool)
        drawn[covered & (drawn == 0)] = label
    return drawn
