"""SSDLite with MobileViT-S, pretrained on ImageNet, trained on boxes of your own.

    mobilevit prepare yolo --source FOLDER --name my_boxes
    mobilevit train experiments/detection/own.py

FOLDER holds images/<split>/ and labels/<split>/ with data.yaml, as YOLO has them. voc_detection
reads the XML files of PASCAL VOC in the same way, and coco the JSON files of COCO, whatever the
classes. Any name will do in place of my_boxes, with --data.dataset NAME. No number is claimed: it
depends on the images.

The weights come from the Hugging Face hub; --init-from takes a work directory (of a detector, too),
a directory with config.json, or a weight file in their place, and --init-from None starts from
scratch. Small objects want more pixels: --processor.size 512 512 --processor.crop-size 512 512
--sampler.base-size 512 --sampler.sizes 512. Where left and right differ, as in text:
--detection.augment.flip-probability 0.
"""

from mobilevit_jax.config import CheckpointConfig, DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig


def experiment() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        name="detection_own",
        epochs=60,
        log_every=20,
        init_from="apple/mobilevit-small",
        model=ModelConfig("ssdlite_mobilevit_s"),
        data=DataConfig("my_boxes"),
        # The whole image, its aspect given up.
        processor=ImageProcessor(size=(320, 320), crop_size=(320, 320)),
        sampler=SamplerConfig(batch_size=32, base_size=320, sizes=(320,), reference_devices=8),
        detection=DetectionConfig(convention="later"),
        schedule=ScheduleConfig(
            peak=5e-4, start=5e-5, end=1e-6, warmup_steps=200, cosine_by="step"
        ),
        # The paper's 0.9995 would average over most of a short run.
        ema=EMAConfig(decay=0.999, warmup=True),
        evaluation=EvaluationConfig(every_epochs=5, batch_size=32),
        checkpoint=CheckpointConfig(metric="map"),
    )
