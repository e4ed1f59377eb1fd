"""Reads COCO's files of annotations, and finds the images that they are about.

What is wrong with a file is found here, before anything is stored, and named by its id.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mobilevit_jax.base.texts import read_bytes, read_json
from mobilevit_jax.data.builders.base import Item, StoredBuilder
from mobilevit_jax.data.builders.class_names import class_name, fits_a_line
from mobilevit_jax.data.builders.coco_layout import SplitFiles, find_splits, left_out
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.files import inside_folder, list_images, size_of, some_names
from mobilevit_jax.errors import DataError, shortened

# The lists of a file, and what an entry of each is called.
_LISTS = {"images": "image", "annotations": "annotation", "categories": "category"}
_NUMBER = re.compile(r"\s*([+-]?\d{1,19})(\.0*)?\s*", re.ASCII)
_LARGEST = 2**31  # pixels; more of a box would not be stored right


class ImageEntry(NamedTuple):
    """What a file of annotations says about an image, with its annotations as they stand there."""

    image_id: int
    file_name: str
    width: int
    height: int
    annotations: list[dict[str, Any]]


@dataclass(frozen=True)
class Instances:
    """A file of annotations, checked.

    Attributes:
        path: The file.
        categories: {id: name}, by id.
        images: In the order of the file, those without annotations included.
    """

    path: Path
    categories: dict[int, str]
    images: list[ImageEntry]


class CocoImage(NamedTuple):
    """What an item of a builder holds: the image's file, and what is drawn or boxed on it."""

    path: Path
    image_id: int
    width: int
    height: int
    objects: Any


def read_instances(path: Path, *, regions: bool) -> Instances:
    """Reads a file of annotations.

    Args:
        path: The file; COCO's largest has 450 MB.
        regions: Keeps "segmentation", polygons as arrays.

    Raises:
        DataError: If it is no such file; for an image that is listed twice, an annotation of an
            image or a category that is not listed, and whatever else cannot be true.
    """
    # Polygons as lists of Python's numbers would take gigabytes.
    content = read_json(path, _keep_regions if regions else _shed)
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a file of COCO's annotations")
    for key in _LISTS:
        if not isinstance(content.get(key), list):
            raise DataError(f"{path} has no list of {key}; is it an instances file of COCO?")
    categories = _categories(_entries(content, "categories", path), path)
    images = _images(_entries(content, "images", path), path)
    _attach(_entries(content, "annotations", path), images, categories)
    return Instances(path, categories, list(images.values()))


def _entries(content: dict[str, Any], key: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields what to call each entry of a list, and the entry."""
    for place, entry in enumerate(content[key]):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {key}[{place}] is no object but {shortened(repr(entry), 60)}")
        number = entry.get("id")
        named = f"{key}[{place}]" if number in (None, "") else f"{_LISTS[key]} {number}"
        yield f"{path}: {shortened(named, 60)}", entry


def _whole(entry: dict[str, Any], key: str, where: str) -> int:
    """Returns a whole number, which some programs write as text or with a point."""
    value = entry.get(key)
    if isinstance(value, str) and (match := _NUMBER.fullmatch(value)):
        value = int(match[1])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise DataError(
            f"{where} has {_shown(entry, key)}; it must be a whole number (of 64 bits at most)"
        )
    return value


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip() or not fits_a_line(value):
        raise DataError(f"{where} has {_shown(entry, key)}; it must be text of one line")
    return value


def _shown(entry: dict[str, Any], key: str) -> str:
    return f"the {key} {shortened(ascii(entry[key]), 60)}" if key in entry else f"no {key}"


def _shed(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)
    return entry


def _keep_regions(entry: dict[str, Any]) -> dict[str, Any]:
    polygons = entry.get("segmentation")
    if isinstance(polygons, list):
        # What is no polygon is named later, by the id of its annotation.
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            entry["segmentation"] = [np.array(polygon, np.float64) for polygon in polygons]
    return entry


def read_items(
    builder: StoredBuilder,
    objects_of: Callable[[Instances, Counter[str], bool], list[Any]],
    *,
    regions: bool = False,
) -> tuple[dict[int, str], dict[str, list[Item]]]:
    """Reads the annotations of each split of a builder's source, one at a time: they are large.

    Args:
        builder: Its notes count what is in a folder and not in its file.
        objects_of: Makes of a file, the notes of its split, and whether images may be bad, what is
            on each image.
        regions: See `read_instances`.

    Returns:
        The categories, and the items of each split, a `CocoImage` each.

    Raises:
        DataError: As `read_instances` and `locate`, and if the splits do not have the same
            categories.
    """
    splits, items, first = find_splits(builder.folder), {}, None
    builder.called = splits.called
    builder.notes[builder.folder.name].update(left_out(builder.folder, splits))
    for split, files in splits.items():
        instances = read_instances(files.annotations, regions=regions)
        first = first or Instances(instances.path, instances.categories, [])
        if instances.categories != first.categories:
            raise DataError(
                f"{instances.path} has other categories than {first.path}; make them the same"
            )
        listed = {os.path.normpath(_path_of(entry, files)) for entry in instances.images}
        there = list_images(files.images).images
        others = [path for path in there if os.path.normpath(path) not in listed]
        if others:
            what = f"images left out, not listed in {files.annotations.name}, such as"
            named = some_names(others[:1], files.images)
            builder.notes[split][f"{what} {named}"] = len(others)
        bad = builder.skip_bad_images
        objects = objects_of(instances, builder.notes[split], bad)
        items[split] = locate(instances.images, objects, files, allow_missing=bad)
    return first.categories if first else {}, items


def locate(
    images: list[ImageEntry], objects: list[Any], files: SplitFiles, *, allow_missing: bool
) -> list[Item]:
    """Returns an item for each image, with what `objects` has at its place.

    Raises:
        DataError: If the file of an image is missing, unless that is allowed, or listed twice.
    """
    items, missing, seen = [], [], dict[str, int]()
    for entry, its_objects in zip(images, objects, strict=True):
        path = _path_of(entry, files)
        if not os.path.exists(path):
            missing.append(entry.file_name)
        first = seen.setdefault(os.path.normpath(path), entry.image_id)
        if first != entry.image_id:
            raise DataError(
                f"{files.annotations}: the image file {shortened(entry.file_name)} is listed "
                f"twice, as the images {first} and {entry.image_id}; keep one"
            )
        content = CocoImage(path, entry.image_id, entry.width, entry.height, its_objects)
        items.append(Item(f"{files.images.name}/{entry.file_name}", size_of(path), content))
    if missing and not allow_missing:
        raise DataError(
            f"{files.images} lacks {len(missing)} of the {len(images)} images that "
            f"{files.annotations.name} lists, such as {shortened(missing[0])}; "
            "complete the folder, or leave them out by --skip-bad-images"
        )
    if not items:
        raise DataError(f"{files.annotations} lists no images")
    return items


def _path_of(entry: ImageEntry, files: SplitFiles) -> Path:
    """Returns the file of an image, whose name may have the folders above, as others have them."""
    path = files.images / entry.file_name
    inside = files.images / inside_folder(entry.file_name, files.images.name)
    return inside if os.path.exists(inside) and not os.path.exists(path) else path


def read_checked(image: CocoImage) -> bytes:
    """Returns the bytes of an image that decodes, to the size that the annotations say.

    Raises:
        DataError: If it does not.
    """
    data = read_bytes(image.path)
    height, width = decode_image(data, name=str(image.path)).shape[:2]
    if (width, height) != (image.width, image.height):
        sideways = (height, width) == (image.width, image.height)
        why = "; either it is turned by its EXIF orientation, or these are exchanged"
        raise DataError(
            f"{image.path} is {width}x{height}, but its annotations are for "
            f"{image.width}x{image.height}{why if sideways else ''}"
        )
    return data


def _categories(entries: Iterable[tuple[str, dict[str, Any]]], path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for where, entry in entries:
        number, name = _whole(entry, "id", where), class_name(_text(entry, "name", where), where)
        if number in names:
            raise DataError(
                f"{path}: the category {number} is listed twice, as {names[number]!r:.60} and as "
                f"{name!r:.60}; give each an id of its own"
            )
        if name in numbers:
            raise DataError(
                f"{path}: the categories {numbers[name]} and {number} have the same name, "
                f"{name!r:.60}; rename one of them, or remove it if no annotation has it"
            )
        names[number], numbers[name] = name, number
    if not names:
        raise DataError(f"{path} lists no categories")
    return dict(sorted(names.items()))


def _images(entries: Iterable[tuple[str, dict[str, Any]]], path: Path) -> dict[int, ImageEntry]:
    images: dict[int, ImageEntry] = {}
    for where, entry in entries:
        number, file_name = _whole(entry, "id", where), _text(entry, "file_name", where)
        width, height = _whole(entry, "width", where), _whole(entry, "height", where)
        if number in images:
            raise DataError(f"{path}: the image id {number} is given to two images")
        if min(width, height) < 1:
            raise DataError(
                f"{where} has the size {width}x{height}; it must be the image's own, in pixels"
            )
        images[number] = ImageEntry(number, file_name, width, height, [])
    return images


def _attach(
    entries: Iterable[tuple[str, dict[str, Any]]],
    images: dict[int, ImageEntry],
    categories: dict[int, str],
) -> None:
    """Sorts the annotations to their images, their ids as numbers."""
    seen: set[int] = set()
    for place, (where, annotation) in enumerate(entries):
        if annotation.get("id") is None:
            annotation["id"] = place + 1
        for key in ("id", "image_id", "category_id"):
            annotation[key] = _whole(annotation, key, where)
        if annotation["id"] in seen:
            raise DataError(f"{where} is not the only one of its id; give each an id of its own")
        seen.add(annotation["id"])
        image = images.get(annotation["image_id"])
        if image is None:
            raise DataError(f"{where} is of image {annotation['image_id']}, which is not listed")
        if annotation["category_id"] not in categories:
            raise DataError(
                f"{where} is of category {annotation['category_id']}, which is not listed"
            )
        if annotation.get("iscrowd") not in (0, 1, None):
            raise DataError(f"{where} has {_shown(annotation, 'iscrowd')}; it must be 0 or 1")
        image.annotations.append(annotation)


def box_of(annotation: dict[str, Any], path: Path) -> tuple[float, float, float, float]:
    """Returns (x, y, width, height) in pixels, finite and not negative in size.

    Raises:
        DataError: If it is anything else; says so where it looks like two corners.
    """
    where = f"{path}: annotation {annotation['id']}"
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
        raise DataError(
            f"{where} has no box of four numbers (x, y, width, height): {shortened(box)}"
        )
    if not all(abs(value) < _LARGEST for value in box):
        raise DataError(f"{where} has a box that is not finite or too large: {shortened(box)}")
    x, y, width, height = (float(value) for value in box)
    if width < 0 or height < 0:
        raise DataError(
            f"{where} has a box of negative size, {box}; a box must be (x, y, width, height), not "
            "two corners"
        )
    return x, y, width, height


def area_of(annotation: dict[str, Any], path: Path) -> float | None:
    """Returns the area in pixels, None if the annotation has none.

    Raises:
        DataError: If it is negative or no number.
    """
    area = annotation.get("area")
    if area is not None and not (_is_number(area) and 0 <= area < _LARGEST**2):
        raise DataError(
            f"{path}: annotation {annotation['id']} has {_shown(annotation, 'area')}; it must be a "
            "number of pixels, or be left out"
        )
    return area


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
