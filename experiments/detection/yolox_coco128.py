"""YOLOX with MobileViT-XXS fits the 128 images of COCO128 from scratch, on a CPU.

    mobilevit prepare coco --source COCO128_DIR --name coco128
    mobilevit train experiments/detection/yolox_coco128.py

COCO128_DIR holds train2017/ with 128 images of COCO and annotations/instances_train2017.json.
"""

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
        name="yolox_coco128",
        epochs=50,
        log_every=40,
        model=ModelConfig("yolox_mobilevit_xxs", dropout=0.0),
        data=DataConfig("coco128", train="train", validation="train"),
        processor=ImageProcessor(size=(320, 320), crop_size=(320, 320), do_pad=True),
        # Eight steps an epoch.
        sampler=SamplerConfig(batch_size=16, base_size=320, sizes=(320,), reference_devices=8),
        # A fit, so always the images as they are.
        detection=DetectionConfig(
            mosaic=MosaicConfig(
                mosaic_probability=0.0, distort_probability=0.0, flip_probability=0.0
            ),
            close_mosaic=10,
        ),
        optimizer=OptimizerConfig(weight_decay=0.05, decay_one_dimensional=False),
        schedule=ScheduleConfig(
            peak=2e-3,
            start=0.0,
            end=1e-4,
            warmup_steps=40,
            warmup_power=2,
            hold_epochs=2,
            cosine_by="step",
        ),
        ema=EMAConfig(decay=0.99, warmup=True),
        evaluation=EvaluationConfig(every_epochs=10, batch_size=32),
        checkpoint=CheckpointConfig(every_epochs=10, keep_best=1, metric="map50"),
    )
