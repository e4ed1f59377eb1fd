"""Folders of images and masks of one's own classes.

A source holds `<split>/images` and `<split>/masks`, or `images/<split>` and `masks/<split>`, and a
file that names the classes, see `mask_classes`. The mask of `images/town/1.jpg` is
`masks/town/1.png`, or `1_mask.png`, or `1_L.png` as CamVid has it.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mobilevit_jax.base.texts import read_bytes
from mobilevit_jax.data.builders.base import Item
from mobilevit_jax.data.builders.mask_classes import FILES
from mobilevit_jax.data.builders.segmentation import OwnClassesBuilder
from mobilevit_jax.data.decode import IMAGE_ENDINGS
from mobilevit_jax.data.files import list_images, printable, size_of, some_names, without_ending
from mobilevit_jax.errors import DataError

_LAYOUT = f"<split>/images, <split>/masks and {FILES[0]}"
_ENDINGS = ("_mask", "_L")


class _Pair(NamedTuple):
    image: Path
    mask: Path


class MaskFolder(OwnClassesBuilder, skip_registration=True):
    """A user's own images with a mask each, of the user's own classes; void is 255."""

    name = "mask_folder"
    layout = _LAYOUT

    def items(self) -> Mapping[str, Sequence[Item]]:
        """Returns the pairs of image and mask of each split."""
        return {split: self._list(split, *pair) for split, pair in self._pairs_of_folders.items()}

    def example(self, item: Item) -> dict[str, Any]:
        """Reads an image, whose bytes pass untouched, and turns its mask into class indices."""
        pair: _Pair = item.content
        names = {"image_name": str(pair.image), "mask_name": str(pair.mask)}
        mask = self.own.read(read_bytes(pair.mask), name=names["mask_name"])
        return self.pair(read_bytes(pair.image), mask, name=printable(item.key), **names)

    @cached_property
    def _pairs_of_folders(self) -> dict[str, tuple[Path, Path]]:
        """{split: (its folder of images, its folder of masks)}."""
        images, masks = self.folder / "images", self.folder / "masks"
        parent = images if images.is_dir() else self.folder
        pairs = {}
        for split, folder in self.split_folders(parent).items():
            inside = folder, masks / folder.relative_to(parent)
            pairs[split] = inside if parent == images else (folder / "images", folder / "masks")
        for pair in pairs.values():
            for folder in pair:
                if not folder.is_dir():
                    raise DataError(f"{folder} is not there; a source holds {_LAYOUT}")
        if not pairs:
            raise DataError(
                f"{parent} has no folders of splits; a source "
                f"holds {_LAYOUT}, or give --validation-share 0.1 to have the splits drawn"
            )
        return pairs

    def _list(self, split: str, images: Path, masks: Path) -> list[Item]:
        found = self._by_stem(split, images, IMAGE_ENDINGS)
        if not found:
            raise DataError(f"{images} has no image ({', '.join(IMAGE_ENDINGS)})")
        unused, items, lacking = self._by_stem(split, masks, (".png",)), [], []
        for stem, image in found.items():
            # Of images a.jpg and a_mask.jpg, the mask a_mask.png is the latter's.
            names = [stem, *(stem + end for end in _ENDINGS if stem + end not in found)]
            fitting = [unused.pop(name) for name in names if name in unused]
            if len(fitting) > 1:
                raise DataError(f"{image} has two masks, {fitting[0]} and {fitting[1]}; keep one")
            if not fitting:
                lacking.append(image)
            pair = _Pair(image, fitting[0] if fitting else masks / f"{stem}.png")
            # Greyscale masks take some 5 kB.
            size = size_of(image) + 5000
            items.append(Item(image.relative_to(self.folder).as_posix(), size, pair))
        if lacking and not self.skip_bad_images:
            raise DataError(
                f"{lacking[0]} has no mask in {masks}, as have {len(lacking) - 1} more of the "
                f"{len(found)} images; complete them, or use --skip-bad-images"
            )
        if unused:
            raise DataError(
                f"{min(unused.values())} has no image in {images}, as have {len(unused) - 1} more "
                "masks; complete the images, or remove the masks"
            )
        return items

    def _by_stem(self, split: str, folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
        """Returns the files of some kinds in a folder, by their path in it without the ending."""
        found: dict[str, Path] = {}
        images, others = list_images(folder)
        for path in images:
            stem = without_ending(path.relative_to(folder).as_posix())
            if not path.name.lower().endswith(endings):
                raise DataError(
                    f"{path} cannot be a mask: it must be a PNG, which keeps every pixel as it is "
                    "(JPEG blurs the edges between classes)"
                )
            if stem in found:
                raise DataError(f"{found[stem]} and {path} have one name; rename one")
            found[stem] = path
        if others:
            what = f"files of {folder.name} left out, such as {some_names(others, folder)}"
            self.notes[split][what] = len(others)
        return found
