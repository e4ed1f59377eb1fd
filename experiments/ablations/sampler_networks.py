"""The multi-scale sampler in training other networks (paper, Table 5).

Claim: ResNet-50 on ImageNet-1k, 150 epochs: 77.1% top-1 with the standard sampler after 187
thousand updates and 54 thousand seconds, 78.6% with the multi-scale one after 116 thousand and 40
thousand. MobileNetv2-1.0, 300 epochs: 72.1% after 375 thousand updates and 78 thousand seconds,
73.3% after 232 thousand and 67 thousand. (torchvision's own are 76.2% and 71.9%.)

    mobilevit sweep experiments/ablations/sampler_networks.py --data.data-dir DATA_DIR --workdir DIR

The recipes are those of CVNets v0.1: base size 224, sizes from 128 to 256, SGD without decay of
norms and biases; its ResNet begins otherwise than torchvision's (`model.stem`), which the paper's
numbers are of. The command is the same on a TPU v3-8, a TPU v4-8 and 8 GPUs; a v4-8 has 4 devices,
each of which normalises twice as many images together as the paper's 8. The plans of the four rows
have 376, 224, 188 and 112 thousand updates: no published configuration of the sampler has just the
paper's. Time: 15 and 11.1 hours for ResNet-50, 21.7 and 18.6 for MobileNetv2, by Table 5; for a TPU
nothing is known. Not run here; sampler_networks_cifar10.py, in this directory, has a small form.
"""

from mobilevit_jax.config import EvaluationConfig, Experiment
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.study import Line, Row, Study, Table
from mobilevit_jax.training.optimizer import OptimizerConfig
from mobilevit_jax.training.schedule import ScheduleConfig

STANDARD = SamplerConfig(base_size=224, sizes=(224,))
MULTI_SCALE = SamplerConfig(base_size=224, min_size=128, max_size=256)
# The stem is CVNets', and so is the dropout.
RESNET = ModelConfig("resnet50", stem="cvnets", classifier_dropout=0.2, dtype="bfloat16")
MOBILENET = ModelConfig("mobilenetv2_100", dtype="bfloat16")


def study() -> Study:
    """Returns the study."""
    sgd = OptimizerConfig("sgd", weight_decay=1e-4, decay_one_dimensional=False)
    nesterov = OptimizerConfig("sgd", weight_decay=4e-5, decay_one_dimensional=False, nesterov=True)
    return Study(
        name="sampler_networks",
        claim="the multi-scale sampler makes other networks more accurate in less time",
        rows=(
            Row("mobilenetv2_standard", _recipe(MOBILENET, 300, nesterov, STANDARD)),
            Row("mobilenetv2_multi_scale", _recipe(MOBILENET, 300, nesterov, MULTI_SCALE)),
            Row("resnet50_standard", _recipe(RESNET, 150, sgd, STANDARD)),
            Row("resnet50_multi_scale", _recipe(RESNET, 150, sgd, MULTI_SCALE)),
        ),
        tables=(
            Table(
                title="samplers: other networks",
                source="Table 5, ImageNet-1k (an epoch's seconds: the run's by its epochs)",
                metrics=("top1", "updates", "epoch_seconds"),
                lines=(
                    Line("ResNet-50, standard", "resnet50_standard", (0.771, 187_000, 360)),
                    Line("ResNet-50, multi-scale", "resnet50_multi_scale", (0.786, 116_000, 267)),
                    Line("MobileNetv2, standard", "mobilenetv2_standard", (0.721, 375_000, 260)),
                    Line(
                        "MobileNetv2, multi-scale", "mobilenetv2_multi_scale", (0.733, 232_000, 223)
                    ),
                ),
            ),
        ),
    )


def _recipe(
    model: ModelConfig, epochs: int, optimizer: OptimizerConfig, sampler: SamplerConfig
) -> Experiment:
    return Experiment(
        epochs=epochs,
        model=model,
        processor=ImageProcessor(size=256, crop_size=(224, 224)),
        sampler=sampler,
        optimizer=optimizer,
        schedule=ScheduleConfig(peak=0.4, start=0.05, end=2e-4, warmup_steps=7500),
        evaluation=EvaluationConfig(raw_weights=True),
    )
