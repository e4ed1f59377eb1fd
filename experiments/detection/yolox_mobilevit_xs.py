"""YOLOX with MobileViT-XS on COCO, sizes of 320 to 640, measured at 416.

Not trained by anybody yet, as far as we know; 31 to 34 mAP on val2017 is a guess between its
neighbours: YOLOX-Nano has 25.8 and YOLOX-Tiny 32.8 at 416 (0.91 and 5.06 M parameters, YOLOX's
readme), SSDLite on this backbone 24.8 at 320 (paper, Table 1). This one has 3,188,943 parameters
and 4.61 GMACs at 416.

    mobilevit prepare coco --source COCO_DIR --data-dir DATA_DIR
    mobilevit train experiments/detection/yolox_mobilevit_xs.py --data.data-dir DATA_DIR
    mobilevit evaluate --weights WORKDIR --size 640

The backbone starts from the classifier trained on ImageNet, which comes from the Hugging Face hub,
and learns at a tenth of the rate: what a detector's first steps would do to it is known. Sizes are
multiples of 64, since at others a MobileViT block has to resize its map. The batch of 64 is global,
at 448 pixels, and batch norm is synchronised. For YOLOX's own optimizer: --optimizer.name sgd
--optimizer.nesterov --optimizer.weight-decay 5e-4 --schedule.peak 0.01 --schedule.end 5e-4.
For a first look: --epochs 100.
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
    """Returns the recipe: what is not said here is YOLOX-Tiny's, or the paper's, by default."""
    return Experiment(
        name="yolox_mobilevit_xs",
        epochs=300,
        init_from="apple/mobilevit-x-small",
        model=ModelConfig("yolox_mobilevit_xs", sync_batch_norm=True, dtype="bfloat16"),
        data=DataConfig("coco"),
        processor=ImageProcessor(size=(416, 416), crop_size=(416, 416), do_pad=True),
        sampler=SamplerConfig(
            batch_size=64, base_size=448, sizes=(320, 384, 448, 512, 576, 640), rule="area"
        ),
        # Four images of COCO have more objects than one now and then.
        detection=DetectionConfig(max_boxes=120),
        optimizer=OptimizerConfig(weight_decay=0.05, decay_one_dimensional=False, backbone_lr=0.1),
        # Five epochs of warm-up, and fifteen at the end without mosaics, at the last rate.
        schedule=ScheduleConfig(
            peak=1e-3,
            start=0.0,
            end=5e-5,
            warmup_steps=9850,
            warmup_power=2,
            hold_epochs=15,
            cosine_by="step",
        ),
        ema=EMAConfig(decay=0.9999, ramp_steps=2000),
        evaluation=EvaluationConfig(every_epochs=10, batch_size=64),
        checkpoint=CheckpointConfig(metric="map"),
    )
