"""Finds and opens data sets that TFDS stored as array_record or parquet, and reads their records.

TensorFlow is not needed, and neither is the code that prepared a data set: whatever lies under the
data directory in TFDS's layout, `<name>[/<config>]/<version>/`, opens by its name.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mobilevit_jax.data.builders import BUILDERS
from mobilevit_jax.data.builders.class_names import class_names, names_of
from mobilevit_jax.data.coco_names import COCO_CATEGORIES, class_names_coco
from mobilevit_jax.data.imagenet_names import imagenet_classes
from mobilevit_jax.data.record_parser import RecordParser
from mobilevit_jax.errors import (
    ConfigurationError,
    DataError,
    check_local,
    nearest,
    shortened,
    unknown_name,
)

_READABLE_FORMATS = ("array_record", "parquet")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
JOIN = "+"  # between the names of data sets that are taken for one; see `sources`


@dataclass(frozen=True)
class DatasetInfo:
    """A prepared data set.

    Attributes:
        name: `name` or `name/config`, without the version.
        directory: Where its files are: `<data_dir>/<name>[/<config>]/<version>`.
        splits: Number of examples of every split.
        class_names: Readable names, by class index; empty if the labels have no names.
        skipped: Number of bad images that were left out of a split when it was prepared.
        category_ids: The number that each class has in the files that the data set was made from
            and in results; empty if it has none but its index.
        notes: What else was changed when a split was prepared, and how often.
        mask_names: Of each value of the masks; empty if they have no names of their own.
    """

    name: str
    directory: Path
    splits: dict[str, int]
    class_names: tuple[str, ...]
    skipped: dict[str, int] = field(default_factory=dict)
    category_ids: tuple[int, ...] = ()
    notes: dict[str, dict[str, int]] = field(default_factory=dict)
    mask_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """The records of a split, or of a slice of one, by their position.

    Reads are thread-safe, and a pickled split opens its files again where it is unpickled.

    Attributes:
        info: The data set.
        name: The split as it was asked for, such as "train" or "train[:10%]".
    """

    info: DatasetInfo
    name: str
    _source: Any = field(repr=False, compare=False)
    _parser: RecordParser = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self._source)

    def __reduce__(self) -> Any:
        if JOIN in self.info.name:  # its source is made of splits, which open themselves
            return (Split, (self.info, self.name, self._source, self._parser))
        return (_open, (self.info.name, self.info.directory, self.name))

    def records(self, ids: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Reads records.

        Args:
            ids: Positions from 0 to `len(split) - 1`, in any order.

        Returns:
            A dict for each id: "image" (encoded, as stored), "label" (an int, where the data set
            has one), "name" (str; the data set's own, or its place in it) and every other feature:
            arrays for boxes and the like, bytes for further images.

        Raises:
            DataError: If a record cannot be read, which is named.
            IndexError: If an id is out of range.
        """
        places = [int(i) for i in ids]
        if not places:
            return []
        if min(places) < 0 or max(places) >= len(self):
            raise IndexError(f"{self.info.name} {self.name} has records 0 to {len(self) - 1}")
        try:
            records = self._read(places)
        except DataError:  # of one of several data sets that are joined
            raise
        except Exception as error:  # the libraries' own exceptions have no common base
            raise self._unreadable(places, error) from error
        for place, record in zip(places, records, strict=True):
            record.setdefault("name", f"{self.info.name}/{self.name}#{place}")
        return records

    def _read(self, places: list[int]) -> list[dict[str, Any]]:
        return [self._parser.parse(record) for record in self._source.__getitems__(places)]

    def _unreadable(self, places: list[int], error: Exception) -> DataError:
        """Names the first record that cannot be read by itself."""
        which = "its records"
        for place in places:
            try:
                self._read([place])
            except Exception as own:
                which, error = f"record {place}", own
                break
        return DataError(
            f"cannot read {self.info.name} {self.name} in {self.info.directory}: {which}: "
            f"{shortened(error)}; if its files are damaged, remove that directory and prepare it "
            "again"
        )


class Place(NamedTuple):
    """Where a version of a data set is stored; `name` is without the version."""

    name: str
    version: str
    directory: Path


def default_data_dir() -> Path:
    """Returns $TFDS_DATA_DIR, or ~/tensorflow_datasets, as TFDS does."""
    place = os.environ.get("TFDS_DATA_DIR")
    return Path(place or "~/tensorflow_datasets").expanduser()


def resolve_data_dir(data_dir: str | Path | None) -> Path:
    """Returns a data directory as an absolute path; the default one for None.

    Raises:
        ConfigurationError: If it is an address, such as that of a bucket.
    """
    check_local(data_dir or default_data_dir(), "the data directory")
    return (Path(data_dir).expanduser() if data_dir else default_data_dir()).absolute()


def list_prepared(data_dir: str | Path | None = None) -> list[Place]:
    """Returns every prepared data set under a data directory, the newest version of each last."""
    root = resolve_data_dir(data_dir)
    places = []
    for first in _folders(root):
        for second in _folders(first):
            if _is_prepared(second):
                places.append(Place(first.name, second.name, second))
                continue
            for third in _folders(second):
                if _is_prepared(third):
                    places.append(Place(f"{first.name}/{second.name}", third.name, third))
    return sorted(places, key=lambda p: (p.name, [int(n) for n in p.version.split(".")]))


def find_prepared(name: str, data_dir: str | Path | None = None) -> Place:
    """Finds a prepared data set.

    Args:
        name: `name`, `name/config`, either with `:version`. Without a version the newest is
            taken; a config may be left out where only one is prepared.
        data_dir: The data directory; `default_data_dir()` for None.

    Raises:
        ConfigurationError: If there is none; says which is nearest and how to prepare it.
    """
    base, _, version = name.partition(":")
    places = list_prepared(data_dir)
    found = [p for p in places if p.name == base]
    if not found:
        found = [p for p in places if p.name.partition("/")[0] == base]
        configs = sorted({p.name for p in found})
        if len(configs) > 1:
            raise ConfigurationError(f"data set {base!r}: choose one of {', '.join(configs)}")
    if not found:
        raise _not_prepared(base, places, resolve_data_dir(data_dir))
    if version:
        versions = [p.version for p in found]
        found = [p for p in found if p.version == version]
        if not found:
            raise unknown_name(f"version of {base}", version, versions)
    return found[-1]


def stored_info(name: str, data_dir: str | Path | None = None) -> DatasetInfo:
    """Describes one data set; see `sources.dataset_info`."""
    place = find_prepared(name, data_dir)
    return _describe(place.name, place.directory, _load_builder(place.directory))


def open_stored(name: str, split: str, data_dir: str | Path | None = None) -> Split:
    """Opens a split of one data set; see `sources.open_split`."""
    place = find_prepared(name, data_dir)
    return _open(place.name, place.directory, split)


def _open(name: str, directory: Path, split: str) -> Split:
    import tensorflow_datasets as tfds

    builder = _load_builder(directory)
    info = _describe(name, directory, builder)
    if "image" not in (builder.info.features or {}):
        raise DataError(f"data set {name!r} in {directory} has no feature 'image'")
    for part in split.split("+"):
        base = part.partition("[")[0].strip()
        if base not in info.splits:
            raise unknown_name(f"split of {name}", base, info.splits)
    try:
        count = builder.info.splits[split].num_examples
    except (ValueError, AssertionError) as error:
        message = str(error).splitlines()[0]
        raise ConfigurationError(f"split {split!r} of {name}: {message}") from error
    if count <= 0:
        raise ConfigurationError(f"split {split!r} of {name} selects no image")
    for instruction in builder.info.splits[split].file_instructions:
        if not os.path.exists(instruction.filename):
            raise DataError(f"{instruction.filename} is missing; prepare {name} again")
    source = builder.as_data_source(
        split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    return Split(info, split, source, RecordParser(builder.info.features))


def _load_builder(directory: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(directory)
        formats = {kind.value for kind in builder.info.available_file_formats()}
    except Exception as error:  # whatever TFDS's parsers make of a damaged file
        raise DataError(
            f"cannot read the description of {directory}: {shortened(error)}"
        ) from error
    if not formats & set(_READABLE_FORMATS):
        raise DataError(
            f"{directory} is stored as {', '.join(sorted(formats))}, which needs TensorFlow; where "
            "TensorFlow is installed, convert it: tfds convert_format --out_file_format="
            f"array_record --dataset_version_dir={directory}"
        )
    return builder


def _describe(name: str, directory: Path, builder: Any) -> DatasetInfo:
    metadata = builder.info.metadata or {}
    if metadata.get("builder") not in BUILDERS:
        metadata = {}  # somebody else's, where the same keys may mean anything
    names = class_names(builder.info.features)
    readable = imagenet_classes()
    if names and all(name in readable for name in names):
        names = tuple(readable[name] for name in names)
    category_ids = metadata.get("category_ids", ())
    if names == class_names_coco():  # also as TFDS prepares it
        category_ids = category_ids or COCO_CATEGORIES
    return DatasetInfo(
        name=name,
        directory=directory,
        splits={split: int(info.num_examples) for split, info in builder.info.splits.items()},
        class_names=names,
        skipped={split: len(names) for split, names in metadata.get("skipped", {}).items()},
        category_ids=tuple(category_ids),
        notes=metadata.get("notes", {}),
        mask_names=names_of(builder.info.features, "mask"),
    )


def _folders(directory: Path) -> list[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return []
    return [e for e in entries if e.is_dir() and not e.name.startswith((".", "incomplete."))]


def _is_prepared(directory: Path) -> bool:
    return bool(_VERSION.fullmatch(directory.name)) and (directory / "dataset_info.json").exists()


def _not_prepared(name: str, places: list[Place], root: Path) -> ConfigurationError:
    prepared = sorted({p.name for p in places})
    builder = name.partition("/")[0]
    if builder in BUILDERS:
        source = "" if builder == "shapes" else " --source PATH"
        how = f"prepare it: mobilevit prepare {name}{source} --data-dir {root}"
    else:
        how = (
            "prepare a folder of images under that name: mobilevit prepare image_folder "
            f"--source PATH --name {name} --data-dir {root} (parquet, coco, yolo and voc_detection "
            "read other files)"
        )
    known = f"prepared there: {', '.join(prepared[:12])}" if prepared else "nothing is there"
    hint = nearest(name, prepared) or nearest(name, set(BUILDERS) - {name})
    return ConfigurationError(f"no data set {name!r} in {root}{hint}; {known}; {how}")
