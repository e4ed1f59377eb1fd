"""DeepLabv3-MobileViT-XXS from scratch on 128 real images until it fits them, on a CPU.

mIoU 59.1% over the classes that these images have, after 800 steps: it shows that every part learns
from real files. The 128 images are the training set and the evaluation set alike, so its number
says nothing about other images. 27 min 8 s on two CPU cores with other work running on them, commit
0542c0d, 2026-11-22.

    mobilevit prepare coco_segmentation --source COCO128_DIR --name coco128_segmentation
    mobilevit train experiments/segmentation/coco128.py

COCO128_DIR holds train2017 (the first 128 images of COCO's train2017) and
annotations/instances_train2017.json; their objects are drawn as masks of VOC's classes. The same
command resumes a run that was stopped.
"""

from mobilevit_jax.config import CheckpointConfig, DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.augment_masks import MaskAugmentConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.segmentation.config import SegmentationConfig
from mobilevit_jax.training.optimizer import OptimizerConfig
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig


def experiment() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="segmentation_coco128",
        epochs=100,
        log_every=40,
        model=ModelConfig(
            "deeplabv3_mobilevit_xxs",
            # It is to fit the images by heart: no dropout.
            dropout=0.0,
            aspp_dropout=0.0,
            head_dropout=0.0,
            # The map that the pyramid sees has 16 x 16 pixels, where the recipe's has 32 x 32.
            aspp_rates=(3, 6, 9),
        ),
        data=DataConfig("coco128_segmentation", train="train", validation="train"),
        processor=ImageProcessor(size=(256, 256), crop_size=(256, 256)),
        segmentation=SegmentationConfig(augment=MaskAugmentConfig(short_side=(1.0, 1.25))),
        sampler=SamplerConfig(batch_size=16, base_size=256, sizes=(256,), reference_devices=8),
        optimizer=OptimizerConfig(weight_decay=0.0),
        schedule=ScheduleConfig(
            peak=2e-3, start=2e-4, end=2e-5, warmup_steps=100, cosine_by="step"
        ),
        ema=EMAConfig(decay=0.99, warmup=True),
        evaluation=EvaluationConfig(every_epochs=10, batch_size=16),
        checkpoint=CheckpointConfig(every_epochs=10, keep_best=1),
    )
