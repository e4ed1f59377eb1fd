"""The skip connection in the MobileViT block: with and without (paper, Figure 12).

Claim: MobileViT-S on ImageNet-1k, EMA weights at 256x256: 78.4% top-1 with it, 77.9% without. It
carries the block's input to the fusion convolution. The figure shows the arrow alone; without it
here neither the concatenation nor the fusion convolution is left, as with CVNets' option for that.

    mobilevit sweep experiments/ablations/skip_connection.py --data.data-dir DATA_DIR --workdir DIR

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


def study() -> Study:
    """Returns the study; the recipe itself has the connection."""
    recipe = Experiment(
        model=ModelConfig("mobilevit_s", dtype="bfloat16"),
        evaluation=EvaluationConfig(raw_weights=True),
    )
    return Study(
        name="skip_connection",
        claim="the skip connection to the fusion convolution is worth half a per cent",
        rows=(
            Row("recipe", recipe),
            Row("no_fusion", replace(recipe, model=replace(recipe.model, fusion=False))),
        ),
        tables=(
            Table(
                title="skip connection",
                source="Figure 12, MobileViT-S on ImageNet-1k",
                metrics=("top1",),
                lines=(Line("with", "recipe", (0.784,)), Line("without", "no_fusion", (0.779,))),
            ),
        ),
    )
