"""Quickstart: MobileViT-XXS on drawn shapes with the multi-scale sampler, in minutes on a CPU."""

from mobilevit_jax.config import (
    DataConfig,
    EvaluationConfig,
    Experiment,
)
from mobilevit_jax.data.augment import AugmentConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig


def experiment() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="quickstart",
        epochs=10,
        log_every=50,
        model=ModelConfig("mobilevit_xxs"),
        data=DataConfig("shapes/quickstart", test="test"),
        processor=ImageProcessor(size=48, crop_size=(48, 48)),
        # Smaller crops could lose the largest shape, which is the class.
        augment=AugmentConfig(crop_scale=(0.6, 1.0)),
        # 72 images at 32 pixels, 32 at 48.
        sampler=SamplerConfig(
            batch_size=32, base_size=48, sizes=(32, 48), rule="area", reference_devices=8
        ),
        schedule=ScheduleConfig(
            peak=2e-3, start=2e-4, end=1e-5, warmup_steps=100, cosine_by="step"
        ),
        ema=EMAConfig(decay=0.99, warmup=True),
        evaluation=EvaluationConfig(batch_size=250),
    )
