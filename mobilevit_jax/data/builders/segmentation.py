"""What the builders of masks share: masks are encoded, and a split must show a class."""

import collections
import io
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mobilevit_jax.data.builders.base import Item, StoredBuilder
from mobilevit_jax.data.builders.mask_classes import MaskClasses, read_classes
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.masks import check_size, encode_mask
from mobilevit_jax.data.voc_names import VOC_CLASSES, VOID
from mobilevit_jax.errors import DataError


class SegmentationBuilder(StoredBuilder, skip_registration=True):
    """Base of the builders of images with masks.

    Attributes:
        zero: What a message says of class 0.
    """

    name = "segmentation"
    zero = "0 is background"

    def __init__(self, **options: Any) -> None:
        """Prepares a builder; the options are those of `StoredBuilder`."""
        self._values: dict[str, set[int]] = collections.defaultdict(set)
        super().__init__(**options)

    @property
    def classes(self) -> Sequence[str]:
        """The names of the masks' values."""
        return VOC_CLASSES

    def features(self) -> tfds.features.FeaturesDict:
        """Returns image (as in its file), mask (PNG) of the same size, and the image's name."""
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "mask": tfds.features.LabeledImage(
                    labels=list(self.classes), shape=(None, None, 1), encoding_format="png"
                ),
                "name": tfds.features.Text(),
            }
        )

    @abstractmethod
    def example(self, item: Item) -> dict[str, Any]:
        """Makes the example of an item, "mask" as uint8 [h, w]: a class, or `VOID`, a pixel."""

    def pair(
        self, image: bytes, mask: np.ndarray, *, name: str, image_name: str, mask_name: str
    ) -> dict[str, Any]:
        """Returns the example of an image, whose bytes pass untouched, and its decoded mask.

        Args:
            image: A file, which must decode to the size of the mask.
            mask: uint8 [h, w], a class, or `VOID`, a pixel.
            name: What the example is called.
            image_name: What the image is called in an error.
            mask_name: What the mask is called in an error.

        Raises:
            DataError: If the image does not decode, or has another size.
        """
        pixels = decode_image(image, name=image_name)
        check_size(mask, pixels, name=mask_name, image_name=f"its image {Path(image_name).name}")
        return {"image": io.BytesIO(image), "mask": mask, "name": name}

    def _load(self, split: str, item: Item) -> dict[str, Any] | None:
        example = super()._load(split, item)
        if example is not None:
            mask = example["mask"]
            self._values[split].update(np.flatnonzero(np.bincount(mask.ravel())).tolist())
            example["mask"] = io.BytesIO(encode_mask(mask))
        return example

    def check_stored(self, split: str, items: Sequence[Item]) -> None:
        """Refuses a split whose masks show no class."""
        found = self._values[split]
        if not found - {0, VOID}:
            raise DataError(
                f"no mask of the split {split!r} of {self.source} shows a class: their values are "
                f"{' and '.join(map(str, sorted(found)))}, but {self.zero} and {VOID} is left "
                "out of training; give the pixels of a class its number, from 1"
            )


class OwnClassesBuilder(SegmentationBuilder, skip_registration=True):
    """Base of the builders of masks of a user's own classes; void is 255."""

    name = "own_classes"
    zero = "one class, 0, leaves nothing to tell apart"

    @cached_property
    def own(self) -> MaskClasses:
        """What the values or colours of masks are, by a file of the source."""
        return read_classes(self.folder)

    @property
    def classes(self) -> Sequence[str]:
        """The names that the file has."""
        return self.own.names

    def check_stored(self, split: str, items: Sequence[Item]) -> None:
        """Refuses a split without classes, and notes the classes that none of its masks has."""
        super().check_stored(split, items)
        unseen = [n for index, n in enumerate(self.classes) if index not in self._values[split]]
        if unseen:
            what = f"of the {len(self.classes)} classes without a pixel, such as {unseen[0]!r}"
            self.notes[split][what] = len(unseen)
