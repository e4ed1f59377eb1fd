"""MobileViT-XS on ImageNet-1k with the paper's full recipe (section 4.1, as CVNets v0.1 runs it).

Claim: 74.8% top-1 with 2,317,848 parameters, from the EMA weights at 256x256 after 300 epochs
(74.8 in the paper, 74.7 in the README of CVNets v0.1). Not run here.

    mobilevit prepare imagenet --source ILSVRC2012_DIR --data-dir DATA_DIR
    mobilevit train experiments/imagenet/mobilevit_xs.py --data.data-dir DATA_DIR

ILSVRC2012_DIR holds the official tar files. An imagenet2012 that TFDS prepared as array_record does
as well: --data.dataset imagenet2012. Batches are global (1024 at 256x256, as 128 on each of 8
devices) and the same on any number of devices that divides them; batch norm sees what is on one
device, so that 8 are the paper's setting. Where memory is short, --optimizer.accumulation 2
computes a device's batch in two parts (batch norm then sees one part), and --model.remat computes
activations again instead of keeping them.

The command is the same on a TPU v3-8, a TPU v4-8 (4 devices) and 8 GPUs; docs/tpu_gpu.md has more.
Time: one and a half to two days on 8 A100 (issue 50 of CVNets), or 22.5 hours at the 270 s an epoch
of the paper's Figure 5b, which is taken to be of S; for a TPU nothing is known.
"""

from mobilevit_jax.config import Experiment
from mobilevit_jax.models.config import ModelConfig


def experiment() -> Experiment:
    """Returns the recipe: the defaults of every room are the paper's."""
    return Experiment(
        name="imagenet_mobilevit_xs",
        # The paper's runs computed in float16; bfloat16 needs no loss scaling.
        model=ModelConfig("mobilevit_xs", dtype="bfloat16"),
    )
