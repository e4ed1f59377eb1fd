"""The standard sampler against the multi-scale one (paper, Figures 5b, 9 and 10).

Claim: for MobileViT-S on ImageNet-1k the multi-scale sampler takes 232 thousand updates instead of
375 thousand and 270 s an epoch instead of 380 (Figure 5b), and is about half a per cent more
accurate at every size from 160 to 320 pixels (Figures 9 and 10, plots without numbers; 78.4% at
256 in the text). Its training error is the higher one, its validation error the lower one.

    mobilevit sweep experiments/ablations/sampler.py --data.data-dir DATA_DIR --workdir DIR

It evaluates the final weights at each size besides. The command is the same on a TPU v3-8, a TPU
v4-8 and 8 GPUs; a v4-8 has 4 devices, each of which normalises twice as many images together as the
paper's 8. The plans of the two rows have 376 and 257 thousand updates: no published configuration
of the sampler has just the paper's. With the same DIR as another study the row `recipe` is trained
once for both. Time: 31.7 and 22.5 hours by Figure 5b; one and a half to two days for the second on
8 A100 (issue 50 of CVNets); for a TPU nothing is known. Not run here; cifar10.py, in this
directory, has a small form that was.
"""

from dataclasses import replace

from mobilevit_jax.config import EvaluationConfig, Experiment
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.study import Line, Row, Study, Table

SIZES = (160, 192, 224, 256, 288, 320)


def study() -> Study:
    """Returns the study; the recipe itself has the multi-scale sampler."""
    recipe = Experiment(
        model=ModelConfig("mobilevit_s", dtype="bfloat16"),
        evaluation=EvaluationConfig(raw_weights=True),
    )
    standard = replace(recipe, sampler=SamplerConfig(sizes=(256,)))
    unknown = (None,) * len(SIZES)
    return Study(
        name="sampler",
        claim="multi-scale training takes fewer updates and less time, and is more accurate",
        rows=(Row("standard_sampler", standard, SIZES), Row("recipe", recipe, SIZES)),
        tables=(
            Table(
                title="samplers: cost",
                source="Figure 5b, MobileViT-S on ImageNet-1k",
                metrics=("updates", "epoch_seconds"),
                lines=(
                    Line("standard", "standard_sampler", (375_000, 380)),
                    Line("multi-scale", "recipe", (232_000, 270)),
                ),
            ),
            Table(
                title="samplers: accuracy",
                source="Figures 9 and 10 (plots), MobileViT-S on ImageNet-1k",
                metrics=("top1", *(f"top1@{size}" for size in SIZES)),
                lines=(
                    Line("standard", "standard_sampler", (None, *unknown)),
                    Line("multi-scale", "recipe", (0.784, *unknown)),
                ),
            ),
        ),
    )
