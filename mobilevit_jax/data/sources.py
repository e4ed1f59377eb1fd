"""Opens data sets by name, one, or several of the same classes as one.

The names of several are joined, as in "voc_segmentation+coco_segmentation".
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilevit_jax.data.imagenet_names import class_names_imagenet
from mobilevit_jax.data.stored import (
    JOIN,
    DatasetInfo,
    Split,
    default_data_dir,
    find_prepared,
    list_prepared,
    open_stored,
    resolve_data_dir,
    stored_info,
)
from mobilevit_jax.errors import ConfigurationError

__all__ = [
    "DatasetInfo",
    "Split",
    "class_names_imagenet",
    "dataset_info",
    "default_data_dir",
    "find_prepared",
    "list_prepared",
    "open_split",
    "resolve_data_dir",
]


def dataset_info(name: str, data_dir: str | Path | None = None) -> DatasetInfo:
    """Describes a prepared data set.

    Args:
        name: As for `find_prepared`, or several such names joined by "+".
        data_dir: The data directory; `default_data_dir()` for None.

    Raises:
        ConfigurationError: If no such data set is prepared, or joined ones differ in their classes.
        DataError: If it is stored in a format that only TensorFlow reads, or damaged.
    """
    return _describe_joined(name, data_dir) if JOIN in name else stored_info(name, data_dir)


def open_split(name: str, split: str, data_dir: str | Path | None = None) -> Split:
    """Opens a split of a prepared data set.

    Args:
        name: As for `find_prepared`, or several such names joined by "+", whose records then
            follow one another.
        split: A split, a TFDS slice such as "train[:10%]" or "train[100:]", or a sum of them. Of
            joined data sets, one for all, or one for each, with commas between; an empty place
            leaves that data set out, as in "validation,".
        data_dir: The data directory; `default_data_dir()` for None.

    Raises:
        ConfigurationError: If the data set or the split does not exist.
        DataError: If the data set is damaged, has no images, or is stored as tfrecord.
    """
    opened = _open_joined if JOIN in name else open_stored
    return opened(name, split, data_dir)


@dataclass(frozen=True)
class _Joined:
    """Source and parser of a `Split` whose records are those of others, one after another."""

    parts: tuple[Split, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Any]]:
        starts = np.cumsum([0, *map(len, self.parts)])
        owners = np.searchsorted(starts, places, side="right") - 1
        found: dict[int, dict[str, Any]] = {}
        for number, part in enumerate(self.parts):
            wanted = [place for place, owner in zip(places, owners, strict=True) if owner == number]
            records = part.records([place - int(starts[number]) for place in wanted])
            found.update(zip(wanted, records, strict=True))
        return [dict(found[place]) for place in places]

    def parse(self, record: dict[str, Any]) -> dict[str, Any]:
        return record


def _open_joined(name: str, split: str, data_dir: str | Path | None = None) -> Split:
    """Opens splits of several data sets as one; the arguments are those of `open_split`."""
    names, splits = _names(name), [part.strip() for part in split.split(",")]
    if len(splits) == 1:
        splits *= len(names)
    if len(splits) != len(names) or not any(splits):
        raise ConfigurationError(
            f"split {split!r} of {name}: give one for all {len(names)} data sets, or one for each "
            "with commas between, empty for a data set to leave out"
        )
    info = _describe_joined(name, data_dir)
    parts = [open_stored(n, s, data_dir) for n, s in zip(names, splits, strict=True) if s]
    joined: Any = _Joined(tuple(parts))
    return Split(info, split, joined, joined)


def _describe_joined(name: str, data_dir: str | Path | None = None) -> DatasetInfo:
    """Describes several data sets as one; its splits are those that all of them have."""
    infos = [stored_info(part, data_dir) for part in _names(name)]
    first = infos[0]
    for other in infos[1:]:
        pairs = itertools.zip_longest(first.class_names, other.class_names)
        differing = [(index, *pair) for index, pair in enumerate(pairs) if pair[0] != pair[1]]
        if differing:
            index, ours, theirs = differing[0]
            raise ConfigurationError(
                f"{first.name} and {other.name} cannot be joined: class {index} is {ours!r} in "
                f"one and {theirs!r} in the other"
            )
    shared = [split for split in first.splits if all(split in info.splits for info in infos)]
    return DatasetInfo(
        name=JOIN.join(info.name for info in infos),
        directory=resolve_data_dir(data_dir),
        splits={split: sum(info.splits[split] for info in infos) for split in shared},
        class_names=first.class_names,
        category_ids=first.category_ids,
        mask_names=first.mask_names,
    )


def _names(name: str) -> list[str]:
    return [part.strip() for part in name.split(JOIN)]
