"""Boxes in the text files of YOLO, stored as those of COCO are; see `yolo_layout`, `yolo_labels`.

An image without a label file, or with an empty one, is one of the background. The coordinates are
those of the upright image, whatever its EXIF orientation, and an area is that of the box.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mobilevit_jax.base.texts import read_bytes
from mobilevit_jax.data.builders.base import Item
from mobilevit_jax.data.builders.coco import CLIPPED, OBJECT, Content, ObjectsBuilder
from mobilevit_jax.data.builders.coco_files import CocoImage
from mobilevit_jax.data.builders.yolo_labels import read_labels
from mobilevit_jax.data.builders.yolo_layout import LAYOUT, Found, Layout, find_layout
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.files import printable, size_of
from mobilevit_jax.errors import DataError, count

_BACKGROUND = "images without a label file, taken as background"
_ORPHANS = "label files without an image left out"
_OTHERS = "files left out, not named like an image, such as"
# So many boxes and more, most of them cut off, are taken for boxes of another kind.
_ENOUGH_TO_TELL = 8


class Yolo(ObjectsBuilder, skip_registration=True):
    """Images with the boxes of objects, from the text files of YOLO."""

    name = "yolo"
    layout = LAYOUT

    @classmethod
    def splits_in(cls, source: Path) -> set[str]:
        """Returns the splits that data.yaml names, or that have folders."""
        return set(find_layout(source).places)

    def example(self, item: Item) -> dict[str, Any]:
        """Reads an image; its bytes pass untouched, but they must decode."""
        image: CocoImage = item.content
        data = read_bytes(image.path)
        height, width = decode_image(data, name=str(image.path)).shape[:2]
        objects = image.objects.copy()
        objects["area"] *= height * width
        return self.stored(image._replace(objects=objects), data)

    @cached_property
    def _content(self) -> Content:
        source = self.source
        layout = find_layout(source if source and source.is_file() else self.folder)
        self.called = layout.places.called
        for file, notes in layout.notes.items():
            self.notes[file].update(notes)
        numbers, items = itertools.count(1), {}
        for split in layout.places:
            found, notes = layout.find(split), self.notes[split]
            self._note_missing(split, found)
            items[split] = list(_items(layout, split, found.images, numbers, notes))
        return dict(enumerate(layout.names)), items

    def _note_missing(self, split: str, found: Found) -> None:
        """Counts what has no counterpart, or raises."""
        missing = [image for image in found.images if not os.path.exists(image)]
        if found.others:
            what = f"{_OTHERS} {printable(found.others[0].name)}"
            self.notes[split][what] = len(found.others)
        if self.skip_bad_images:  # reading names the missing ones
            self.notes[split][_ORPHANS] = len(found.orphans)
            return
        for paths, lack in ((missing, "listed but not there"), (found.orphans, "without an image")):
            if paths:
                where = f"{found.lines[paths[0]]}: " if paths[0] in found.lines else ""
                raise DataError(
                    f"{where}{paths[0]} is {lack}, as are {len(paths) - 1} more of the split "
                    f"{split!r}; complete them, or leave them out by --skip-bad-images"
                )


def _items(
    layout: Layout,
    split: str,
    images: list[Path],
    numbers: Iterator[int],
    notes: Counter[str],
) -> Iterator[Item]:
    """Yields the items of a split and adds to its notes."""
    total = 0
    for number, image in enumerate(images, 1):
        label = layout.label_of(image)
        objects = np.array([], OBJECT)
        if os.path.exists(label):
            objects = read_labels(label, len(layout.names), notes)
            objects["id"] = [next(numbers) for _ in objects]
        else:
            notes[_BACKGROUND] += 1
        total += len(objects)
        inside = image.relative_to(layout.root) if image.is_relative_to(layout.root) else image
        content = CocoImage(image, number, 0, 0, objects)
        yield Item(inside.as_posix(), size_of(image), content)
    if notes[_BACKGROUND] == len(images):
        raise DataError(
            f"none of the {count(len(images), 'image')} of the split {split!r} has a label file, "
            f"such as {layout.label_of(images[0])}; a split without labels cannot be used"
        )
    if total >= _ENOUGH_TO_TELL and 2 * notes[CLIPPED] > total:
        raise DataError(
            f"{notes[CLIPPED]} of {total} boxes of the split {split!r} reach beyond their image; a "
            "box must be its centre and its size, not two corners"
        )
