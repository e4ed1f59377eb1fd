"""What can be derived of the paper's tables of costs: parameters, memory and multiply-adds.

The paper's numbers stand beside ours: Figure 3d (parameters of each stage, a plot without numbers),
Table 8 (memory of the maps) and Table 10 (what classification, detection and segmentation cost).
"""

import math
from dataclasses import dataclass

from mobilevit_jax.analysis.counts import Stage, stages, total_macs
from mobilevit_jax.models import create_model

_BYTES = 2  # of a number: Table 8 reckons with float16 maps of images of 224 pixels
# Table 8, kB of MobileViT-XS's last map at each output stride; that of 32 is the one before the
# pooling.
_TABLE_8 = {"layer_1": 784, "layer_2": 294, "layer_3": 98, "layer_4": 31, "conv_1x1_exp": 37}
# The same of MobileNetv2-1.0 by output stride.
MOBILENETV2_KILOBYTES = {2: 400, 4: 200, 8: 100, 16: 62, 32: 32}


@dataclass(frozen=True)
class StageCost(Stage):
    """One stage of a classifier, with what the paper tells of it; other fields: see `Stage`.

    Attributes:
        output_stride: Of its map; None for the classifier, which has none.
        share: Of all parameters.
        kilobytes: Of its map at 2 bytes a number, in units of 1024 bytes.
        paper_kilobytes: Table 8's, for MobileViT-XS at 224 pixels where it has one.
    """

    output_stride: int | None
    share: float
    kilobytes: float
    paper_kilobytes: float | None


def stage_costs(name: str = "mobilevit_xs", size: int = 224) -> list[StageCost]:
    """Returns the stages of a model in order of use.

    Args:
        name: A classifier of `list_models()`.
        size: Image height and width in pixels.

    Raises:
        ConfigurationError: If there is no such model.
    """
    counted = stages(create_model(name), size)
    total = sum(part.parameters for part in counted)
    paper = _TABLE_8 if (name, size) == ("mobilevit_xs", 224) else {}
    return [
        StageCost(
            **vars(part),
            output_stride=-(-size // part.shape[0]) if part.shape else None,
            share=part.parameters / total,
            kilobytes=math.prod(part.shape) * _BYTES / 1024 if part.shape else 0,
            paper_kilobytes=paper.get(part.name),
        )
        for part in counted
    ]


@dataclass(frozen=True)
class TaskCost:
    """A line of Table 10.

    Attributes:
        task: "classification", "detection" or "segmentation".
        network: What the paper calls it.
        size: Image height and width in pixels at which the multiply-adds are counted.
        paper_parameters: The paper's number.
        paper_macs: What the paper calls FLOPs.
        parameters: Trainable numbers; None where the network is not of this package.
        macs: True multiply-adds.
        profiled_macs: Multiply-adds in the paper's convention, see `counts.stages`.
    """

    task: str
    network: str
    size: int
    paper_parameters: float
    paper_macs: float
    parameters: int | None = None
    macs: int | None = None
    profiled_macs: int | None = None


_MODELS = {
    "classification": ("mobilevit_xs", 224),
    "detection": ("ssdlite_mobilevit_xs", 320),
    "segmentation": ("deeplabv3_mobilevit_xs", 512),
}
# Task, patches (None: MobileNetv2), then the paper's millions of parameters and "FLOPs" in G. The
# patches of the first line of segmentation are not stated; they are taken to be those of the other
# tasks.
_TABLE_10 = (
    ("classification", None, 3.5, 0.3),
    ("classification", (8, 4, 2), 2.3, 0.7),
    ("classification", (2, 2, 2), 2.3, 0.7),
    ("detection", None, 4.3, 0.8),
    ("detection", (8, 4, 2), 2.7, 1.6),
    ("detection", (2, 2, 2), 2.7, 1.6),
    ("segmentation", None, 4.3, 5.8),
    ("segmentation", (8, 4, 2), 2.9, 5.7),
    ("segmentation", (2, 2, 2), 2.9, 5.7),
)


def task_costs() -> list[TaskCost]:
    """Returns Table 10 without its accuracies: MobileNetv2 and MobileViT-XS in the three tasks."""
    costs = []
    for task, patches, millions, giga in _TABLE_10:
        name, size = _MODELS[task]
        paper = (size, millions * 1e6, giga * 1e9)
        if patches is None:
            costs.append(TaskCost(task, "MobileNetv2", *paper))
            continue
        model = create_model(name, patch_sizes=patches)
        counted = stages(model, size)
        ours = (
            sum(part.parameters for part in counted),
            sum(part.macs for part in counted),
            total_macs(model, size, convention="paper"),
        )
        network = f"MobileViT-XS, patches {', '.join(map(str, patches))}"
        costs.append(TaskCost(task, network, *paper, *ours))
    return costs
