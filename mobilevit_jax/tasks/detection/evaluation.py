"""Evaluation of detectors: from a split and weights to COCO's numbers and its results file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mobilevit_jax.base.atomic import replacing
from mobilevit_jax.data.annotations import to_detection
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.sources import DatasetInfo, Split
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.average_precision import coco_metrics
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.kinds import detect_images, kind_of
from mobilevit_jax.tasks.detection.pixels import pixel_boxes
from mobilevit_jax.tasks.evaluation import (
    Outputs,
    SplitEvaluator,
    each_image,
    image_examples,
    image_step,
)
from mobilevit_jax.training import parallel
from mobilevit_jax.training.step import to_float

_TOGETHER = 64  # records read at once for their ground truth
# Hundredths of a pixel, as finer ones only make the file longer.
_PLACES, _SCORE_PLACES = 2, 6


@dataclass(frozen=True)
class Found:
    """What was found in one image.

    Attributes:
        index: The image's place in the split.
        height: Of the image in pixels.
        width: Of the image in pixels.
        boxes: float64 [n, 4] as (x, y, width, height) in pixels.
        labels: int32 [n], classes from 1.
        scores: float64 [n].
    """

    index: int
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class DetectionEvaluator(SplitEvaluator[list[Found]]):
    """Measures `average_precision.METRICS`, without those of sizes that no object has.

    Memory holds a few batches, and of each image no more than its objects and detections.
    """

    def __init__(
        self,
        model: Any,
        processor: ImageProcessor,
        config: DetectionConfig,
        results: Path | None = None,
    ) -> None:
        """Compiles nothing yet; the first call does.

        `results` is a JSON file that each call writes the detections to, in COCO's format.
        """
        kind = kind_of(model)
        kind.check_processor(processor)
        nms = kind.nms(config)

        def detect(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
            return detect_images(model, variables, to_float(images, processor), nms)._asdict()

        super().__init__(
            image_step(detect),
            image_examples(processor),
            processor.crop_size,
        )
        self._model = model
        self._processor = processor
        self._results = results

    def _read(self, outputs: Outputs) -> list[Found]:
        return [_found(image, self._processor) for image in each_image(outputs)]

    def _metrics(
        self, batches: Iterator[list[Found]], split: Split, loader: LoaderConfig
    ) -> dict[str, float]:
        check_classes(self._model, split.info)
        found = [image for batch in batches for image in batch]
        numbers = split.info.category_ids or tuple(range(1, len(split.info.class_names) + 1))
        truth = dict(_read_truth(split, [image.index for image in found]))
        annotations = _annotations(found, truth, numbers)
        answers = _results(found, truth, numbers)
        if self._results is not None and parallel.is_first_host():
            with replacing(self._results) as unfinished:
                unfinished.write_text(json.dumps(answers, separators=(",", ":")), encoding="utf-8")
        if all(annotation["iscrowd"] for annotation in annotations):
            raise DataError(
                f"{split.info.name} {split.name} has no objects to measure detections with"
            )
        image_ids = [truth[image.index]["image_id"] for image in found]
        if len(set(image_ids)) < len(image_ids):
            raise DataError(
                f"{split.info.name} {split.name} has images of the same id, as joined data sets "
                "may; evaluate them one by one"
            )
        return coco_metrics(image_ids, numbers, annotations, answers) | {"count": len(found)}


def _found(image: dict[str, np.ndarray], processor: ImageProcessor) -> Found:
    """Returns what the detector found in an image, in its own pixels."""
    height, width = image["size"].tolist()
    valid = image["valid"]
    corners = pixel_boxes(image["boxes"][valid], height, width, processor)
    low, high = np.split(corners.astype(np.float64), 2, axis=1)
    return Found(
        int(image["index"]),
        height,
        width,
        np.concatenate([low, high - low], axis=1).round(_PLACES),
        image["labels"][valid],
        image["scores"][valid].astype(np.float64).round(_SCORE_PLACES),
    )


def _read_truth(split: Split, indices: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    for start in range(0, len(indices), _TOGETHER):
        part = indices[start : start + _TOGETHER]
        for index, record in zip(part, split.records(part), strict=True):
            objects = to_detection(record, index)
            del objects["image"]
            yield index, objects


def _annotations(
    found: list[Found], truth: dict[int, dict[str, Any]], numbers: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Returns the ground truth as COCO's annotations."""
    annotations = []
    for image in found:
        objects = truth[image.index]
        size = np.array([image.width, image.height] * 2, np.float64)
        low, high = np.split(objects["boxes"] * size, 2, axis=1)
        boxes = np.concatenate([low, high - low], axis=1)
        columns = (boxes, objects["labels"], objects["area"], objects["is_crowd"])
        for box, label, area, crowd in zip(*(x.tolist() for x in columns), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # COCOeval takes 0 for no match
                    "image_id": objects["image_id"],
                    "category_id": numbers[label - 1],
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    return annotations


def _results(
    found: list[Found], truth: dict[int, dict[str, Any]], numbers: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Returns the detections in COCO's format for results."""
    return [
        {
            "image_id": truth[image.index]["image_id"],
            "category_id": numbers[label - 1],
            "bbox": box,
            "score": score,
        }
        for image in found
        for box, label, score in zip(
            image.boxes.tolist(), image.labels.tolist(), image.scores.tolist(), strict=True
        )
    ]


def check_classes(model: Any, info: DatasetInfo) -> None:
    """Raises ConfigurationError if a detector has other classes than a data set has objects of."""
    unnamed, named = kind_of(model).unnamed, len(info.class_names)
    if model.num_classes != named + unnamed:
        beside = " besides the background" if unnamed else ""
        raise ConfigurationError(
            f"{info.name} has {named} classes, but the detector {model.num_classes - unnamed}"
            f"{beside}: it needs num_classes {named + unnamed}, which is what it takes if left out"
        )
