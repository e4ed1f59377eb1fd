"""Folders of images among other things, as users have them: what is no image is told."""

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from mobilevit_jax.data.decode import IMAGE_ENDINGS
from mobilevit_jax.errors import DataError

# Thumbnails and the like that systems leave in folders.
_SYSTEM = (".", "@eaDir", "__MACOSX")
_NAMED = 3


class Listing(NamedTuple):
    """What lies in a folder, sorted.

    Attributes:
        images: The files that are named like images.
        others: All other files, folders of the system, and folders that were listed already.
    """

    images: list[Path]
    others: list[Path]


def list_images(folder: Path) -> Listing:
    """Lists a folder and those in it; links are followed, and each folder is listed once.

    A link to a folder around it is among the others: it would bring in what stands beside.

    Raises:
        DataError: If one of the folders cannot be read.
    """
    images: list[Path] = []
    others: list[Path] = []
    seen = {os.path.realpath(above) for above in folder.absolute().parents}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        if os.path.realpath(place) in seen:
            others.append(Path(place))
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        others += [Path(place, name) for name in folders if is_hidden(name)]
        folders[:] = [name for name in folders if not is_hidden(name)]
        for path in (Path(place, name) for name in files):
            (images if is_image(path) else others).append(path)
    return Listing(sorted(images), sorted(others))


def is_image(path: Path) -> bool:
    """Whether a file is named like an image; so is a link to nothing, which reading it names."""
    named = path.name.lower().endswith(IMAGE_ENDINGS) and not is_hidden(path.name)
    return named and (path.is_file() or not path.exists())


def is_hidden(name: str) -> bool:
    """Whether a name is one that users do not see, or did not choose."""
    return name.startswith(_SYSTEM)


def without_ending(name: str) -> str:
    """Returns the name of an image without its ending; a dot before anything else stays."""
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in IMAGE_ENDINGS else name


def find_folder(parent: Path, name: str) -> Path | None:
    """Returns the folder of a name, lower case here and of any capitals there."""
    folders = parent.iterdir() if parent.is_dir() else ()
    return next((f for f in sorted(folders) if f.is_dir() and f.name.lower() == name), None)


def inside_folder(path: str, folder: str) -> str:
    """Returns what follows a folder in a path, all of it where the folder is not in it."""
    path = path.replace("\\", "/")
    _, found, inside = f"/{path}".rpartition(f"/{folder}/")
    return posixpath.normpath(inside.lstrip("/") if found else path)


def some_names(paths: Sequence[Path], folder: Path) -> str:
    """Returns the first few of some paths in a folder for a message, hidden ones last."""
    ordered = sorted(paths, key=lambda path: (is_hidden(path.name), path))
    names = [printable(str(path.relative_to(folder))) for path in ordered[:_NAMED]]
    return ", ".join(names) + (", ..." if len(paths) > _NAMED else "")


def size_of(path: Path) -> int:
    """Returns the bytes of a file, 0 of one that is not there, which reading it names."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def printable(name: str) -> str:
    """Returns a file name as text that UTF-8 can store, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "replace")


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
