"""Stores a data set: all of it or nothing, once, whoever asks again."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit_jax.base.locks import NO_LOCKS, file_lock
from mobilevit_jax.data.builders import BUILDERS, load_builder
from mobilevit_jax.data.sources import DatasetInfo, dataset_info, resolve_data_dir
from mobilevit_jax.errors import ConfigurationError, DataError, unknown_name

if TYPE_CHECKING:
    from mobilevit_jax.data.builders.base import Progress, StoredBuilder

_INCOMPLETE = "incomplete."  # how TFDS names the directories that it fills
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)


def prepare(
    dataset: str,
    *,
    data_dir: str | Path | None = None,
    source: str | Path | None = None,
    name: str | None = None,
    skip_bad_images: bool = False,
    validation_share: float | None = None,
    progress: "Progress | None" = None,
) -> DatasetInfo:
    """Stores a data set under the data directory, unless it is there already.

    The files are written into a temporary directory that gets the final name at the end; what an
    earlier call left behind when it was killed is removed. Calls for the same data set in several
    processes wait for one another, where the file system has locks.

    Args:
        dataset: A builder, with its configuration if it has some: "shapes/tiny", "image_folder",
            "imagenet", "coco", ...
        data_dir: Where data sets are kept; `default_data_dir()` for None.
        source: The directory of the files that the data set is made from.
        name: Stores it under this name, which also opens it.
        skip_bad_images: Leaves out and counts images that cannot be decoded, instead of failing at
            the first.
        validation_share: Draws about this share of the training images, by a hash of their names,
            as the validation split that the source lacks.
        progress: Called with (split, images done, images in the split).

    Raises:
        ConfigurationError: If the arguments do not fit the data set.
        DataError: If the source is not as it should be, another source is stored under the name,
            or the files cannot be written.
    """
    builder_name, _, config = dataset.partition("/")
    builder_class = load_builder(builder_name)
    origin = Path(source).expanduser().absolute() if source else None
    options = {
        "source": origin,
        "name": name,
        "skip_bad_images": skip_bad_images,
        "validation_share": validation_share,
    }
    _check_arguments(builder_class, config, options)
    root = resolve_data_dir(data_dir)
    stored = f"{name or builder_name}/{config}".rstrip("/")
    directory = root / stored / str(builder_class.VERSION)
    prepared = f"{stored}:{builder_class.VERSION}"
    make_builder = partial(builder_class, config=config or None, progress=progress, **options)
    is_new = False
    # It is renamed when it is whole; where it lies may be read-only.
    if not directory.exists():
        is_new = _store(make_builder, root, stored, directory)
    if not is_new:
        _check_same(builder_class, directory, origin, validation_share)
    return dataset_info(prepared, root)


def _store(
    make_builder: "Callable[..., StoredBuilder]", root: Path, stored: str, directory: Path
) -> bool:
    """Stores a data set, or returns False where another process has done so meanwhile."""
    with _writing_to(root), _locked(root, stored):
        if directory.exists():
            return False
        _remove_leftovers(directory.parent)
        builder = make_builder(data_dir=root)
        _check_space(builder, root)
        _write(builder)
    return True


def _check_arguments(
    builder_class: "type[StoredBuilder]", config: str, options: Mapping[str, Any]
) -> None:
    builder, configs = builder_class.name, list(builder_class.builder_configs)
    if config and config not in configs:
        if not configs:
            raise ConfigurationError(f"{builder} has no configurations: write {builder!r}")
        raise unknown_name(f"configuration of {builder}", config, configs)
    if configs and not config:
        raise ConfigurationError(
            f"{builder}: choose {', '.join(f'{builder}/{c}' for c in configs)}"
        )
    given = [option for option, value in options.items() if value not in (None, False)]
    if given and not builder_class.takes_source:
        option = given[0].replace("_", "-")
        raise ConfigurationError(f"{builder} is drawn, not read: it takes no --{option}")
    name, validation_share = options["name"], options["validation_share"]
    if validation_share is not None and not 0 < validation_share < 1:
        raise ConfigurationError(
            f"--validation-share must be above 0 and below 1, such as 0.1; got {validation_share:g}"
        )
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigurationError(f"the name {name!r} must be a letter, then letters, digits or _")
    if name in BUILDERS and name != builder:
        raise ConfigurationError(f"the name {name!r} belongs to another builder: choose another")


def _check_same(
    builder_class: "type[StoredBuilder]",
    directory: Path,
    source: Path | None,
    validation_share: float | None,
) -> None:
    """Raises if what is stored is not what was asked for."""
    try:
        metadata = json.loads((directory / "metadata.json").read_text("utf-8"))
    except (OSError, ValueError):
        metadata = {}
    if metadata.get("builder") != builder_class.name:
        raise DataError(
            f"{directory} was not prepared by {builder_class.name}; choose another --name"
        )
    if source is None and validation_share is None:
        return
    stored = metadata.get("validation_share")
    if validation_share != stored:
        how = f"with --validation-share {stored:g}" if stored else "without --validation-share"
        raise DataError(
            f"{directory} is already prepared {how}; choose another --name, or remove that "
            "directory"
        )
    if source is None:
        return
    if str(source) != metadata.get("source"):
        raise DataError(
            f"{directory} is already prepared from {metadata.get('source')}, not from {source}; "
            "choose another --name, or remove that directory"
        )
    try:
        lacking = builder_class.splits_in(source) - set(metadata.get("splits", ()))
    except (DataError, OSError):  # once it is stored, the source may be gone
        return
    if lacking:
        raise DataError(
            f"{directory} was prepared when {source} had no {', '.join(sorted(lacking))}; remove "
            "that directory to prepare it again"
        )


def _check_space(builder: "StoredBuilder", root: Path) -> None:
    needed = sum(item.size for items in builder.split_items.values() for item in items)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f"{root} has {free / 2**30:.1f} GiB free, but {builder.name} needs about "
            f"{needed / 2**30:.1f} GiB; free some space or choose another --data-dir"
        )


def _write(builder: "StoredBuilder") -> None:
    # TFDS makes a directory for downloads, of which there are none.
    with tempfile.TemporaryDirectory() as downloads:
        file_format = "array_record" if find_spec("array_record") else "parquet"
        builder.download_and_prepare(download_dir=downloads, file_format=file_format)


def _remove_leftovers(parent: Path) -> None:
    """Removes what a killed process left; only call it with the lock held."""
    for entry in parent.glob(f"{_INCOMPLETE}*"):
        shutil.rmtree(entry)


@contextlib.contextmanager
def _writing_to(root: Path) -> Iterator[None]:
    """Says in one line why files under `root` cannot be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.filename is not None and not _is_within(error.filename, root):
            raise DataError(f"{error.filename}: {error.strerror}") from error
        raise DataError(_write_failure(root, error.strerror or str(error))) from error
    except RuntimeError as error:
        # array_record reports the errors of the system by text alone.
        if "write() failed" not in str(error):
            raise
        raise DataError(_write_failure(root, str(error).split(";")[0])) from error


def _write_failure(root: Path, reason: str) -> str:
    return (
        f"cannot write to the data directory {root}: {reason}; nothing was kept: free some space "
        "or choose another --data-dir, and run it again"
    )


def _is_within(path: str | bytes | int, root: Path) -> bool:
    if isinstance(path, int):
        return False
    inside = Path(os.fsdecode(path)).absolute()
    return inside.is_relative_to(root) or root.is_relative_to(inside)


@contextlib.contextmanager
def _locked(root: Path, stored: str) -> Iterator[None]:
    """Holds the lock of a data set, and makes its directory; what is empty goes at the end."""
    directory, path = root / stored, root / f".{stored.replace('/', '-')}.lock"
    lock = file_lock(path)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        _remove_if_empty(directory, root)
        path.unlink(missing_ok=True)  # last, since from here on others lock a new file
        lock.release()


def _remove_if_empty(directory: Path, root: Path) -> None:
    """Removes the directories of a data set that hold nothing, after a failure."""
    while directory != root:
        with contextlib.suppress(OSError):
            # TFDS notes the default configuration before it writes anything.
            if [entry.name for entry in directory.iterdir()] == [".config"]:
                shutil.rmtree(directory / ".config")
        try:
            directory.rmdir()
        except OSError:
            return  # not empty: another configuration or version is there
        directory = directory.parent
