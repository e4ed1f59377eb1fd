"""Mean intersection over union at the images' own size, from one matrix of all pixels.

The network's class map is resized to the image to the nearest pixel (CVNets v0.1 evaluates so), and
every pixel of the ground truth but void (255) is counted under its class and the predicted one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from mobilevit_jax.data.batches import LoadExample, Records
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.masks import to_segmentation
from mobilevit_jax.data.sampler import PlannedBatch
from mobilevit_jax.data.sources import Split
from mobilevit_jax.data.voc_names import VOID
from mobilevit_jax.errors import DataError
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.evaluation import (
    Outputs,
    SplitEvaluator,
    each_image,
    image_examples,
    image_step,
)
from mobilevit_jax.tasks.segmentation.config import SegmentationConfig
from mobilevit_jax.tasks.segmentation.maps import (
    keeping_aspect,
    make_classify,
    read_mask,
    resize_classes,
    whole_images,
)
from mobilevit_jax.training.step import to_float

_DECODERS = 4  # threads that compare class maps with masks, unless the loader has a number


@dataclass(frozen=True)
class Confusion:
    """How often each class was taken for each.

    Attributes:
        matrix: int64 [classes, classes]: pixels of a class (row) that got a class (column).
        class_names: Of the masks' values; a background counts as a class, as in VOC.
        count: Number of images behind it.
    """

    matrix: np.ndarray
    class_names: tuple[str, ...]
    count: int

    @property
    def per_class(self) -> dict[str, float]:
        """Intersection over union of the classes that the ground truth has, by their names."""
        hits = np.diag(self.matrix)
        there = self.matrix.sum(1)
        union = there + self.matrix.sum(0) - hits
        return {
            name: float(hit / all_pixels)
            for name, hit, own, all_pixels in zip(self.class_names, hits, there, union, strict=True)
            if own
        }

    @property
    def miou(self) -> float:
        """The plain mean of `per_class`.

        Classes that no pixel of the ground truth has are left out, as there is nothing to find;
        pixels taken for one of them count against the class that they are of.
        """
        values = list(self.per_class.values())
        return sum(values) / len(values)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that got their class."""
        return float(np.trace(self.matrix) / self.matrix.sum())


class _Row(NamedTuple):
    """One image's answer: its place in the split, its own size, and its class map.

    The class map has the network's size.
    """

    index: int
    size: tuple[int, ...]
    classes: np.ndarray


class SegmentationEvaluator(SplitEvaluator[list[_Row]]):
    """Measures "miou" and "pixel_accuracy", every image at its own size.

    Only one batch of class maps is kept at a time, and one matrix. Masks that cannot be decoded are
    skipped as images are. With the protocol "keep_aspect", images come one by one, on one device
    (of each host, if there are several).

    Attributes:
        found: What the last call counted.
    """

    found: Confusion | None = None

    def __init__(
        self,
        model: Any,
        processor: ImageProcessor,
        config: SegmentationConfig,
        class_names: Sequence[str],
    ) -> None:
        """Compiles nothing yet; the first call does.

        Images are resized whole to the size of the processor's crop; see `maps.whole_images`. The
        class names are those of the masks' values.
        """
        classify_floats = make_classify(model)

        def classify(variables: Any, images: Any) -> jax.Array:
            return classify_floats(variables, to_float(images, processor))

        whole = whole_images(processor)
        super().__init__(
            image_step(lambda variables, images: {"classes": classify(variables, images)}),
            _examples(whole),
            whole.crop_size,
        )
        self._classify = jax.jit(classify)
        self._processor = processor
        self._config = config
        self._class_names = tuple(class_names)

    @property
    def per_class(self) -> dict[str, float]:
        """Intersection over union of the last call's classes; see `Confusion.per_class`."""
        return self.found.per_class if self.found else {}

    def _read(self, outputs: Outputs) -> list[_Row]:
        return [
            _Row(int(image["index"]), tuple(image["size"].tolist()), image["classes"])
            for image in each_image(outputs)
        ]

    def _metrics(
        self, batches: Iterator[list[_Row]], split: Split, loader: LoaderConfig
    ) -> dict[str, float]:
        size = len(self._class_names)
        matrix, count = np.zeros((size, size), np.int64), 0
        compare = _comparison(split, size, skip_bad=loader.skip_bad_images)
        with ThreadPoolExecutor(loader.threads or _DECODERS) as pool:
            for rows in batches:
                for part in pool.map(compare, rows):
                    if part is not None:
                        matrix += part
                        count += 1
        if not matrix.any():
            raise DataError(f"no pixel of {split.info.name} {split.name} has a class")
        self.found = found = Confusion(matrix, self._class_names, count)
        return {"miou": found.miou, "pixel_accuracy": found.pixel_accuracy, "count": count}

    def _batches(
        self,
        variables: Any,
        split: Split,
        batch_size: int,
        loader: LoaderConfig,
        poll: Callable[[], None] | None,
    ) -> Iterator[list[_Row]]:
        if self._config.protocol == "fixed":
            yield from super()._batches(variables, split, batch_size, loader, poll)
            return
        variables = jax.device_put(variables, jax.local_devices()[0])
        order = self._processor.channel_order
        for index in range(len(split)):
            if poll is not None:
                poll()
            record = split.records([index])[0]
            try:
                data = to_segmentation(record)["image"]
                image = decode_image(data, name=record["name"], channel_order=order)
            except DataError:
                if not loader.skip_bad_images:
                    raise
                continue
            processor = keeping_aspect(
                self._processor,
                *image.shape[:2],
                multiple=self._config.multiple,
                name=record["name"],
            )
            classes = self._classify(variables, processor.pixels(image)[None])
            yield [_Row(index, image.shape[:2], np.asarray(classes)[0])]


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the pixels of a mask by class (row) and predicted class (column).

    Args:
        truth: uint8 [h, w]; 255 is left out.
        predicted: uint8 [h, w], below `num_classes`.
        num_classes: Number of classes.

    Returns:
        int64 [num_classes, num_classes].
    """
    labelled = truth != VOID
    pairs = truth[labelled].astype(np.int32) * num_classes + predicted[labelled]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _comparison(
    split: Records, num_classes: int, *, skip_bad: bool
) -> Callable[[_Row], np.ndarray | None]:
    """Returns the function that counts an answer, or gives None for a bad mask that is skipped."""

    def compare(row: _Row) -> np.ndarray | None:
        found = to_segmentation(split.records([row.index])[0])
        try:
            truth = read_mask(found["mask"], num_classes, name=found["name"])
        except DataError:
            if not skip_bad:
                raise
            return None
        if truth.shape != row.size:
            raise DataError(
                f"{found['name']}: the mask has {truth.shape[0]}x{truth.shape[1]} pixels, its "
                f"image {row.size[0]}x{row.size[1]}; prepare the data set again with masks that fit"
            )
        return confusion_matrix(truth, resize_classes(row.classes, *truth.shape), num_classes)

    return compare


def _examples(processor: ImageProcessor) -> LoadExample:
    """Returns `image_examples`; a record without a mask is refused before anything is computed."""
    load_image = image_examples(processor)

    def load(record: dict[str, Any], record_id: int, planned: PlannedBatch) -> Mapping[str, Any]:
        return load_image(to_segmentation(record), record_id, planned)

    return load
