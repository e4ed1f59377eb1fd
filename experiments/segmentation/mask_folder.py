"""DeepLabv3-MobileViT-XS from scratch on your own images and masks, of your own classes.

    mobilevit prepare mask_folder --source FOLDER --name my_masks
    mobilevit train experiments/segmentation/mask_folder.py

FOLDER holds train/images/*.jpg and train/masks/*.png, validation/images and validation/masks, and
classes.txt with the name of a class a line, in the order of the masks' values. Any name will do in
place of my_masks, with --data.dataset NAME. No number is claimed: it depends on the images. With
few, start from weights that know images:

    --model.name deeplabv3_mobilevit_s --init-from apple/mobilevit-small
"""

from mobilevit_jax.config import DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.augment_masks import MaskAugmentConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.segmentation.config import SegmentationConfig
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig


def experiment() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="mask_folder",
        epochs=100,
        log_every=20,
        # The map that the pyramid sees has 20 x 20 pixels, where the recipe's has 32 x 32.
        model=ModelConfig("deeplabv3_mobilevit_xs", aspp_rates=(4, 8, 12)),
        data=DataConfig("my_masks"),
        # Whole images are evaluated at this size, whatever their aspect ratio, and masks compared
        # at their own.
        processor=ImageProcessor(size=(320, 320), crop_size=(320, 320)),
        segmentation=SegmentationConfig(augment=MaskAugmentConfig(short_side=(0.75, 1.5))),
        sampler=SamplerConfig(batch_size=16, base_size=320, sizes=(320,), reference_devices=8),
        schedule=ScheduleConfig(
            peak=1e-3, start=1e-4, end=1e-5, warmup_steps=100, cosine_by="step"
        ),
        ema=EMAConfig(decay=0.99, warmup=True),
        evaluation=EvaluationConfig(batch_size=16),
    )
