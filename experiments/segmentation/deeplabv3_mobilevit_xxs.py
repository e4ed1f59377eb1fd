"""DeepLabv3-MobileViT-XXS on PASCAL VOC 2012 with the paper's recipe (section 4.3, CVNets v0.1).

Claim: 73.6% mIoU with 1,854,853 parameters on VOC's validation split, from the EMA weights with
images resized to 512x512 (73.6 in the paper, 72.8 in the README of CVNets v0.1). Not run here.

    mobilevit prepare voc_segmentation --source VOCDEVKIT --data-dir DATA_DIR
    mobilevit prepare coco_segmentation --source COCO_DIR --data-dir DATA_DIR
    mobilevit train experiments/segmentation/deeplabv3_mobilevit_xxs.py --data.data-dir DATA_DIR

VOCDEVKIT holds VOC2012 with SegmentationClassAug and its list trainaug.txt (10,582 images, VOC's
and those of SBD); COCO_DIR holds train2017 and annotations/instances_train2017.json. As in the
paper, both are trained on together, COCO with the masks of VOC's classes. VOC alone, which is a
twelfth of the images and of the time:

    --data.dataset voc_segmentation --data.train train_aug --data.validation validation

The backbone starts from weights for ImageNet: --init-from takes a work directory of
experiments/imagenet/mobilevit_xxs.py in place of the published ones. The batch is global (128, as
32 on each of 4 devices) and batch norm sees all of it. The paper's text has 9e-5 where the cosine
ends, its configuration 1e-6, which is taken here. Later CVNets has
another head and other losses:

    --model.output-stride 8 --model.aspp-features 512 --model.aspp-rates 12 24 36
    --model.channel-dropout True --model.head-dropout 0 --model.align-corners True
    --model.aux-head True --model.aux-width 128 --segmentation.convention later
    --segmentation.augment.short-side 0.5 1.5 --segmentation.augment.long-side 2
    --segmentation.augment.pad --segmentation.augment.class-share 0.75
"""

from mobilevit_jax.config import DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training.optimizer import OptimizerConfig
from mobilevit_jax.training.schedule import ScheduleConfig


def experiment() -> Experiment:
    """Returns the recipe; augmentation, loss and average are the defaults of their rooms."""
    return Experiment(
        name="deeplabv3_mobilevit_xxs",
        epochs=50,
        init_from="apple/mobilevit-xx-small",
        # The paper's runs computed in float16; bfloat16 needs no loss scaling.
        model=ModelConfig("deeplabv3_mobilevit_xxs", sync_batch_norm=True, dtype="bfloat16"),
        data=DataConfig(
            "voc_segmentation+coco_segmentation", train="train_aug,train", validation="validation,"
        ),
        processor=ImageProcessor(size=(512, 512), crop_size=(512, 512)),
        sampler=SamplerConfig(batch_size=128, base_size=512, sizes=(512,), reference_devices=4),
        optimizer=OptimizerConfig(head_lr=10.0),
        schedule=ScheduleConfig(peak=9e-4, start=9e-5, end=1e-6, warmup_steps=500),
        evaluation=EvaluationConfig(batch_size=64),
    )
