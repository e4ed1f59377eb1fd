"""SSDLite with MobileViT-XS on COCO at 320x320 (paper, section 4.2.1, as CVNets v0.1 runs it).

Claim: 24.8 mAP on COCO's val2017 with 2,742,042 parameters (paper, Table 1, and the README of
CVNets v0.1), from the EMA weights after 200 epochs. Not run here.

    mobilevit prepare coco --source COCO_DIR --data-dir DATA_DIR
    mobilevit train experiments/detection/ssdlite_mobilevit_xs.py --data.data-dir DATA_DIR

COCO_DIR holds train2017/, val2017/ and annotations/instances_*.json. A coco/2017 that TFDS prepared
as array_record does as well: --data.dataset coco/2017. The backbone starts from the classifier
trained on ImageNet, which comes from the Hugging Face hub; --init-from takes a work directory, a
directory with config.json, or a weight file in its place. The batch of 128 is global (32 on each of
4 devices), and batch norm is synchronised, so that it is the same on any number of devices that
divides it. The rate ends at 1e-6 as in the code's configuration; the paper says 9e-5. Later CVNets
measure with --detection.convention later.
"""

from mobilevit_jax.config import CheckpointConfig, DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training.schedule import ScheduleConfig


def experiment() -> Experiment:
    """Returns the recipe: what is not said here is the paper's by default."""
    return Experiment(
        name="ssdlite_mobilevit_xs",
        epochs=200,
        init_from="apple/mobilevit-x-small",
        model=ModelConfig("ssdlite_mobilevit_xs", sync_batch_norm=True, dtype="bfloat16"),
        data=DataConfig("coco"),
        # The whole image, its aspect given up.
        processor=ImageProcessor(size=(320, 320), crop_size=(320, 320)),
        sampler=SamplerConfig(batch_size=128, base_size=320, sizes=(320,), reference_devices=4),
        schedule=ScheduleConfig(peak=9e-4, start=9e-5, end=1e-6, warmup_steps=500),
        evaluation=EvaluationConfig(every_epochs=5, batch_size=128),
        checkpoint=CheckpointConfig(metric="map"),
    )
