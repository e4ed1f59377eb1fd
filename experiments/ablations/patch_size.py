"""Patch sizes of the three MobileViT blocks (paper, Table 6; two of them in Table 9).

Claim: MobileViT-S on ImageNet-1k, EMA weights at 256x256, and its time on an iPhone 12. Patches of
2, 2, 2 pixels in layer_3, layer_4, layer_5: 78.4% top-1, 9.85 ms; 3, 3, 3: 78.5%, 14.69 ms, since
its maps have to be resized; 4, 4, 4: 77.6%, 8.23 ms; 8, 4, 2: 77.3%, 8.20 ms. The parameters are
the same. The times cannot be measured here.

    mobilevit sweep experiments/ablations/patch_size.py --data.data-dir DATA_DIR --workdir DIR

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

# Patches: top-1, milliseconds.
PAPER = {
    (2, 2, 2): (0.784, 9.85),
    (3, 3, 3): (0.785, 14.69),
    (4, 4, 4): (0.776, 8.23),
    (8, 4, 2): (0.773, 8.20),
}


def study() -> Study:
    """Returns the study; the recipe itself has patches of 2, 2, 2."""
    recipe = Experiment(
        model=ModelConfig("mobilevit_s", dtype="bfloat16"),
        evaluation=EvaluationConfig(raw_weights=True),
    )
    names = {sizes: "patches_" + "_".join(map(str, sizes)) for sizes in PAPER}
    names[2, 2, 2] = "recipe"
    return Study(
        name="patch_size",
        claim="patches of at most the kernel's size, 3, are more accurate than larger ones",
        rows=tuple(
            Row(names[sizes], replace(recipe, model=replace(recipe.model, patch_sizes=sizes)))
            for sizes in PAPER
        ),
        tables=(
            Table(
                title="patch sizes",
                source="Table 6, MobileViT-S on ImageNet-1k, iPhone 12",
                metrics=("top1", "iphone12_milliseconds"),
                lines=tuple(
                    Line(", ".join(map(str, sizes)), names[sizes], numbers)
                    for sizes, numbers in PAPER.items()
                ),
            ),
        ),
    )
