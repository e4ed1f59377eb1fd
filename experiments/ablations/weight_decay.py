"""Weight decay: 0.1, 0.01, 0.001 and 0.0001 (paper, Figure 11).

Claim: MobileViT-S on ImageNet-1k, EMA weights at 256x256: 0.1 gives 76.5% top-1, 0.01 gives 78.4%,
0.001 gives 77.6%, 0.0001 gives 77.4%. So 0.01, against the 0.05 or more of other transformers.

    mobilevit sweep experiments/ablations/weight_decay.py --data.data-dir DATA_DIR --workdir DIR

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

TOP1 = {0.1: 0.765, 0.01: 0.784, 0.001: 0.776, 0.0001: 0.774}


def study() -> Study:
    """Returns the study; the recipe itself has a decay of 0.01."""
    recipe = Experiment(
        model=ModelConfig("mobilevit_s", dtype="bfloat16"),
        evaluation=EvaluationConfig(raw_weights=True),
    )
    names = {decay: f"weight_decay_{decay:g}" for decay in TOP1} | {0.01: "recipe"}
    return Study(
        name="weight_decay",
        claim="a decay of 0.01 is best",
        rows=tuple(
            Row(
                names[decay],
                replace(recipe, optimizer=replace(recipe.optimizer, weight_decay=decay)),
            )
            for decay in TOP1
        ),
        tables=(
            Table(
                title="weight decay",
                source="Figure 11, MobileViT-S on ImageNet-1k",
                metrics=("top1",),
                lines=tuple(
                    Line(f"{decay:g}", names[decay], (top1,)) for decay, top1 in TOP1.items()
                ),
            ),
        ),
    )
