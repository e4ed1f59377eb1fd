"""The ablations in a small form: MobileViT-XXS on 15,000 images of CIFAR-10, two CPU cores.

Claim: none beforehand. The paper's numbers beside these are of MobileViT-S after 300 epochs of
ImageNet-1k; what can agree is which row of a study is ahead, and at this length the spread over the
seeds hides most of it. Run on 2026-11-22, two seeds of each row: 110 minutes in all for 16 runs of
4 to 10 minutes, other work on the same two cores. experiments/results/tables.md has the numbers,
experiments/README.md what they say.

    mobilevit prepare image_folder --source CIFAR10_DIR --name cifar10_images
    mobilevit sweep experiments/ablations/cifar10.py --seeds 2

CIFAR10_DIR holds train/<class>/*.jpg and test/<class>/*.jpg (50,000 and 10,000 images of 32x32).
The same command goes on where it was stopped, and is the same on a TPU or GPU, not tried. The two
patch sizes are compared at 128 pixels, on fewer images, since patches of 8, 4, 2 pixels would leave
a block one token at 64. The sampler's sizes are 0.75, 1 and 1.25 times the base; the paper's go
down to 0.625. EMA and warm-up are shorter, as the run is, and there is no dropout: it underfits.
"""

from dataclasses import replace

from mobilevit_jax.config import DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.augment import AugmentConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.study import Line, Row, Study, Table
from mobilevit_jax.training.losses import LossConfig
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig

SETTING = "MobileViT-S on ImageNet-1k"
# The paper's 160, 192, 256 and 320 of 256.
SIZES = (40, 48, 64, 80)


def study() -> Study:
    """Returns the study."""
    recipe = _recipe()
    decays = {
        name: replace(recipe, optimizer=replace(recipe.optimizer, weight_decay=decay))
        for name, decay in (("weight_decay_0.1", 0.1), ("weight_decay_0.0001", 1e-4))
    }
    standard = replace(recipe, sampler=_one_size(64, 64))
    large = _at_128(recipe)
    return Study(
        name="cifar10_ablations",
        claim="the paper's ablations at the size of a laptop",
        rows=(
            Row("recipe", recipe, SIZES),
            Row("standard_sampler", standard, SIZES),
            Row("no_fusion", replace(recipe, model=replace(recipe.model, fusion=False))),
            *(Row(name, experiment) for name, experiment in decays.items()),
            Row("no_label_smoothing", replace(recipe, loss=LossConfig(label_smoothing=0.0))),
            Row("patches_2_2_2_at_128", large),
            Row(
                "patches_8_4_2_at_128",
                replace(large, model=replace(large.model, patch_sizes=(8, 4, 2))),
            ),
        ),
        tables=_tables(),
    )


def _recipe() -> Experiment:
    return Experiment(
        epochs=4,
        log_every=50,
        model=ModelConfig("mobilevit_xxs", dropout=0.0, classifier_dropout=0.0),
        data=DataConfig(
            "cifar10_images", train="train[:30%]", validation="train[98%:]", test="test"
        ),
        processor=ImageProcessor(size=64, crop_size=(64, 64)),
        # The recipe's crops down to 8% of the area leave little of a 32-pixel image.
        augment=AugmentConfig(crop_scale=(0.5, 1.0)),
        # 128 images at 48 pixels, 64 at 64 and at 80.
        sampler=SamplerConfig(
            batch_size=64, base_size=64, sizes=(48, 64, 80), rule="cvnets", reference_devices=8
        ),
        schedule=ScheduleConfig(
            peak=1e-3, start=1e-4, end=1e-5, warmup_steps=100, cosine_by="step"
        ),
        ema=EMAConfig(decay=0.99, warmup=True),
        evaluation=EvaluationConfig(batch_size=500, raw_weights=True),
    )


def _one_size(size: int, batch_size: int) -> SamplerConfig:
    return SamplerConfig(batch_size=batch_size, base_size=size, sizes=(size,), reference_devices=8)


def _at_128(recipe: Experiment) -> Experiment:
    return replace(
        recipe,
        epochs=2,
        data=replace(recipe.data, train="train[:15%]"),
        processor=ImageProcessor(size=128, crop_size=(128, 128)),
        sampler=_one_size(128, 32),
        evaluation=replace(recipe.evaluation, batch_size=125),
    )


def _tables() -> tuple[Table, ...]:
    unknown = (None,) * len(SIZES)
    return (
        Table(
            "weight decay",
            f"Figure 11, {SETTING}",
            ("top1",),
            (
                Line("0.1", "weight_decay_0.1", (0.765,)),
                Line("0.01", "recipe", (0.784,)),
                Line("0.0001", "weight_decay_0.0001", (0.774,)),
            ),
        ),
        Table(
            "skip connection",
            f"Figure 12, {SETTING}",
            ("top1",),
            (Line("with", "recipe", (0.784,)), Line("without", "no_fusion", (0.779,))),
        ),
        Table(
            "patch sizes",
            f"Table 6, {SETTING}",
            ("top1",),
            (
                Line("2, 2, 2", "patches_2_2_2_at_128", (0.784,)),
                Line("8, 4, 2", "patches_8_4_2_at_128", (0.773,)),
            ),
        ),
        Table(
            "label smoothing and EMA",
            f"Table 7, {SETTING}",
            ("top1",),
            (
                Line("none", "no_label_smoothing", (0.780,), raw=True),
                Line("LS", "recipe", (0.783,), raw=True),
                Line("LS + EMA", "recipe", (0.784,)),
            ),
        ),
        Table(
            "samplers: cost",
            f"Figure 5b, {SETTING}",
            ("updates", "epoch_seconds"),
            (
                Line("standard", "standard_sampler", (375_000, 380)),
                Line("multi-scale", "recipe", (232_000, 270)),
            ),
        ),
        Table(
            "samplers: accuracy",
            f"Figures 9 and 10 (plots), {SETTING}",
            ("top1", *(f"top1@{size}" for size in SIZES)),
            (
                Line("standard", "standard_sampler", (None, *unknown)),
                Line("multi-scale", "recipe", (0.784, *unknown)),
            ),
        ),
    )
