"""Files as users have them: folders of images among other things, and texts.

What cannot be read is named by its path; what is no image is told, not passed over.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mobilevit_jax.data.decode import IMAGE_ENDINGS
from mobilevit_jax.errors import DataError, shortened

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


def some_names(paths: Sequence[Path], folder: Path) -> str:
    """Returns the first few of some paths in a folder for a message, hidden ones last."""
    ordered = sorted(paths, key=lambda path: (is_hidden(path.name), path))
    names = [printable(str(path.relative_to(folder))) for path in ordered[:_NAMED]]
    return ", ".join(names) + (", ..." if len(paths) > _NAMED else "")


def printable(name: str) -> str:
    """Returns a file name as text that UTF-8 can store, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "replace")


def read_bytes(path: Path) -> bytes:
    """Reads a file.

    Raises:
        DataError: If it cannot be read; the message has the path.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        _refuse(error, path)


def read_text(path: Path) -> str:
    """Reads a text in UTF-8, with or without a byte-order mark.

    Raises:
        DataError: If it cannot be read, or is no such text; names the path and the line.
    """
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
        if "\0" not in text:
            return text
        start = data.index(0)
    except UnicodeDecodeError as error:
        start = error.start
    line = data.count(b"\n", 0, start) + 1
    raise DataError(f"{path} is not text in UTF-8 (see line {line}); save it in that encoding")


def read_json(path: Path, change: Callable[[dict[str, Any]], Any] = dict) -> Any:
    """Reads JSON in UTF-8.

    Args:
        path: The file.
        change: Makes of each object what stands in its place.

    Raises:
        DataError: As `read_text`, or if it is no JSON, or a key stands twice in an object; names
            the object by its id if it has one.
    """

    def join(pairs: list[tuple[str, Any]]) -> Any:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            twice = ascii(Counter(key for key, _ in pairs).most_common(1)[0][0])
            what = f": the entry of id {shortened(entry['id'], 40)}" if "id" in entry else ""
            raise DataError(f"{path}{what} has the key {shortened(twice, 40)} twice; keep one")
        return change(entry)

    try:
        return json.loads(read_text(path), object_pairs_hook=join)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {shortened(error)}") from error


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text in UTF-8; raises as `read_text`."""
    return read_text(path).splitlines()


def _refuse(error: OSError, path: Path | None = None) -> NoReturn:
    raise DataError(f"cannot read {path or error.filename}: {error.strerror}") from error
