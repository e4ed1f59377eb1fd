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
        epochs=6,
        log_every=20,
        model=ModelConfig("mobilevit_xxs"),
        data=DataConfig("shapes/quickstart", test="test"),
        processor=ImageProcessor(size=64, crop_size=(64, 64)),
        augment=AugmentConfig(crop_scale=(0.5, 1.0)),
        sampler=SamplerConfig(
            batch_size=64, base_size=64, sizes=(32, 48, 64), rule="area", reference_devices=8
        ),
        schedule=ScheduleConfig(
            peak=2e-3, start=2e-4, end=2e-5, warmup_steps=100, cosine_by="step"
        ),
        ema=EMAConfig(decay=0.99, warmup=True),
        evaluation=EvaluationConfig(batch_size=250),
    )
