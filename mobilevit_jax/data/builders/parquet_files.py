"""Reads Parquet files of images as the Hugging Face hub stores them, by pyarrow.

An image, or a mask, is a column of `{bytes, path}`, or of bytes. What pyarrow raises becomes a
`DataError` that names the file. Memory holds one row group at a time.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mobilevit_jax.data.builders.class_names import check_names
from mobilevit_jax.data.builders.splits import Splits, by_split, usual_split
from mobilevit_jax.data.files import is_hidden
from mobilevit_jax.errors import ConfigurationError, DataError, shortened

LAYOUT = "<split>-00000-of-00005.parquet and the others (in data/, too), or <split>/*.parquet"
# The hub's own conversion numbers the files of a folder; "-" and a hash may follow the total.
_SHARD = re.compile(r"(?P<split>.+)-(?P<index>\d{5})-of-(?P<total>\d{5})(-[0-9a-f]+)?")
_LABELS = ("label", "labels")
_MASKS = (*_LABELS, "mask", "masks", "annotation", "annotations", "segmentation_mask")


class Columns(NamedTuple):
    """The columns of a file.

    Attributes:
        image: The name of the column of images.
        label: That of the labels; "" where there are masks.
        mask: That of the masks; "" where there are labels.
        names: Of the classes; None where the file does not tell.
        text: Whether labels are names themselves.
        left_out: Others that could be images, labels or masks by their types.
    """

    image: str
    label: str
    mask: str
    names: list[str] | None
    text: bool
    left_out: tuple[str, ...]


class Group(NamedTuple):
    """A row group: its number, its first row in the file, its bytes, and its labels or None."""

    number: int
    first: int
    size: int
    labels: list[Any]


def find_shards(source: Path) -> Splits:
    """Returns the list of files of each split.

    Raises:
        DataError: If there are none, some of a split are missing, or a split is in two folders.
    """
    named: dict[tuple[Path, str], list[Path]] = {}
    for path in sorted(source.rglob("*.parquet")):
        if any(map(is_hidden, path.relative_to(source).parts)):
            continue
        named.setdefault(_place(path, source), []).append(path)
    if not named:
        raise DataError(f"{source} has no Parquet files; it must hold {LAYOUT}")
    folders = sorted({folder for folder, _ in named})
    if len(folders) > 1:
        raise DataError(
            f"{source} has Parquet files in {folders[0]} and {folders[1]}, which are two data "
            "sets; give the folder of one as the source"
        )
    for (_, split), shards in named.items():
        _check_complete(split, shards)
    return by_split(((split, shards) for (_, split), shards in named.items()), source)


def _place(path: Path, source: Path) -> tuple[Path, str]:
    """Returns the folder of the data set that a file is of, and the name of its split."""
    match, folder = _SHARD.fullmatch(path.stem), path.parent
    name = match["split"] if match else path.stem
    is_split = folder != source and usual_split(folder.name) is not None
    # Of train/test-00000-of-00001.parquet, the file's name counts.
    if path.stem.isdigit() or is_split and usual_split(name) in (None, usual_split(folder.name)):
        return folder.parent, folder.name
    return folder, name


def _check_complete(split: str, shards: list[Path]) -> None:
    matches = [_SHARD.fullmatch(shard.stem) for shard in shards]
    if not any(matches):
        return
    where = f"the split {split!r} in {shards[0].parent}"
    totals = sorted({match["total"] if match else "1" for match in matches})
    indices = sorted(int(match["index"]) for match in matches if match)
    if len(totals) > 1 or len(set(indices)) < len(shards):
        raise DataError(
            f"{where} has files of several sets of shards, such as {shards[0].name} and "
            f"{shards[-1].name}; keep those of one"
        )
    missing = sorted(set(range(int(totals[0]))).difference(indices))
    if missing:
        name = next(match["split"] for match in matches if match)
        raise DataError(
            f"{where} lacks {len(missing)} of its {int(totals[0])} files, such as "
            f"{name}-{missing[0]:05}-of-{totals[0]}.parquet; download them as well"
        )


def read_columns(shard: Path) -> Columns:
    """Returns which columns of a file hold images and labels or masks, by its schema.

    Raises:
        DataError: If it is no Parquet file, or does not have one of each.
    """
    with _opened(shard) as file:
        schema = file.schema_arrow
        types = dict(zip(schema.names, schema.types, strict=True))
    features = _features(schema.metadata, shard)
    pictures = [name for name, kind in types.items() if _holds_images(kind)]
    labels = [name for name in types if name in _LABELS and name not in pictures]
    masks = [] if labels else [name for name in pictures if name in _MASKS]
    images = [name for name in pictures if name not in masks]
    image = _one(images, "images, {bytes, path}", "image", shard, types)
    named = [n for n in types if features.get(n, {}).get("_type") == "ClassLabel"]
    label, mask, names, text = "", "", None, False
    if masks:
        mask = _one(masks, "masks", "mask", shard, types)
    else:
        label = _one(labels or named, "labels", "label", shard, types)
        names, text = _classes(label, types[label], features, shard)
    others = dict.fromkeys([*pictures, *labels, *named])
    left_out = tuple(name for name in others if name not in (image, label, mask))
    return Columns(image, label, mask, names, text, left_out)


def _one(names: list[str], what: str, usual: str, shard: Path, types: Iterable[str]) -> str:
    """Returns the one column of a kind, or of several that of the usual name."""
    if len(names) == 1 or usual in names:
        return usual if usual in names else names[0]
    raise DataError(
        f"{shard} must have one column of {what}, or one that is called {usual!r}; it has "
        f"{', '.join(names) or 'none'} among {shortened(', '.join(types))}"
    )


def _classes(
    label: str, kind: Any, features: Mapping[str, Any], shard: Path
) -> tuple[list[str] | None, bool]:
    """Returns the names of the classes, if the file tells, and whether labels are names."""
    pa = _pyarrow()
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not text and not pa.types.is_integer(kind):
        raise DataError(
            f"{shard}: the column {label!r} holds {shortened(kind, 60)}; a label is a whole number "
            "or a name"
        )
    names = features.get(label, {}).get("names")
    if names is not None:
        where = f"{shard}, column {label!r}"
        if not isinstance(names, list):
            raise DataError(f"{where}: its classes are no list")
        names = check_names(names, where)
    return None if text else names, text


def _holds_images(kind: Any) -> bool:
    pa = _pyarrow()
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(place).name for place in range(kind.num_fields)}
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _features(metadata: Mapping[bytes, bytes] | None, shard: Path) -> dict[str, Any]:
    """Returns the hub's description of the columns, {} where there is none."""
    stored = (metadata or {}).get(b"huggingface")
    if stored is None:
        return {}
    try:
        features = json.loads(stored)["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{shard}: its description of columns, under 'huggingface', cannot be read: "
            f"{shortened(repr(error))}"
        ) from error


def read_groups(shard: Path, label: str) -> Iterator[Group]:
    """Yields the row groups of a file with the labels alone; without those if `label` is "".

    Raises:
        DataError: If they cannot be read.
    """
    with _opened(shard) as file:
        first = 0
        for number in range(file.num_row_groups):
            described = file.metadata.row_group(number)
            labels = _read(file, shard, number, label) if label else [None] * described.num_rows
            yield Group(number, first, described.total_byte_size, labels)
            first += described.num_rows


def read_images(shard: Path, number: int, columns: Sequence[str]) -> list[list[Any]]:
    """Returns the images of a row group, column by column: None, bytes, or {"bytes", "path"}.

    Raises:
        DataError: If they cannot be read.
    """
    with _opened(shard) as file:
        return [_read(file, shard, number, column) for column in columns]


@contextlib.contextmanager
def _opened(shard: Path) -> Iterator[Any]:
    """Opens a Parquet file, and says in one line what pyarrow trips over."""
    pa = _pyarrow()
    try:
        with pa.parquet.ParquetFile(shard) as file:
            yield file
    except DataError:
        raise
    except (pa.ArrowException, LookupError, ValueError, OSError) as error:
        raise DataError(
            f"{shard} is not a whole Parquet file: {shortened(error)}; download it again"
        ) from error


def _read(file: Any, shard: Path, number: int, column: str) -> list[Any]:
    pa = _pyarrow()
    try:
        return file.read_row_group(number, columns=[column]).column(column).to_pylist()
    except (pa.ArrowException, LookupError, ValueError, OSError) as error:
        raise DataError(
            f"{shard}: column {column!r} of row group {number} cannot be read: {shortened(error)}; "
            "download the file again"
        ) from error


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigurationError(
            "Parquet files need pyarrow; install it: pip install 'mobilevit-jax[parquet]'"
        ) from error
    return pyarrow
