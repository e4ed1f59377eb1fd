"""Folders of images, `<split>/<class>/<image>`, stored as they are.

A class folder may have folders in it. What is left out, because its name is not that of an image
or because it is in no class folder, is counted and named.
"""

import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from mobilevit_jax.base.texts import read_bytes
from mobilevit_jax.data.builders.base import Item, StoredBuilder
from mobilevit_jax.data.builders.class_names import class_name
from mobilevit_jax.data.builders.splits import USUAL_FOLDERS
from mobilevit_jax.data.decode import IMAGE_ENDINGS, decode_image
from mobilevit_jax.data.files import (
    is_hidden,
    is_image,
    list_images,
    printable,
    size_of,
    some_names,
)
from mobilevit_jax.errors import DataError

_LAYOUT = "<split>/<class>/<image>, such as train/cat/1.jpg"


class _Image(NamedTuple):
    path: Path
    label: str


class _Split(NamedTuple):
    classes: dict[str, list[Item]]
    left_out: list[Path]


class ImageFolder(StoredBuilder, skip_registration=True):
    """A user's own images, one folder a class within one folder a split."""

    name = "image_folder"
    layout = _LAYOUT

    def features(self) -> tfds.features.FeaturesDict:
        """Returns image (encoded as in its file), label, and name (path within the source)."""
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=self._class_names),
                "name": tfds.features.Text(),
            }
        )

    def items(self) -> Mapping[str, Sequence[Item]]:
        """Returns the images of each split."""
        return {
            name: [item for items in split.classes.values() for item in items]
            for name, split in self._splits.items()
        }

    def example(self, item: Item) -> dict[str, Any]:
        """Reads a file; its bytes pass untouched, but they must decode."""
        path, label = item.content
        data = read_bytes(path)
        decode_image(data, name=str(path))
        return {"image": io.BytesIO(data), "label": label, "name": printable(item.key)}

    def classes_of(self, item: Item) -> tuple[str]:
        """Returns the one class of an image."""
        return (item.content.label,)

    @property
    def _class_names(self) -> list[str]:
        return sorted({name for split in self._splits.values() for name in split.classes})

    @cached_property
    def _splits(self) -> dict[str, _Split]:
        """The classes and images of each split, checked."""
        folders = self.split_folders(self.folder)
        splits = {split: self._list_split(folder) for split, folder in folders.items()}
        if not splits:
            raise DataError(f"{self.folder} has no folders; it must hold {_LAYOUT}")
        # They belong to no split, but are not to be lost without a word.
        loose = next(iter(splits.values())).left_out
        loose += filter(is_image, set(_folders(self.folder)[1]).difference(loose))
        _check_classes(self.folder, splits)
        for name, split in splits.items():
            self.notes[name].update(_left_out(split.left_out, self.folder))
        return splits

    def _list_split(self, folder: Path) -> _Split:
        folders, others = _folders(folder)
        origins: dict[str, Path] = {}
        split = _Split({}, others)
        for class_folder in folders:
            label = class_name(printable(class_folder.name), f"a class folder in {folder}")
            if label in split.classes:
                raise DataError(
                    f"the class folders {ascii(origins[label].name)} and "
                    f"{ascii(class_folder.name)} in {folder} are both the class {label!r}; "
                    "put their images into one, or rename one"
                )
            origins[label] = class_folder
            split.classes[label] = _list_class(class_folder, label, self.folder, split.left_out)
        if split.classes:
            return split
        if any(map(is_image, others)):
            raise DataError(
                f"{folder} holds images directly, but the layout is {_LAYOUT}; if "
                f"{folder.name!r} is a class, {self.folder.name!r} must be a split (such as "
                "'train') of the directory that is given as the source, or give "
                "--validation-share 0.1 to have the splits drawn"
            )
        raise DataError(f"the split folder {folder} has no class folders; the layout is {_LAYOUT}")


def _folders(directory: Path) -> tuple[list[Path], list[Path]]:
    """Returns the folders in a directory, and what else is there."""
    folders: list[Path] = []
    others: list[Path] = []
    for entry in sorted(directory.iterdir()):
        (folders if entry.is_dir() and not is_hidden(entry.name) else others).append(entry)
    return folders, others


def _list_class(folder: Path, label: str, source: Path, left_out: list[Path]) -> list[Item]:
    images, others = list_images(folder)
    if not images:
        there = f"; it has {some_names(others, folder)}" if others else ""
        raise DataError(
            f"the class folder {folder} has no image ({', '.join(IMAGE_ENDINGS)}){there}; "
            "add some or remove the folder"
        )
    if folder.name in USUAL_FOLDERS and not any(path.parent == folder for path in images):
        raise DataError(
            f"{folder} looks like a split, but is in the place of a class: the layout is "
            f"{_LAYOUT}; give {folder.parent} as the source, or rename the folder"
        )
    left_out.extend(others)
    return [
        Item(path.relative_to(source).as_posix(), size_of(path), _Image(path, label))
        for path in images
    ]


def _check_classes(source: Path, splits: dict[str, _Split]) -> None:
    for name in sorted({name for split in splits.values() for name in split.classes}):
        has = sorted(split for split, (classes, _) in splits.items() if name in classes)
        lacks = sorted(set(splits) - set(has))
        if lacks:
            raise DataError(
                f"the class {name!r} of {source} is in {', '.join(has)} but not in "
                f"{', '.join(lacks)}; every split needs every class"
            )


def _left_out(paths: list[Path], source: Path) -> dict[str, int]:
    """Returns the notes about files that were left out."""
    loose = [path for path in paths if is_image(path)]
    others = [path for path in paths if not is_image(path)]
    reasons = {"in no class folder": loose, "not named like an image": others}
    return {
        f"left out, {reason}: {some_names(files, source)}": len(files)
        for reason, files in reasons.items()
        if files
    }
