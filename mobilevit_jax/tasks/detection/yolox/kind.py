"""YOLOX (Ge et al. 2021): what it has of its own."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.data.mosaic_examples import SizedRecords, mosaic_example
from mobilevit_jax.data.sampler import PlannedBatch
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.kind import Kind, Size
from mobilevit_jax.tasks.detection.nms import Detections, NMSConfig
from mobilevit_jax.tasks.detection.yolox.detect import detect_cells
from mobilevit_jax.tasks.detection.yolox.objective import YoloxObjective, assign_batch, in_pixels
from mobilevit_jax.tasks.settings import TaskSettings


class Yolox(Kind):
    """Has something to say at each of `model.points(height, width)`. See `Kind`."""

    head = "yolox"
    title = "YOLOX"
    convention = "yolox"
    own = ("mosaic", "close_mosaic")

    def check(self, model: Any, settings: TaskSettings) -> None:
        """See `Kind`; refuses also that the epochs without mosaics are all epochs."""
        super().check(model, settings)
        closing, epochs = settings.detection.close_mosaic, settings.epochs
        if settings.detection.mosaic.mosaic_probability and closing >= epochs:
            raise ConfigurationError(
                f"the last {closing} epochs have no mosaics, and the run has {epochs}: "
                "lower detection.close_mosaic, or set detection.mosaic.mosaic_probability to 0"
            )

    def check_size(self, model: Any, size: Size) -> None:
        """See `Kind`."""
        model.points(*size)

    def objective(self, model: Any, config: DetectionConfig) -> YoloxObjective:
        """See `Kind`."""
        return YoloxObjective(model)

    def example(
        self,
        record: dict[str, Any],
        record_id: int,
        planned: PlannedBatch,
        split: SizedRecords,
        settings: TaskSettings,
    ) -> tuple[Any, Any, Any, Mapping[str, Any]]:
        """See `Kind`; the last epochs have whole images, and the L1 distance in the loss."""
        closing = planned.epoch >= settings.epochs - settings.detection.close_mosaic
        image, boxes, labels = mosaic_example(
            split,
            record,
            record_id,
            planned,
            settings.detection.mosaic,
            seed=settings.seed,
            mosaic=not closing,
            channel_order=settings.processor.channel_order,
            pad_value=settings.processor.pad_value,
        )
        return image, boxes, labels, {"l1": np.float32(closing)}

    def assign(
        self,
        model: Any,
        config: DetectionConfig,
        size: Size,
        outputs: Any,
        boxes: jax.Array,
        labels: jax.Array,
    ) -> Any:
        """See `Kind`."""
        logits, raw, objectness = outputs
        truth = in_pixels(boxes, size)
        return assign_batch(logits, raw, objectness, model.points(*size), truth, labels)

    def detect(self, model: Any, outputs: Any, size: Size, nms: NMSConfig) -> Detections:
        """See `Kind`."""
        points = jnp.asarray(model.points(*size))
        each = jax.vmap(lambda *one: detect_cells(one, points, size, config=nms))
        return each(*outputs)
