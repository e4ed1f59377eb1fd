"""What a kind of detector has of its own, for the parts that all detectors share."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from mobilevit_jax.data.mosaic_examples import SizedRecords
from mobilevit_jax.data.sampler import PlannedBatch, scale_table
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.model import Head
from mobilevit_jax.models.registry import all_heads
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.nms import Detections, NMSConfig
from mobilevit_jax.tasks.settings import TaskSettings
from mobilevit_jax.training.step import Objective

Size = tuple[int, int]


class Kind(abc.ABC):
    """A kind of detector.

    Attributes:
        head: Name of its head.
        title: What a reader calls it.
        convention: What counts as a detection unless it is said; a name in `nms.NMS_CONFIGS`.
        own: Fields of `DetectionConfig` that are of use to it alone.
    """

    head: ClassVar[str]
    title: ClassVar[str]
    convention: ClassVar[str]
    own: ClassVar[tuple[str, ...]]

    @property
    def unnamed(self) -> int:
        """Number of classes in front of those that have names: 1 where there is a background."""
        return self._head.first_named

    @property
    def _head(self) -> Head:
        return all_heads()[self.head]

    def nms(self, config: DetectionConfig) -> NMSConfig:
        """Returns what counts as a detection."""
        return config.nms(self.convention)

    def check_processor(self, processor: ImageProcessor) -> None:
        """Raises ConfigurationError if images would come in another form than in training."""
        if self._head.letterboxed and not processor.do_pad:
            raise ConfigurationError(
                f"a {self.title} takes letterboxed images: set do_pad of the processor"
            )

    def check(self, model: Any, settings: TaskSettings) -> None:
        """Refuses what would have no effect, or not the one that is meant.

        Raises:
            ConfigurationError: If a setting of another kind is set, images would be evaluated in
                another form than they are trained in, or a size is none of the model's.
        """
        self.check_processor(settings.processor)
        if settings.processor.do_pad and not self._head.letterboxed:
            raise ConfigurationError(
                f"a {self.title} is not trained on letterboxed images: leave processor.do_pad off"
            )
        sizes = {(scale.height, scale.width) for scale in scale_table(settings.sampler)}
        for size in sorted({*sizes, settings.processor.crop_size}):
            self.check_size(model, size)

    @abc.abstractmethod
    def check_size(self, model: Any, size: Size) -> None:
        """Raises ConfigurationError if a model does not take images of (height, width)."""

    @abc.abstractmethod
    def objective(self, model: Any, config: DetectionConfig) -> Objective:
        """Returns loss and metrics of a model."""

    @abc.abstractmethod
    def example(
        self,
        record: dict[str, Any],
        record_id: int,
        planned: PlannedBatch,
        split: SizedRecords,
        settings: TaskSettings,
    ) -> tuple[Any, Any, Any, Mapping[str, Any]]:
        """Returns a training image [h, w, 3], boxes [n, 4], labels [n], the objective's weights."""

    @abc.abstractmethod
    def assign(
        self,
        model: Any,
        config: DetectionConfig,
        size: Size,
        outputs: Any,
        boxes: jax.Array,
        labels: jax.Array,
    ) -> Any:
        """Gives objects, corners [b, N, 4] with labels [b, N], to anchors or cells, as in training.

        For the benchmark, which times it alone.
        """

    @abc.abstractmethod
    def detect(self, model: Any, outputs: Any, size: Size, nms: NMSConfig) -> Detections:
        """Turns the outputs for images of (height, width) into detections."""
