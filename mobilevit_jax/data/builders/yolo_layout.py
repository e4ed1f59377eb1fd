"""Where a data set in YOLO's layout has its images and labels, by data.yaml or by its folders.

Labels stand in a folder `labels` for each folder `images`, under the same names, or beside the
images where no folder is named so.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mobilevit_jax.base.texts import read_bytes, read_lines
from mobilevit_jax.data.builders.class_names import CLASSES, check_names, read_names
from mobilevit_jax.data.builders.splits import Splits, by_split
from mobilevit_jax.data.decode import IMAGE_ENDINGS
from mobilevit_jax.data.files import is_hidden, list_images
from mobilevit_jax.errors import DataError, shortened

LAYOUT = (
    "images/<split>/ and labels/<split>/, or <split>/images/ and <split>/labels/, with data.yaml"
)
# Beside images there may be other texts than labels.
_NO_LABELS = (CLASSES, "README")
_NOTHING = ("", "~", "null")  # as YAML has it
_KEYS = ("train", "val", "valid", "validation", "dev", "test")
_OTHER_KEYS = ("path", "names", "nc", "kpt_shape")


class Found(NamedTuple):
    """The images of a split.

    Attributes:
        images: Their files; those of a list may not be there.
        orphans: Label files without an image, in folders that are taken whole.
        others: What is among the images in such folders and not called like one.
        lines: Which file and line lists an image, where one does.
    """

    images: list[Path]
    orphans: list[Path]
    others: list[Path]
    lines: dict[Path, str]


@dataclass(frozen=True)
class Layout:
    """A data set in YOLO's layout.

    Attributes:
        root: The folder that everything is found from.
        names: Of the classes.
        places: Of each split, a list of the folders and text files that have its images.
        notes: What was taken otherwise than written, {file: {what: how often}}.
    """

    root: Path
    names: list[str]
    places: Splits
    notes: dict[str, dict[str, int]]

    def label_of(self, image: Path) -> Path:
        """Returns the label file of an image, be it there or not."""
        inside = image.relative_to(self.root) if image.is_relative_to(self.root) else image
        parts = list(inside.parts)
        if "images" in parts[:-1]:
            last = max(place for place, part in enumerate(parts[:-1]) if part == "images")
            parts[last] = "labels"
        label = self.root.joinpath(*parts).with_suffix(".txt")
        capital = label.with_suffix(".TXT")
        return capital if capital.exists() and not label.exists() else label

    def find(self, split: str) -> Found:
        """Lists a split.

        Raises:
            DataError: If it has no images, or one twice.
        """
        images, orphans, others, lines = [], [], [], {}
        for place in self.places[split]:
            listed = self._listed(place) if place.is_file() else self._inside(place)
            images += listed.images
            orphans += listed.orphans
            others += listed.others
            lines |= listed.lines
        if not images:
            places, kinds = ", ".join(map(str, self.places[split])), ", ".join(IMAGE_ENDINGS)
            raise DataError(f"the split {split!r} has no images ({kinds}): {places}")
        seen, owners = set(), {}
        for image in images:
            label = self.label_of(image)
            other = owners.setdefault(label, image)
            if image in seen:
                where = f"{lines[image]}: " if image in lines else ""
                raise DataError(f"{where}the split {split!r} has {image} twice; list it once")
            if other != image and label.exists():
                raise DataError(
                    f"{other} and {image} share the label file {label}; keep one, or rename one "
                    "and give it labels of its own"
                )
            seen.add(image)
        return Found(images, orphans, others, lines)

    def _inside(self, folder: Path) -> Found:
        images, others = list_images(folder)
        expected = {self.label_of(image) for image in images}
        labels = self.label_of(folder / "any").parent
        inside = list_images(labels).others if labels.is_dir() else []
        texts = {path for path in inside if _is_label(path)}
        # Labels may stand beside their images.
        others = [path for path in others if path not in texts]
        return Found(images, sorted(texts - expected), others, {})

    def _listed(self, file: Path) -> Found:
        images, lines = [], {}
        for number, line in enumerate(map(str.strip, read_lines(file)), 1):
            if not line:
                continue
            if not line.lower().endswith(IMAGE_ENDINGS):
                raise DataError(
                    f"{file}, line {number}: {shortened(line, 80)} is not called like an image "
                    f"({', '.join(IMAGE_ENDINGS)})"
                )
            places = [base / name for name in _spellings(line) for base in (file.parent, self.root)]
            images.append(_plain(next(filter(os.path.exists, places), self.root / line)))
            lines[images[-1]] = f"{file}, line {number}"
        return Found(images, [], [], lines)


def find_layout(source: Path) -> Layout:
    """Finds out how a source is laid out.

    Args:
        source: The folder of data.yaml, or a file of that kind, or a folder with `CLASSES`.

    Raises:
        DataError: If it is in no such layout, or its description is wrong.
    """
    is_file = source.is_file()
    folder, file = (source.parent, source) if is_file else (source, _description(source))
    if file is None:
        if not (folder / CLASSES).is_file():
            raise DataError(
                f"{folder} has neither data.yaml nor {CLASSES}, which name its classes; it must "
                f"hold {LAYOUT}"
            )
        return Layout(folder, read_names(folder / CLASSES), _folders(folder), {})
    content = _read_yaml(file)
    if "kpt_shape" in content:
        raise DataError(
            f"{file} has kpt_shape: its labels are poses, whose points cannot be told from "
            "outlines; keep the first five columns of each label, and take kpt_shape out"
        )
    given = str(content.get("path", ""))
    there = [folder / name for name in _spellings(given) if os.path.isdir(folder / name)]
    root = _plain(there[0] if there else folder)
    lost = f"path that is not there, {shortened(given, 80)}, its own folder taken"
    named = [(k, v) for k, v in content.items() if k.lower() in _KEYS and v not in _NOTHING]
    resolved = (
        (key, [_resolve(entry, file, (root, folder)) for entry in _entries(value, key, file)])
        for key, value in named
    )
    places = by_split(resolved, file)
    notes = {} if there or given in _NOTHING else {file.name: {lost: 1}}
    return Layout(root, _names(content, file), places or _folders(root), notes)


def _description(folder: Path) -> Path | None:
    """Returns data.yaml, or the only file of that kind."""
    if (folder / "data.yaml").is_file():
        return folder / "data.yaml"
    files = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise DataError(f"{folder} has {names}; give the one that counts as the source")
    return files[0] if files else None


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.BaseLoader):
        """Takes all values as they are written: a class may be called "no", false in YAML."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            mapping = super().construct_mapping(node, deep)
            if len(mapping) != len(node.value):
                line = node.start_mark.line + 1
                raise DataError(f"{file}: of the keys from line {line} on, one stands there twice")
            return mapping

    data = read_bytes(file)
    try:
        content = yaml.load(data, Loader=Loader)
    except DataError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not YAML: {shortened(error)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} must hold keys and values: names, train and val")
    known = [key for key in content if key.lower() in _OTHER_KEYS]
    for key in known:
        if key != key.lower() and key.lower() in content:
            raise DataError(f"{file} has both {key.lower()} and {key}; keep one")
        content[key.lower()] = content.pop(key)
    return content


def _names(content: Mapping[str, Any], file: Path) -> list[str]:
    """Returns the names of the classes, a list or {index: name}."""
    names = content.get("names")
    if isinstance(names, dict):
        try:
            numbered = {int(number): name for number, name in names.items()}
        except (TypeError, ValueError) as error:
            raise DataError(f"{file}: a class has no whole number: {error}") from error
        missing = sorted(set(range(len(names))) - set(numbered))
        if missing:
            raise DataError(
                f"{file}: names has {len(names)} classes, but no class {missing[0]}; number "
                "them from 0 on"
            )
        names = [numbered[number] for number in range(len(numbered))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file} must have names, a list of the classes or a number for each")
    if content.get("nc", str(len(names))) != str(len(names)):
        raise DataError(f"{file}: nc is not {len(names)}, the number of classes in names")
    return check_names(names, file)


def _entries(value: Any, key: str, file: Path) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in entries):
        raise DataError(f"{file}: {key} must be a folder, a text file, or a list of these")
    return entries


def _resolve(entry: str, file: Path, bases: Sequence[Path]) -> Path:
    """Returns where an entry is."""
    # Roboflow writes "../train/images" of a folder that lies beside the file.
    for name in (*_spellings(entry), _spellings(entry)[1].removeprefix("../")):
        for base in bases:
            if os.path.exists(base / name):
                return _plain(base / name)
    raise DataError(
        f"{file} names {shortened(entry)}, but there is none in {bases[0]}; correct the path, or "
        "take it out"
    )


def _spellings(path: str) -> tuple[str, str]:
    """Returns a path as it is, and as Windows would have meant it."""
    return path, path.replace("\\", "/")


def _folders(root: Path) -> Splits:
    """Returns the folders of images of each split, where no file names them."""
    images = root / "images"
    inner = _subfolders(images) if images.is_dir() else []
    named = [(folder.name, [folder]) for folder in inner]
    loose = images.is_dir() and any(p.suffix.lower() in IMAGE_ENDINGS for p in images.iterdir())
    if loose and inner:
        raise DataError(f"{images} has images beside the folders of its splits; move them into one")
    if loose:
        named.append(("train", [images]))
    outer = [folder for folder in _subfolders(root) if (folder / "images").is_dir()]
    named += [(folder.name, [folder / "images"]) for folder in outer]
    if not named:
        raise DataError(f"{root} has no folders of images; it must hold {LAYOUT}")
    return by_split(named, root)


def _subfolders(folder: Path) -> Iterable[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


def _is_label(path: Path) -> bool:
    named = path.suffix.lower() == ".txt" and not path.name.startswith(_NO_LABELS)
    return named and not is_hidden(path.name)


def _plain(path: Path) -> Path:
    """Returns a path without ".." in it; links that need not be followed stay."""
    return path.resolve() if ".." in path.parts else path
