"""Kernel size n of the blocks' convolutions against the patch size h = w (paper, Figure 13).

Claim: attention joins the pixels that have the same place in their patches, and the n x n
convolution before it has put the neighbours of each into it. So every pixel sees every other one if
h and w are at most n: with n = 3 patches of 2 and 3 pixels do, patches of 4 leave holes. The figure
illustrates that and has no numbers; `mobilevit_jax.analysis.receptive_field` finds the same from
gradients, and its tests assert the rule. The accuracies beside n = 3 are those of Table 6
(MobileViT-S on ImageNet-1k, EMA weights at 256x256: 78.4%, 78.5% and 77.6% top-1); the paper has
none for other n. Other kernels change the parameters, as the fusion convolution changes too:
4,349,832 with n = 1, 5,578,632 with n = 3, 8,036,232 with n = 5.

    mobilevit sweep experiments/ablations/kernel_size.py --data.data-dir DATA_DIR --workdir DIR

The command is the same on a TPU v3-8, a TPU v4-8 and 8 GPUs; a v4-8 has 4 devices, each of which
normalises twice as many images together as the paper's 8. With the same DIR as patch_size.py three
of the rows are trained once for both. Time: 22.5 hours a row of n = 3 at the 270 s an epoch of
Figure 5b, or one and a half to two days on 8 A100 (issue 50 of CVNets); for a TPU nothing is known.
Not run on ImageNet.
"""

from dataclasses import replace

from mobilevit_jax.config import EvaluationConfig, Experiment
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.study import Line, Row, Study, Table

# (n, h = w): the row's name, the paper's top-1.
ROWS = {
    (3, 2): ("recipe", 0.784),
    (3, 3): ("patches_3_3_3", 0.785),
    (3, 4): ("patches_4_4_4", 0.776),
    (5, 4): ("kernel_5_patches_4_4_4", None),
    (1, 2): ("kernel_1", None),
}


def study() -> Study:
    """Returns the study; the recipe itself has n = 3 and h = w = 2."""
    recipe = Experiment(
        model=ModelConfig("mobilevit_s", dtype="bfloat16"),
        evaluation=EvaluationConfig(raw_weights=True),
    )
    return Study(
        name="kernel_size",
        claim="every pixel sees every other one if the patches are at most as large as the kernel",
        rows=tuple(
            Row(
                name,
                replace(
                    recipe,
                    model=replace(recipe.model, kernel_size=kernel, patch_sizes=(patch,) * 3),
                ),
            )
            for (kernel, patch), (name, _) in ROWS.items()
        ),
        tables=(
            Table(
                title="kernel and patch size",
                source="Figure 13 (no numbers); Table 6, MobileViT-S on ImageNet-1k",
                metrics=("top1",),
                lines=tuple(
                    Line(
                        f"n = {kernel}, h = w = {patch}"
                        + (": sees all" if patch <= kernel else ": holes"),
                        name,
                        (top1,),
                    )
                    for (kernel, patch), (name, top1) in ROWS.items()
                ),
            ),
        ),
    )
