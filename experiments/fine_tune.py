"""MobileViT-S, pretrained on ImageNet, fine-tuned on your own folder of images.

    mobilevit prepare image_folder --source FOLDER --name my_images
    mobilevit train experiments/fine_tune.py

FOLDER holds train/<class>/*.jpg and validation/<class>/*.jpg (png, webp and bmp too). Any name will
do in place of my_images, with --data.dataset NAME. No number is claimed: it depends on the images.

The weights come from the Hugging Face hub; --init-from takes a work directory, a directory with
config.json, or a weight file in their place (--model.name follows the weights). The classifier is
replaced by one of your classes. With few images, train it alone:

    mobilevit train experiments/fine_tune.py --workdir runs/probe --model.freeze-backbone \\
        --optimizer.backbone-lr 1
"""

from mobilevit_jax.config import DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.augment import AugmentConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.training.optimizer import OptimizerConfig
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig


def experiment() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="fine_tune",
        epochs=20,
        log_every=20,
        init_from="apple/mobilevit-small",
        model=ModelConfig("mobilevit_s"),
        data=DataConfig("my_images"),
        augment=AugmentConfig(crop_scale=(0.25, 1.0)),
        # 112 images at 192 pixels, 80 at 224, 64 at 256.
        sampler=SamplerConfig(
            batch_size=64, base_size=256, sizes=(192, 224, 256), rule="area", reference_devices=8
        ),
        # The backbone moves at a tenth of the rate of the new classifier, 1e-4 at most.
        optimizer=OptimizerConfig(backbone_lr=0.1),
        schedule=ScheduleConfig(peak=1e-3, start=1e-4, end=1e-5, warmup_steps=50, cosine_by="step"),
        ema=EMAConfig(decay=0.999, warmup=True),
        evaluation=EvaluationConfig(batch_size=64),
    )
