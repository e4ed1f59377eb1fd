"""The file of a mask folder that says what its masks mean: names, colours, void.

`classes.txt` (or `label_colors.txt`, as CamVid calls it) has a class a line, in the order of the
masks' values from 0 on: a name, or a name and its colour, `road 128 64 128`, or the colour first,
with commas and brackets or without.
The name `void` is for what belongs to no class and may come often; 255 is void anyway. Two colours
of one name are one class. Empty lines and lines that begin with # are passed over.

`classes.json` says the same: {"classes": [names], "colors": {name: [r, g, b]}, "void": value}.

Without colours, the values of a mask count, greyscale or places in a palette. With colours, those
count, of RGB and of palettes; the values of a greyscale mask are still the lines' places, unless
all colours are shades of grey.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mobilevit_jax.base.texts import read_json, read_lines
from mobilevit_jax.data.builders.class_names import class_name
from mobilevit_jax.data.masks import decode_colors, decode_mask
from mobilevit_jax.data.voc_names import VOID
from mobilevit_jax.errors import DataError, count, nearest, shortened

FILES = ("classes.txt", "label_colors.txt", "classes.json")
_NO_CLASS = -1
_NUMBERS = r"(?P<{0}r>\d+)[\s,;]+(?P<{0}g>\d+)[\s,;]+(?P<{0}b>\d+)"
# No two parts side by side take the same characters: that would cost time by the cube of a line.
_RGB = rf"(?P<{{0}}open>[(\[]\s*)?{_NUMBERS}(?({{0}}open)\s*[)\]])"
_GAP = r"[\s,;:=]+"
_LINE = re.compile(
    rf"{_RGB.format('')}{_GAP}(?P<last>.*\S)|(?P<first>.*?[^\s,;:=]){_GAP}{_RGB.format('_')}"
)
_COLOR = re.compile(rf"(?<![\d.]){_NUMBERS.format('')}(?![\d.])")
_NUMBERED = re.compile(r"(.*\S)[\s:,=]+(\d[\d.]*|#[0-9a-fA-F]{3,8})")
_KEYS = ("classes", "colors", "void")


class _Entry(NamedTuple):
    """A line, or what stands for one: a value of masks and what it is."""

    value: int
    where: str
    name: str
    color: tuple[int, int, int] | None


@dataclass(frozen=True)
class MaskClasses:
    """What the pixels of masks mean.

    Attributes:
        path: The file that says it.
        names: By class index.
        values: int16 [256]: for each value of a mask its class, `VOID`, or -1 for none.
        colors: {red << 16 | green << 8 | blue: class or `VOID`}.
    """

    path: Path
    names: tuple[str, ...]
    values: np.ndarray
    colors: dict[int, int]

    def read(self, data: bytes, *, name: str) -> np.ndarray:
        """Decodes a mask.

        Args:
            data: A PNG file.
            name: What to call it in an error.

        Returns:
            uint8 [h, w], a class index a pixel, 255 for void.

        Raises:
            DataError: If it is no mask, or a pixel is of no class.
        """
        colors = decode_colors(data, name=name) if self.colors else None
        if colors is None:
            mask = decode_mask(data, name=name)
            if not self._only_grey:
                return self._of_values(mask, name)
            colors = np.repeat(mask[..., None], 3, axis=2)
        return self._of_colors(colors, name)

    @property
    def _only_grey(self) -> bool:
        return bool(self.colors) and all(code % 0x010101 == 0 for code in self.colors)

    def _of_values(self, mask: np.ndarray, name: str) -> np.ndarray:
        classes = self.values[mask]
        if (classes == _NO_CLASS).any():
            value, pixels = _most_frequent(mask[classes == _NO_CLASS])
            known = np.flatnonzero(self.values != _NO_CLASS)
            raise DataError(
                f"{name} has the value {value} at {count(pixels, 'pixel')}, which is no class: by "
                f"{self.path.name} the values are 0 to {known[-2]} and {known[-1]}"
            )
        return classes.astype(np.uint8)

    def _of_colors(self, pixels: np.ndarray, name: str) -> np.ndarray:
        codes = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        known = np.array(sorted(self.colors), np.int32)
        places = np.searchsorted(known, codes).clip(max=len(known) - 1)
        strange = known[places] != codes
        if strange.any():
            code, at = _most_frequent(codes[strange])
            others = len(np.unique(codes[strange])) - 1
            more = f", and {count(others, 'more such colour')}" if others else ""
            raise DataError(
                f"{name} has the colour {code >> 16} {code >> 8 & 255} {code & 255} at "
                f"{count(at, 'pixel')}{more}, which {self.path.name} does not have; complete it, "
                "or save masks without smoothed edges"
            )
        return np.array([self.colors[int(code)] for code in known], np.uint8)[places]


def read_classes(source: Path) -> MaskClasses:
    """Reads the file of a source.

    Raises:
        DataError: If there is none, or several, or it is not as it should be; names the line.
    """
    there = [source / name for name in FILES if (source / name).is_file()]
    if len(there) != 1:
        found = f"has {' and '.join(path.name for path in there)}" if there else "has none"
        raise DataError(
            f"{source} needs one file that names the classes, {', '.join(FILES)}, and {found}"
        )
    path = there[0]
    return _join(path, (_from_json if path.suffix == ".json" else _from_lines)(path))


def _from_lines(path: Path) -> list[_Entry]:
    entries: list[_Entry] = []
    for number, line in enumerate(read_lines(path), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        name, color = line, None
        if not match and _COLOR.search(line):
            raise DataError(
                f"{path}, line {number}: {shortened(line, 80)} is not a name and a colour; write "
                "them as 'road 128 64 128', brackets in pairs"
            )
        if match:
            name = match["last"] or match["first"]
            r, g, b = (int(match[c] or match[f"_{c}"]) for c in "rgb")
            color = r, g, b
        entries.append(_Entry(len(entries), f"line {number}", name, color))
    return entries if len(entries) > VOID else [*entries, _Entry(VOID, "", "void", None)]


def _from_json(path: Path) -> list[_Entry]:
    content = read_json(path)
    shape = '{"classes": [names], "colors": {name: [r, g, b]}, "void": value}'
    if not isinstance(content, dict) or not _are_names(content.get("classes")):
        raise DataError(f"{path} must hold {shape}")
    for key in content:
        if key not in _KEYS:
            raise DataError(
                f"{path} has the key {key!r:.60}{nearest(key, _KEYS)}; it must hold {shape}"
            )
    names, colors, void = content["classes"], content.get("colors", {}), content.get("void", VOID)
    if not isinstance(void, int) or not 0 <= void <= 255 or void < len(names):
        raise DataError(
            f'{path}: "void" must be a value from 0 to 255 that is no class, and the classes are 0 '
            f'to {len(names) - 1}; got {void!r}; a void among them is a name, "void", in its place'
        )
    if not isinstance(colors, dict) or not all(_is_color(color) for color in colors.values()):
        raise DataError(f'{path}: "colors" must be {{name: [r, g, b]}}, whole numbers')
    for name in colors:
        if name not in (*names, "void"):
            raise DataError(f"{path} has a colour of {name!r:.60}, which is no class")
    listed = [*enumerate(names), (void, "void")]
    return [_Entry(value, f"class {value}", name, _color(colors, name)) for value, name in listed]


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(n, str) and n.strip() for n in names)


def _is_color(color: Any) -> bool:
    return isinstance(color, list) and len(color) == 3 and all(type(c) is int for c in color)


def _color(colors: dict[str, list[int]], name: str) -> tuple[int, int, int] | None:
    return (colors[name][0], colors[name][1], colors[name][2]) if name in colors else None


def _join(path: Path, entries: list[_Entry]) -> MaskClasses:
    """Numbers the names, and gives each value and each colour its number."""
    _check_numbers(path, [entry.name for entry in entries if entry.name.lower() != "void"])
    colored = any(entry.color for entry in entries)
    names: list[str] = []
    values, colors = np.full(256, _NO_CLASS, np.int16), {}
    for value, where, given, color in entries:
        name = class_name(given, f"{path}, {where}")
        is_void = name.lower() == "void"
        if colored and color is None and not is_void:
            raise DataError(f"{path}, {where}: {name!r:.60} has no colour r g b, but others have")
        if color and max(color) > 255:
            raise DataError(f"{path}, {where}: the colour of {name!r:.60} must be of 0 to 255")
        if name in names and not color:
            raise DataError(f"{path}, {where}: the class {name!r:.60} is named twice")
        if not is_void and name not in names:
            names.append(name)
        index = VOID if is_void else names.index(name)
        if value < len(values):
            values[value] = index
        if color:
            code = color[0] << 16 | color[1] << 8 | color[2]
            if colors.setdefault(code, index) != index:
                raise DataError(
                    f"{path}, {where}: the colour of {name!r:.60} is another class's too"
                )
    _check_names(path, names)
    return MaskClasses(path, tuple(names), values, colors)


def _check_names(path: Path, names: list[str]) -> None:
    if not 2 <= len(names) <= VOID:
        raise DataError(
            f"{path} names {count(len(names), 'class', 'classes')}; 2 to {VOID} will do"
        )


def _check_numbers(path: Path, names: list[str]) -> None:
    """Refuses names that are numbered, each on its own."""
    if names and all(re.match(r"\d+\s*[\s:,=]", name) for name in names):
        raise DataError(
            f"{path}: every line begins with a number; write names alone, in the order of the "
            "values from 0 on"
        )
    # "grade 1" and "grade 2" are names, "sky 1" and "road 2" names and values.
    numbered = [match for name in names if (match := _NUMBERED.fullmatch(name))]
    if len(names) > 1 and len({match[1] for match in numbered}) == len(names):
        raise DataError(
            f"{path}: every line ends with a number or a code of a colour; write names alone, in "
            "the order of the values from 0 on, or with colours as r g b"
        )


def _most_frequent(values: np.ndarray) -> tuple[int, int]:
    """Returns a value and how often it is there."""
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()]), int(counts.max())
