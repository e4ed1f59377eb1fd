"""What tasks add to the settings of training: the model, the data, and each task's own."""

import math
from dataclasses import dataclass, field

from mobilevit_jax.data.augment import AugmentConfig
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.segmentation.config import SegmentationConfig
from mobilevit_jax.training.losses import LossConfig
from mobilevit_jax.training.settings import TrainingSettings


@dataclass(frozen=True)
class DataConfig:
    """Which data.

    Attributes:
        dataset: Name of a prepared data set, `name/config` for one of its configurations.
        data_dir: Where data sets are stored; None takes $TFDS_DATA_DIR or ~/tensorflow_datasets.
        train: Training split; slices such as "train[:98%]" work.
        validation: Split evaluated during the run, or None.
        test: Split evaluated once, at the end, or None.
    """

    dataset: str = "imagenet"
    data_dir: str | None = None
    train: str = "train"
    validation: str | None = "validation"
    test: str | None = None


@dataclass(frozen=True)
class TaskSettings(TrainingSettings):
    """The part of an experiment that tasks know. Other fields: see `TrainingSettings`.

    Attributes:
        model: The model.
        data: The data.
        processor: What evaluation images go through; its channel order, mean and standard deviation
            hold in training too.
        augment: What training images go through in classification.
        sampler: Sizes and batches.
        loader: Threads and memory.
        loss: The loss of classification.
        detection: Settings of detectors.
        segmentation: Settings of segmentation models.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    processor: ImageProcessor = field(default_factory=ImageProcessor)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        processor = self.processor
        if not processor.do_rescale or not math.isclose(processor.rescale_factor, 1 / 255):
            raise ConfigurationError(
                "pixels are always scaled by 1/255 in training and evaluation; leave "
                "processor.do_rescale and processor.rescale_factor as they are"
            )
        if not processor.do_center_crop:
            raise ConfigurationError(
                "evaluation batches need crops of one size, so processor.do_center_crop must stay; "
                "for whole images set processor.size and processor.crop_size to the same "
                "(height, width)"
            )

    @property
    def freeze_backbone(self) -> bool:
        """Whether only the head is trained."""
        return self.model.freeze_backbone
