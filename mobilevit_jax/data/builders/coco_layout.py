"""Where a data set in COCO's layout has its images and annotations.

They are folders of images, and `annotations/instances_<folder>.json` about each. Roboflow puts its
`_annotations.coco.json` into the folder.
"""

import re
from pathlib import Path
from typing import NamedTuple

from mobilevit_jax.data.builders.splits import Splits, by_split, split_name, usual_split
from mobilevit_jax.data.files import is_hidden
from mobilevit_jax.errors import DataError

LAYOUT = (
    "<folder>/<image> and annotations/instances_<folder>.json, such as train2017, or "
    "<folder>/_annotations.coco.json"
)
_BESIDE = "_annotations.coco.json"  # as Roboflow has it, among the images
_STEM = re.compile(r"instances_(.+)\.json")


class SplitFiles(NamedTuple):
    """Where a split is."""

    annotations: Path
    images: Path


def find_splits(source: Path) -> Splits:
    """Returns the `SplitFiles` of every split that has annotations and a folder of images.

    The annotations of a folder that is not there are passed over: COCO has them all in one
    archive.

    Raises:
        DataError: If there is no split, or a name stands for two.
    """
    complete = _complete_splits(source)
    for stem, files in complete.items():
        split_name(stem, files.annotations)
    if complete:
        return by_split(complete.items(), source)
    stems = [stem for stem, _ in _annotation_files(source)]
    if not stems:
        raise DataError(
            f"{source / 'annotations'} has no instances_*.json; a source holds {LAYOUT}"
        )
    raise DataError(
        f"{source} has annotations of {', '.join(stems)}, but no folder of images of such a name"
    )


def _annotation_files(source: Path) -> list[tuple[str, Path]]:
    found = []
    for path in sorted((source / "annotations").glob("instances_*.json")):
        match = _STEM.fullmatch(path.name)
        if match:
            found.append((match[1], path))
    return found


def _complete_splits(source: Path) -> dict[str, SplitFiles]:
    found: dict[str, SplitFiles] = {}
    for stem, path in _annotation_files(source):
        for folder in (source / stem, source / "images" / stem):
            if folder.is_dir():
                found[stem] = SplitFiles(path, folder)
                break
    for path in sorted(source.glob(f"*/{_BESIDE}")):
        folder = path.parent
        if folder.name in found:
            other = found[folder.name].annotations
            raise DataError(f"{other} and {path} are of one split, {folder.name!r}; keep one")
        if not is_hidden(folder.name):
            found[folder.name] = SplitFiles(path, folder)
    return found


def left_out(source: Path, splits: Splits) -> dict[str, int]:
    """Returns notes of what would be splits if the other half of them were there."""
    known = set(splits.called.values())
    stems = sorted({stem for stem, _ in _annotation_files(source)} - known)
    folders = sorted(f.name for f in source.iterdir() if f.is_dir() and usual_split(f.name))
    alone = [name for name in folders if name not in (*known, *stems)]
    return {
        f"annotations left out, without a folder of images: {', '.join(stems)}": len(stems),
        f"folders left out, without annotations: {', '.join(alone)}": len(alone),
    }
