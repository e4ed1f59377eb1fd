"""Images with labels or masks from Parquet files, as the Hugging Face hub stores them.

A source holds the files of each split, such as `data/train-00000-of-00005.parquet`; see
`parquet_files`. The classes of labels are those of the files' own description; where that has
none, those that `classes.txt` in the source lists, or the labels themselves, numbers or sorted
names. Those of masks a file in the source names, see `mask_classes`. Where there are both labels
and masks, the labels are taken; columns that are left out are named.

The rows of a row group stay together, in an order of their own: groups and rows are shuffled, each
by a hash, and no more than a group is in memory.
"""

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from mobilevit_jax.data.builders.base import Item, StoredBuilder
from mobilevit_jax.data.builders.class_names import CLASSES, check_names, class_name, read_names
from mobilevit_jax.data.builders.parquet_files import (
    LAYOUT,
    Columns,
    find_shards,
    read_columns,
    read_groups,
    read_images,
)
from mobilevit_jax.data.builders.segmentation import OwnClassesBuilder
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.errors import DataError, nearest, quoted

_MOST = 100_000  # classes without names
_UNNAMED = "classes without names, called by their numbers"


class _Row(NamedTuple):
    """Where an image is, and its label."""

    shard: Path
    group: int
    index: int  # in the group
    label: Any


class _Cells(NamedTuple):
    """What stands in a row."""

    label: Any
    image: Any
    mask: Any = None


class Parquet(StoredBuilder, skip_registration=True):
    """Labelled images from Parquet files, as the Hugging Face hub stores them."""

    name = "parquet"
    layout = LAYOUT

    def __new__(cls, *, source: Path | None = None, **options: Any) -> Any:
        """Chooses the builder of masks for files that have some."""
        shards = find_shards(source) if source and source.is_dir() else {}
        kind: Any = cls
        if any(read_columns(files[0]).mask for files in shards.values()):
            kind = ParquetMasks
        return super().__new__(kind)

    def features(self) -> tfds.features.FeaturesDict:
        """Returns image (as in its row), label, and name (that of its file, or shard and row)."""
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=self._classes[0]),
                "name": tfds.features.Text(),
            }
        )

    @classmethod
    def splits_in(cls, source: Path) -> set[str]:
        """Returns the splits that have files."""
        return set(find_shards(source))

    def items(self) -> Mapping[str, Sequence[Item]]:
        """Returns the rows of each split."""
        return self._rows

    def classes_of(self, item: Item) -> tuple[str]:
        """Returns the one class of an image."""
        names, labels = self._classes
        return (names[labels[item.content.label]],)

    def fetched(self, items: Sequence[Item]) -> Iterator[Item]:
        """Reads the images of the rows, a row group at a time."""
        columns = [name for name in (self._columns.image, self._columns.mask) if name]
        for (shard, group), rows in itertools.groupby(items, lambda item: item.content[:2]):
            images = read_images(shard, group, columns)
            for item in rows:
                row: _Row = item.content
                cells = (column[row.index] for column in images)
                yield item._replace(content=_Cells(row.label, *cells))
            del images  # before the next are read

    def example(self, item: Item) -> dict[str, Any]:
        """Takes an image out of its row; its bytes pass untouched, but they must decode."""
        data, name = _bytes_of(item, "image")
        decode_image(data, name=item.key)
        label = self._classes[1][item.content.label]
        return {"image": io.BytesIO(data), "label": label, "name": name}

    @cached_property
    def _shards(self) -> dict[str, list[Path]]:
        shards = find_shards(self.folder)
        self.called = shards.called
        return shards

    @cached_property
    def _columns(self) -> Columns:
        """The columns, which all files share."""
        shards = list(itertools.chain.from_iterable(self._shards.values()))
        columns = read_columns(shards[0])
        left_out = dict.fromkeys(columns.left_out)
        for shard in shards[1:]:
            others = read_columns(shard)
            left_out |= dict.fromkeys(others.left_out)
            # Of what is left out, each file may have its own.
            if others._replace(left_out=columns.left_out) != columns:
                raise DataError(
                    f"{shard} has other columns or classes than {shards[0]}; the files of a data "
                    "set must agree"
                )
        if left_out:
            taken = f"{columns.image!r} and {columns.label or columns.mask!r}"
            note = (
                f"columns left out: {', '.join(left_out)} ({taken} are taken; if others "
                "are meant, remove these from the files)"
            )
            self.notes[next(iter(self._shards))][note] = len(left_out)
        return columns

    @cached_property
    def _names(self) -> list[str] | None:
        """The names of the classes, where somebody has named them."""
        file, named = self.folder / CLASSES, self._columns.names
        if not file.is_file():
            return named
        listed = read_names(file)
        if named not in (None, listed):
            raise DataError(f"{file} has other classes than the Parquet files; remove it")
        return listed

    @cached_property
    def _classes(self) -> tuple[list[str], dict[Any, int]]:
        """The names of the classes, and the class of each label."""
        text, labels = self._columns.text, self._names
        if labels is None:
            rows = itertools.chain.from_iterable(self._rows.values())
            labels = sorted({item.content.label for item in rows})
            if not text and labels[-1] >= _MOST:
                raise DataError(
                    f"{self.source}: labels go up to {labels[-1]}, and no file names the classes; "
                    f"list them in {CLASSES}"
                )
            if not text:
                labels = list(range(labels[-1] + 1))
                self.notes[next(iter(self._shards))][_UNNAMED] = len(labels)
        classes = enumerate(labels)
        return (
            check_names(labels, self.source),
            {(label if text else place): place for place, label in classes},
        )

    @cached_property
    def _rows(self) -> dict[str, list[Item]]:
        rows = {}
        for split, shards in self._shards.items():
            rows[split] = [row for shard in shards for row in self._rows_of(shard, split)]
            if not rows[split]:
                raise DataError(f"the split {split!r} has no rows: {shards[0]}")
        return rows

    def _rows_of(self, shard: Path, split: str) -> Iterator[Item]:
        """Yields the rows of a file, their labels checked."""
        place = shard.relative_to(self.folder).as_posix()
        for group in read_groups(shard, self._columns.label):
            size = group.size // max(len(group.labels), 1)
            for index, label in enumerate(group.labels):
                key = f"{place}, row {group.first + index}"
                if self._columns.label:
                    label = self._checked(label, key, split)
                row = _Row(shard, group.number, index, label)
                yield Item(key, size, row, f"{place}, group {group.number}")

    def _checked(self, label: Any, key: str, split: str) -> Any:
        """Returns a label; if it is one of the names that somebody listed, as that is stored."""
        names, text = self._names, self._columns.text
        if label is None:
            raise DataError(f"{key}: there is no label")
        if label == -1:
            raise DataError(
                f"{key}: the label -1 stands for none, as in test splits of the hub; take the "
                f"files of {split!r} out of {self.source}"
            )
        if text and names is not None:
            if class_name(label, key) not in names:
                raise DataError(
                    f"{key}: the label {quoted(label, 60)} is not in {CLASSES}"
                    f"{nearest(label, names)}"
                )
            return class_name(label, key)
        if not text and (label < 0 or (names is not None and label >= len(names))):
            known = f" of 0 to {len(names) - 1}" if names else ", which count from 0"
            raise DataError(f"{key}: the label {label} is not one of the classes{known}")
        return label


class ParquetMasks(OwnClassesBuilder, Parquet, skip_registration=True):
    """Images with masks from Parquet files, of the classes that a file in the source names."""

    name = "parquet"

    def classes_of(self, item: Item) -> tuple[str, ...]:
        """Returns no class: masks tell in the end."""
        return ()

    def example(self, item: Item) -> dict[str, Any]:
        """Takes an image, whose bytes pass untouched, and its mask out of their row."""
        data, name = _bytes_of(item, "image")
        where = f"{item.key}, mask"
        mask = self.own.read(_bytes_of(item, "mask")[0], name=where)
        return self.pair(data, mask, name=name, image_name=item.key, mask_name=where)


def _bytes_of(item: Item, what: str) -> tuple[bytes, str]:
    """Returns the bytes of an image or a mask, and what it is called."""
    cell = getattr(item.content, what)
    if cell is None:
        raise DataError(f"{item.key}: there is no {what}")
    if not isinstance(cell, dict):
        return cell, item.key
    path, data = cell.get("path"), cell["bytes"]
    if data is None:
        raise DataError(
            f"{item.key}: the {what} is a path, {path}, without its bytes; store the data set with "
            "embedded images"
        )
    return data, Path(path).name if path else item.key
