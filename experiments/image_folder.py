"""MobileViT-XS from scratch on your own folder of images.

    mobilevit prepare image_folder --source FOLDER --name my_images
    mobilevit train experiments/image_folder.py

FOLDER holds train/<class>/*.jpg and validation/<class>/*.jpg (png, webp and bmp too). Any name will
do in place of my_images, with --data.dataset NAME. No number is claimed: it depends on the images.
With few images, start from --model.name mobilevit_xxs.
"""

from mobilevit_jax.config import DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.augment import AugmentConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig


def experiment() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="image_folder",
        epochs=60,
        log_every=20,
        model=ModelConfig("mobilevit_xs"),
        data=DataConfig("my_images"),
        augment=AugmentConfig(crop_scale=(0.25, 1.0)),
        # 112 images at 192 pixels, 80 at 224, 64 at 256.
        sampler=SamplerConfig(
            batch_size=64, base_size=256, sizes=(192, 224, 256), rule="area", reference_devices=8
        ),
        schedule=ScheduleConfig(
            peak=1e-3, start=1e-4, end=1e-5, warmup_steps=200, cosine_by="step"
        ),
        ema=EMAConfig(decay=0.999, warmup=True),
        evaluation=EvaluationConfig(batch_size=64),
    )
