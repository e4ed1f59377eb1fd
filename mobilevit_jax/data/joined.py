"""Several data sets of the same classes, opened as one: "voc_segmentation+coco_segmentation"."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilevit_jax.data.sources import (
    JOIN,
    DatasetInfo,
    Split,
    dataset_info,
    open_split,
    resolve_data_dir,
)
from mobilevit_jax.errors import ConfigurationError


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


def open_joined(name: str, split: str, data_dir: str | Path | None = None) -> Split:
    """Opens splits of several data sets as one; the arguments are those of `open_split`.

    Raises:
        ConfigurationError: If there is not one split for all data sets or one for each, or their
            classes differ; see also `open_split`.
        DataError: See `open_split`.
    """
    names, splits = _names(name), [part.strip() for part in split.split(",")]
    if len(splits) == 1:
        splits *= len(names)
    if len(splits) != len(names) or not any(splits):
        raise ConfigurationError(
            f"split {split!r} of {name}: give one for all {len(names)} data sets, or one for each "
            "with commas between, empty for a data set to leave out"
        )
    info = describe_joined(name, data_dir)
    parts = [open_split(n, s, data_dir) for n, s in zip(names, splits, strict=True) if s]
    joined: Any = _Joined(tuple(parts))
    return Split(info, split, joined, joined)


def describe_joined(name: str, data_dir: str | Path | None = None) -> DatasetInfo:
    """Describes several data sets as one; its splits are those that all of them have.

    Raises:
        ConfigurationError: If their classes differ; see also `dataset_info`.
        DataError: See `dataset_info`.
    """
    infos = [dataset_info(part, data_dir) for part in _names(name)]
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
    )


def _names(name: str) -> list[str]:
    return [part.strip() for part in name.split(JOIN)]
