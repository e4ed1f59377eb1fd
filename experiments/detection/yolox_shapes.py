"""YOLOX with MobileViT-XXS from scratch on drawn shapes, in minutes on a CPU."""

from mobilevit_jax.config import CheckpointConfig, DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.mosaic import MosaicConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.training.optimizer import OptimizerConfig
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig


def experiment() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="yolox_shapes",
        epochs=16,
        log_every=25,
        model=ModelConfig("yolox_mobilevit_xxs", dropout=0.0),
        data=DataConfig("shapes/detection", test="test"),
        processor=ImageProcessor(size=(128, 128), crop_size=(128, 128), do_pad=True),
        sampler=SamplerConfig(batch_size=16, base_size=128, sizes=(128,), reference_devices=8),
        detection=DetectionConfig(
            mosaic=MosaicConfig(mosaic_probability=0.5, rotation=0, shear=0),
            close_mosaic=4,
            max_boxes=16,
        ),
        optimizer=OptimizerConfig(weight_decay=0.05, decay_one_dimensional=False),
        schedule=ScheduleConfig(
            peak=1.5e-3,
            start=0,
            end=7.5e-5,
            warmup_steps=100,
            warmup_power=2,
            hold_epochs=2,
            cosine_by="step",
        ),
        ema=EMAConfig(decay=0.99, warmup=True),
        evaluation=EvaluationConfig(every_epochs=4, batch_size=64),
        checkpoint=CheckpointConfig(metric="map"),
    )
