"""Label smoothing (LS) and the moving average of the weights (EMA) (paper, Table 7).

Claim: MobileViT-S on ImageNet-1k at 256x256: 78.0% top-1 with neither, 78.3% with LS, 78.4% with LS
and EMA. One run gives the last two: the average does not touch the training, so the raw weights of
a run with EMA are those of a run without, and both are evaluated (`evaluation.raw_weights`).

    mobilevit sweep experiments/ablations/label_smoothing_ema.py --data.data-dir DATA_DIR \\
        --workdir DIR

The command is the same on a TPU v3-8, a TPU v4-8 and 8 GPUs; a v4-8 has 4 devices, each of which
normalises twice as many images together as the paper's 8. With the same DIR as another study the
row `recipe` is trained once for both. Time: 22.5 hours a row at the 270 s an epoch of Figure 5b,
or one and a half to two days on 8 A100 (issue 50 of CVNets); for a TPU nothing is known. Not run
here; cifar10.py, in this directory, has a small form that was.
"""

from dataclasses import replace

from mobilevit_jax.config import EvaluationConfig, Experiment
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.study import Line, Row, Study, Table
from mobilevit_jax.training.losses import LossConfig


def study() -> Study:
    """Returns the study; the recipe itself has both."""
    recipe = Experiment(
        model=ModelConfig("mobilevit_s", dtype="bfloat16"),
        evaluation=EvaluationConfig(raw_weights=True),
    )
    return Study(
        name="label_smoothing_ema",
        claim="label smoothing is worth 0.3%, the average of the weights 0.1% more",
        rows=(
            Row("no_label_smoothing", replace(recipe, loss=LossConfig(label_smoothing=0.0))),
            Row("recipe", recipe),
        ),
        tables=(
            Table(
                title="label smoothing and EMA",
                source="Table 7, MobileViT-S on ImageNet-1k",
                metrics=("top1",),
                lines=(
                    Line("none", "no_label_smoothing", (0.780,), raw=True),
                    Line("LS", "recipe", (0.783,), raw=True),
                    Line("LS + EMA", "recipe", (0.784,)),
                ),
            ),
        ),
    )
