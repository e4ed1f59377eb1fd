"""Folders of images, `<split>/<class>/<image>`, stored as they are."""

import io
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from mobilevit_jax.data.builders.base import Item, StoredBuilder
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.errors import ConfigurationError, DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_LAYOUT = "<split>/<class>/<image>, such as train/cat/1.jpg"


class _Image(NamedTuple):
    path: Path
    label: str


class ImageFolder(StoredBuilder, skip_registration=True):
    """A user's own images, one folder a class within one folder a split."""

    name = "image_folder"

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
            split: [item for items in classes.values() for item in items]
            for split, classes in self._listing.items()
        }

    def example(self, item: Item) -> dict[str, Any]:
        """Reads a file; its bytes pass untouched, but they must decode."""
        path, label = item.content
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the image {path}: {error.strerror}") from error
        decode_image(data, name=str(path))
        return {"image": io.BytesIO(data), "label": label, "name": _printable(item.key)}

    @property
    def _class_names(self) -> list[str]:
        return sorted({name for classes in self._listing.values() for name in classes})

    @cached_property
    def _listing(self) -> dict[str, dict[str, list[Item]]]:
        """{split: {class: images}}, checked."""
        if self.source is None:
            raise ConfigurationError(f"image_folder needs --source, a directory of {_LAYOUT}")
        if not self.source.is_dir():
            raise DataError(f"the source {self.source} is not a directory; it must hold {_LAYOUT}")
        listing: dict[str, dict[str, list[Item]]] = {}
        for folder in _folders(self.source):
            split = _split_name(folder)
            if split in listing:
                raise DataError(f"{self.source} has both 'val' and 'validation'; keep one")
            listing[split] = self._list_split(folder)
        if not listing:
            raise DataError(f"{self.source} has no folders; it must hold {_LAYOUT}")
        _check_classes(self.source, listing)
        return listing

    def _list_split(self, folder: Path) -> dict[str, list[Item]]:
        assert self.source is not None
        classes: dict[str, list[Item]] = {}
        for class_folder in _folders(folder):
            images = _list_images(class_folder, self.source)
            if not images:
                raise DataError(
                    f"the class folder {class_folder} has no image ({', '.join(EXTENSIONS)}); "
                    "add some or remove the folder"
                )
            classes[_printable(class_folder.name)] = images
        if classes:
            return classes
        if _list_images(folder, self.source):
            raise DataError(
                f"{folder} holds images directly, but the layout is {_LAYOUT}; if "
                f"{folder.name!r} is a class, {self.source.name!r} must be a split (such as "
                "'train') of the directory that is given as the source"
            )
        raise DataError(f"the split folder {folder} has no class folders; the layout is {_LAYOUT}")


def _folders(directory: Path) -> list[Path]:
    entries = sorted(directory.iterdir())
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _list_images(folder: Path, source: Path) -> list[Item]:
    items = []
    with os.scandir(folder) as entries:
        for entry in entries:
            hidden = entry.name.startswith(".")
            if hidden or not entry.name.lower().endswith(EXTENSIONS) or entry.is_dir():
                continue
            path = Path(entry.path)
            # A dangling link has no size; `example` reports it by name.
            size = entry.stat().st_size if path.exists() else 0
            key = path.relative_to(source).as_posix()
            items.append(Item(key, size, _Image(path, _printable(folder.name))))
    return items


def _split_name(folder: Path) -> str:
    name = "validation" if folder.name == "val" else folder.name
    if not name.isidentifier() or not name.isascii() or name.lower() == "all":
        raise DataError(
            f"{folder} cannot be a split: its name must be of letters, digits and _, not 'all'"
        )
    return name


def _check_classes(source: Path, listing: dict[str, dict[str, list[Item]]]) -> None:
    names = sorted({name for classes in listing.values() for name in classes})
    for name in names:
        has = sorted(split for split, classes in listing.items() if name in classes)
        lacks = sorted(set(listing) - set(has))
        if lacks:
            raise DataError(
                f"the class {name!r} of {source} is in {', '.join(has)} but not in "
                f"{', '.join(lacks)}; every split needs every class"
            )


def _printable(name: str) -> str:
    """Returns a file name as text that UTF-8 can store, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "replace")
