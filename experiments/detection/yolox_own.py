"""YOLOX with MobileViT-XS, pretrained on ImageNet, trained on boxes of your own.

    mobilevit prepare yolo --source FOLDER --name my_boxes
    mobilevit train experiments/detection/yolox_own.py

FOLDER holds images/<split>/ and labels/<split>/ with data.yaml, as YOLO has them; voc_detection and
coco read other labels. Any name will do in place of my_boxes, with --data.dataset NAME. No number
is claimed: it depends on the images. docs/yolo.md tells people who come from YOLOv5 or v8 what is
called what here.

The weights come from the Hugging Face hub; --init-from takes a work directory (of a detector, too),
a directory with config.json, or a weight file in their place, and --init-from None starts from
scratch. Small objects want more pixels: --processor.size 640 640 --processor.crop-size 640 640
--sampler.base-size 640 --sampler.sizes 512 640 768. Where left and right differ, as in text:
--detection.mosaic.flip-probability 0.
"""

from mobilevit_jax.config import CheckpointConfig, DataConfig, EvaluationConfig, Experiment
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
        name="yolox_own",
        epochs=100,
        log_every=20,
        init_from="apple/mobilevit-x-small",
        model=ModelConfig("yolox_mobilevit_xs"),
        data=DataConfig("my_boxes"),
        processor=ImageProcessor(size=(416, 416), crop_size=(416, 416), do_pad=True),
        sampler=SamplerConfig(batch_size=32, base_size=384, sizes=(320, 384, 448), rule="area"),
        detection=DetectionConfig(close_mosaic=15, max_boxes=200),
        optimizer=OptimizerConfig(weight_decay=0.05, decay_one_dimensional=False, backbone_lr=0.1),
        schedule=ScheduleConfig(
            peak=5e-4,
            start=0.0,
            end=2.5e-5,
            warmup_steps=200,
            warmup_power=2,
            hold_epochs=15,
            cosine_by="step",
        ),
        # YOLOX's 0.9999 would average over most of a short run.
        ema=EMAConfig(decay=0.999, warmup=True),
        evaluation=EvaluationConfig(every_epochs=5, batch_size=32),
        checkpoint=CheckpointConfig(metric="map"),
    )
