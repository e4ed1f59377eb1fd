"""What the builders of masks share: masks are encoded, and a split must show a class."""

import collections
import io
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from mobilevit_jax.data.builders.base import Item, StoredBuilder
from mobilevit_jax.data.masks import encode_mask
from mobilevit_jax.data.voc_names import VOID
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

    @abstractmethod
    def example(self, item: Item) -> dict[str, Any]:
        """Makes the example of an item, "mask" as uint8 [h, w]: a class, or `VOID`, a pixel."""

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
