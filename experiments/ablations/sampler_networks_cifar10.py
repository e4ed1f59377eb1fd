"""The multi-scale sampler in training MobileNetv2, in a small form: CIFAR-10, two CPU cores.

Claim: none beforehand. The paper's numbers beside these are of 300 epochs of ImageNet-1k (Table 5);
at this length the standard sampler, with a third more updates, may well be ahead at its own size.
(It was: experiments/README.md has the result.)

    mobilevit prepare image_folder --source CIFAR10_DIR --name cifar10_images
    mobilevit sweep experiments/ablations/sampler_networks_cifar10.py --seeds 2

CIFAR10_DIR holds train/<class>/*.jpg and test/<class>/*.jpg (50,000 and 10,000 images of 32x32).
The same command goes on where it was stopped, and is the same on a TPU or GPU, not tried. Optimizer
and decay are those of sampler_networks.py, the learning rate by the batch; sizes, data, EMA and
warm-up are those of cifar10.py, and there is no dropout: it underfits.
"""

from mobilevit_jax.config import DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.augment import AugmentConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.study import Line, Row, Study, Table
from mobilevit_jax.training.optimizer import OptimizerConfig
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig

SIZES = (40, 48, 64, 80)


def study() -> Study:
    """Returns the study."""
    unknown = (None,) * len(SIZES)
    rows = {"standard": (64,), "multi_scale": (48, 64, 80)}
    return Study(
        name="sampler_networks_cifar10",
        claim="Table 5 at the size of a laptop",
        rows=tuple(Row(f"mobilenetv2_{name}", _recipe(s), SIZES) for name, s in rows.items()),
        tables=(
            Table(
                title="samplers: other networks",
                source="Table 5, ImageNet-1k (an epoch's seconds: the run's by its epochs)",
                metrics=("top1", "updates", "epoch_seconds", *(f"top1@{s}" for s in SIZES)),
                lines=(
                    Line(
                        "MobileNetv2, standard",
                        "mobilenetv2_standard",
                        (0.721, 375_000, 260, *unknown),
                    ),
                    Line(
                        "MobileNetv2, multi-scale",
                        "mobilenetv2_multi_scale",
                        (0.733, 232_000, 223, *unknown),
                    ),
                ),
            ),
        ),
    )


def _recipe(sizes: tuple[int, ...]) -> Experiment:
    return Experiment(
        epochs=4,
        log_every=50,
        model=ModelConfig("mobilenetv2_100", classifier_dropout=0.0),
        data=DataConfig(
            "cifar10_images", train="train[:30%]", validation="train[98%:]", test="test"
        ),
        processor=ImageProcessor(size=64, crop_size=(64, 64)),
        # The recipe's crops down to 8% of the area leave little of a 32-pixel image.
        augment=AugmentConfig(crop_scale=(0.5, 1.0)),
        # 128 images at 48 pixels, 64 at 64 and at 80.
        sampler=SamplerConfig(batch_size=64, base_size=64, sizes=sizes, reference_devices=8),
        # The recipe's 0.4 is for 1024 images.
        optimizer=OptimizerConfig(
            "sgd", weight_decay=4e-5, decay_one_dimensional=False, nesterov=True
        ),
        schedule=ScheduleConfig(
            peak=0.025, start=0.003, end=1e-4, warmup_steps=100, cosine_by="step"
        ),
        ema=EMAConfig(decay=0.99, warmup=True),
        evaluation=EvaluationConfig(batch_size=500, raw_weights=True),
    )
