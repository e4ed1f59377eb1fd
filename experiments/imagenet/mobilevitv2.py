"""MobileViTv2 on ImageNet-1k in all seven widths (Mehta & Rastegari 2023, as CVNets v0.2 runs it).

Claim: 70.18% top-1 at width 0.5, 75.56% at 0.75, 78.09% at 1.0, 79.65% at 1.25, 80.38% at 1.5,
80.84% at 1.75 and 81.17% at 2.0, at 256x256 after 300 epochs (model zoo of CVNets v0.2). Not run
here.

    mobilevit prepare imagenet --source ILSVRC2012_DIR --data-dir DATA_DIR
    mobilevit train experiments/imagenet/mobilevitv2.py --row mobilevitv2_100 \\
        --data.data-dir DATA_DIR
    mobilevit sweep experiments/imagenet/mobilevitv2.py --data.data-dir DATA_DIR --workdir DIR

Train one width by its row, or sweep over all. The recipe is CVNets' configuration
mobilevit_v2.yaml with the learning rates and decays that its documentation gives for each width:
one image size, no decay of norms and biases, gradients clipped at a norm of 10, channels in the
order R, G, B, bicubic crops, RandAugment, random erasing, and Mixup or CutMix in half of the steps.
Mixup and CutMix are drawn with the probability of v0.2's code; later versions of CVNets have 1.
Batches are global (128 on each of 8 devices), and the command is the same on a TPU v3-8, a TPU
v4-8 and 8 GPUs; a v4-8 has 4 devices, each of which normalises and mixes 256 images together.
docs/tpu_gpu.md has more. How many hours it takes is not published.
"""

from mobilevit_jax.config import Experiment
from mobilevit_jax.data.augment import AugmentConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.study import Line, Row, Study, Table
from mobilevit_jax.training.optimizer import OptimizerConfig
from mobilevit_jax.training.schedule import ScheduleConfig

# By width: highest learning rate, weight decay, published top-1.
WIDTHS = {
    0.5: (0.009, 0.004, 0.7018),
    0.75: (0.009, 0.008, 0.7556),
    1.0: (0.0075, 0.013, 0.7809),
    1.25: (0.0049, 0.020, 0.7965),
    1.5: (0.0035, 0.029, 0.8038),
    1.75: (0.0026, 0.039, 0.8084),
    2.0: (0.002, 0.05, 0.8117),
}
AUGMENT = AugmentConfig(
    interpolation="bicubic",
    rand_augment=2,
    erase_probability=0.25,
    mixup_alpha=0.2,
    cutmix_alpha=1.0,
)


def study() -> Study:
    """Returns the study."""
    names = {width: f"mobilevitv2_{round(100 * width):03}" for width in WIDTHS}
    table = Table(
        title="MobileViTv2 by width",
        source="model zoo of CVNets v0.2, ImageNet-1k at 256x256",
        metrics=("top1",),
        lines=tuple(
            Line(f"width {width:g}", names[width], (top1,))
            for width, (_, _, top1) in WIDTHS.items()
        ),
    )
    return Study(
        name="mobilevitv2",
        claim="MobileViTv2 is more accurate the wider it is: 70.2% top-1 at 0.5, 81.2% at 2.0",
        rows=tuple(
            Row(names[width], _recipe(names[width], rate, decay))
            for width, (rate, decay, _) in WIDTHS.items()
        ),
        tables=(table,),
    )


def _recipe(model: str, rate: float, decay: float) -> Experiment:
    return Experiment(
        # Their runs computed in float16; bfloat16 needs no loss scaling.
        model=ModelConfig(model, dtype="bfloat16"),
        processor=ImageProcessor(do_flip_channel_order=False, resample="pillow_bicubic"),
        augment=AUGMENT,
        sampler=SamplerConfig(sizes=(256,)),
        optimizer=OptimizerConfig(weight_decay=decay, decay_one_dimensional=False, clip_norm=10.0),
        schedule=ScheduleConfig(peak=rate, start=1e-6, end=rate / 10, warmup_steps=20_000),
    )
