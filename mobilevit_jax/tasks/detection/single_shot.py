"""The single-shot detector (Liu et al. 2016), here SSDLite: what it has of its own."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mobilevit_jax.data.annotations import for_training, to_detection
from mobilevit_jax.data.augment import example_rng
from mobilevit_jax.data.augment_boxes import augment_boxes
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.mosaic_examples import SizedRecords
from mobilevit_jax.data.sampler import PlannedBatch
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.kind import Kind, Size
from mobilevit_jax.tasks.detection.matching import match_batch
from mobilevit_jax.tasks.detection.nms import Detections, NMSConfig, detect_batch
from mobilevit_jax.tasks.detection.objective import DetectionObjective
from mobilevit_jax.tasks.settings import TaskSettings


class SingleShot(Kind):
    """Moves `model.anchors(height, width)`; class 0 is the background. See `Kind`."""

    head = "ssdlite"
    title = "single-shot detector"
    convention = "v0.1"
    own = ("augment", "match_threshold", "negative_ratio")

    def check_size(self, model: Any, size: Size) -> None:
        """Takes any size."""

    def objective(self, model: Any, config: DetectionConfig) -> DetectionObjective:
        """See `Kind`."""
        return DetectionObjective(model, config.match_threshold, config.negative_ratio)

    def example(
        self,
        record: dict[str, Any],
        record_id: int,
        planned: PlannedBatch,
        split: SizedRecords,
        settings: TaskSettings,
    ) -> tuple[Any, Any, Any, Mapping[str, Any]]:
        """See `Kind`."""
        order = settings.processor.channel_order
        found = to_detection(record, record_id)
        made = augment_boxes(
            decode_image(found["image"], name=found["name"], channel_order=order),
            *for_training(found),
            example_rng(settings.seed, planned.epoch, record_id),
            planned.height,
            planned.width,
            settings.detection.augment,
            channel_order=order,
        )
        return *made, {}

    def assign(
        self,
        model: Any,
        config: DetectionConfig,
        size: Size,
        outputs: Any,
        boxes: jax.Array,
        labels: jax.Array,
    ) -> Any:
        """See `Kind`; the outputs do not matter."""
        return match_batch(boxes, labels, jnp.asarray(model.anchors(*size)), config.match_threshold)

    def detect(self, model: Any, outputs: Any, size: Size, nms: NMSConfig) -> Detections:
        """See `Kind`."""
        logits, offsets = outputs
        return detect_batch(logits, offsets, jnp.asarray(model.anchors(*size)), config=nms)
