"""VOC's lists of splits: which files they are, and which image a line names."""

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from mobilevit_jax.base.texts import read_lines
from mobilevit_jax.data.builders.coco_layout import SplitFiles
from mobilevit_jax.data.builders.splits import Splits, by_split, usual_split
from mobilevit_jax.data.decode import IMAGE_ENDINGS
from mobilevit_jax.data.files import find_folder, inside_folder, without_ending
from mobilevit_jax.errors import DataError, shortened

_TEXTS = "*.[tT][xX][tT]"
_BOTH = re.compile(r"trainval\d*", re.IGNORECASE)
_IMAGE, _XML = rf"(.+(?:{'|'.join(map(re.escape, IMAGE_ENDINGS))}))", r"(.+\.xml)"
_PAIR = re.compile(rf"{_IMAGE}\s+{_XML}|{_XML}\s+{_IMAGE}", re.IGNORECASE)
# How VOC's lists of one class write whether an image shows it: " -1", "  0" or "  1". After a
# single space a number belongs to the name, as in "photo 1", unless all lines have one.
_LABEL = re.compile(r"(.*\S)(?: -1|(?:\t|\s\s+)-?[01])")
_LABELLED = re.compile(r"(.*\S)\s+(?:-1|0|1)")


def read_lists(root: Path, files: SplitFiles, marked: Collection[str]) -> Splits:
    """Reads the list of each split; those of one class are passed over.

    Args:
        root: The folder of a year.
        files: Its folders.
        marked: The names of its images that have an XML file.

    Returns:
        The file and {name: line} of each split.

    Raises:
        DataError: If a list is empty, or a line names an image again or two images.
    """
    read: dict[Path, dict[str, int]] = {}
    for path in _list_files(root):
        lines = {n: line for n, line in enumerate(map(str.strip, read_lines(path)), 1) if line}
        of_what, _, split = path.stem.rpartition("_")
        if of_what and _is_split(split) and are_labelled(lines.values()):
            continue  # a list of one class
        label = label_of(lines.values())
        names: dict[str, int] = {}
        for number, line in lines.items():
            name = _name_in(line, label, files, marked, f"{path}, line {number}")
            first = names.setdefault(name, number)
            if first != number:
                raise DataError(f"{path} lists {name} twice, in lines {first} and {number}")
        if not names:
            raise DataError(f"{path} lists no images; fill it or remove it")
        read[path] = names
    both = {path for path in read if _BOTH.fullmatch(path.stem)}
    others = {name for path in read if path not in both for name in read[path]}
    for path in both:
        if others.issuperset(read[path]):
            del read[path]  # "train+validation" names the same images
    where = next(iter(read)).parent if read else root
    return by_split(((path.stem, (path, names)) for path, names in read.items()), where)


def _list_files(root: Path) -> list[Path]:
    """Returns the lists of splits, which stand beside the folders where there is no ImageSets."""
    sets = find_folder(root, "imagesets")
    for folder in (find_folder(sets, "main"), sets) if sets else ():
        if folder and (files := sorted(folder.glob(_TEXTS))):
            return files
    return [path for path in sorted(root.glob(_TEXTS)) if _is_split(path.stem)]


def _is_split(name: str) -> bool:
    return bool(usual_split(name) or _BOTH.fullmatch(name))


def _name_in(
    line: str, label: re.Pattern[str], files: SplitFiles, marked: Collection[str], where: str
) -> str:
    """Returns the name of an image that a line has, alone, with a label or with its XML file."""
    words = line.split()
    if match := _PAIR.fullmatch(line):
        words = [file for file in match.groups() if file]
    if match or (len(words) == 2 and all(_is_inside(word, files) for word in words)):
        first, second = (_plain(word, files) for word in words)
        if first != second:
            raise DataError(
                f"{where}: {shortened(words[0], 80)} and {shortened(words[1], 80)} are not of one "
                "image; correct the line"
            )
        return first
    labelled = label.fullmatch(line)
    names = [_plain(text, files) for text in (line, *(labelled.groups() if labelled else ()))]
    return next((name for name in names if name in marked), names[0])


def _is_inside(path: str, files: SplitFiles) -> bool:
    return any(f"/{folder.name}/" in f"/{path}".replace("\\", "/") for folder in files)


def _plain(text: str, files: SplitFiles) -> str:
    """Returns the path of an image or its XML file in their folder, without the ending."""
    inside = inside_folder(inside_folder(text, files.images.name), files.annotations.name)
    inside = inside.lstrip("/")
    plain = inside[:-4] if inside.lower().endswith(".xml") else without_ending(inside)
    return unicodedata.normalize("NFC", plain)


def are_labelled(lines: Collection[str]) -> bool:
    """Whether all lines end like those of VOC's lists of one class."""
    return bool(lines) and all(map(_LABELLED.fullmatch, lines))


def label_of(lines: Collection[str]) -> re.Pattern[str]:
    """Returns how a line of a list has its label, after a first group without it."""
    return _LABELLED if len(lines) > 1 and are_labelled(lines) else _LABEL
