"""What can be derived of the paper's tables of costs: parameters, memory and multiply-adds.

The paper's numbers stand beside ours: Figure 3d (parameters of each stage, a plot without numbers),
Table 8 (memory of the maps) and Table 10 (what classification, detection and segmentation cost).
"""

from dataclasses import dataclass

from mobilevit_jax.analysis.counts import stages, total_macs
from mobilevit_jax.models import create_model

_BYTES = 2  # of a number: Table 8 reckons with float16 maps of images of 224 pixels
# Table 8, kB of the last map at each output stride; that of 32 is the one before the pooling.
_TABLE_8 = {
    "mobilevit_xs": {
        "layer_1": 784,
        "layer_2": 294,
        "layer_3": 98,
        "layer_4": 31,
        "conv_1x1_exp": 37,
    }
}
# The same of MobileNetv2-1.0 by output stride.
MOBILENETV2_KILOBYTES = {2: 400, 4: 200, 8: 100, 16: 62, 32: 32}


@dataclass(frozen=True)
class StageCost:
    """One stage of a model.

    Attributes:
        name: "conv_1", "layer_1", ..., "conv_1x1_exp", "classifier".
        output_stride: Of its map; None for the classifier, which has none.
        shape: Of its map for one image, [h, w, c], or ().
        parameters: Trainable numbers.
        share: Of all parameters.
        macs: True multiply-adds for one image.
        paper_macs: Multiply-adds in the paper's convention, see `counts.stages`.
        kilobytes: Of its map at 2 bytes a number, in units of 1024 bytes.
        paper_kilobytes: Table 8's, for MobileViT-XS at 224 pixels where it has one.
    """

    name: str
    output_stride: int | None
    shape: tuple[int, ...]
    parameters: int
    share: float
    macs: int
    paper_macs: int
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
    model = create_model(name)
    counted = stages(model, size)
    in_paper = {part.name: part.macs for part in stages(model, size, convention="paper")}
    total = sum(part.parameters for part in counted)
    paper = _TABLE_8.get(name, {}) if size == 224 else {}
    return [
        StageCost(
            part.name,
            -(-size // part.shape[0]) if part.shape else None,
            part.shape,
            part.parameters,
            part.parameters / total,
            part.macs,
            in_paper[part.name],
            _kilobytes(part.shape),
            paper.get(part.name),
        )
        for part in counted
    ]


def _kilobytes(shape: tuple[int, ...]) -> float:
    height, width, channels = shape or (0, 0, 0)
    return height * width * channels * _BYTES / 1024


@dataclass(frozen=True)
class TaskCost:
    """A line of Table 10.

    Attributes:
        task: "classification", "detection" or "segmentation".
        network: What the paper calls it.
        size: Image height and width in pixels at which the multiply-adds are counted.
        parameters: Trainable numbers; None where the network is not of this package.
        macs: True multiply-adds.
        profiled_macs: Multiply-adds in the paper's convention, see `counts.stages`.
        paper_parameters: The paper's number.
        paper_macs: What the paper calls FLOPs.
        paper_metric: Top-1, mAP or mIoU as a fraction.
        paper_milliseconds: On an iPhone 12, classification at 256 pixels (MobileNetv2: 224).
    """

    task: str
    network: str
    size: int
    parameters: int | None
    macs: int | None
    profiled_macs: int | None
    paper_parameters: float
    paper_macs: float
    paper_metric: float
    paper_milliseconds: float


_XS = {
    "classification": "mobilevit_xs",
    "detection": "ssdlite_mobilevit_xs",
    "segmentation": "deeplabv3_mobilevit_xs",
}
_SIZES = {"classification": 224, "detection": 320, "segmentation": 512}
# Task, patches (None: MobileNetv2), then the four numbers of the paper: millions of parameters,
# "FLOPs" in G, metric, milliseconds. The patches of the first line of segmentation are not stated;
# they are taken to be those of the other tasks.
_TABLE_10 = (
    ("classification", None, 3.5, 0.3, 0.733, 0.92),
    ("classification", (8, 4, 2), 2.3, 0.7, 0.738, 5.93),
    ("classification", (2, 2, 2), 2.3, 0.7, 0.748, 7.28),
    ("detection", None, 4.3, 0.8, 0.221, 2.3),
    ("detection", (8, 4, 2), 2.7, 1.6, 0.231, 10.7),
    ("detection", (2, 2, 2), 2.7, 1.6, 0.248, 12.6),
    ("segmentation", None, 4.3, 5.8, 0.757, 6.5),
    ("segmentation", (8, 4, 2), 2.9, 5.7, 0.754, 25.1),
    ("segmentation", (2, 2, 2), 2.9, 5.7, 0.771, 32.3),
)


def task_costs() -> list[TaskCost]:
    """Returns Table 10: MobileNetv2 and MobileViT-XS in the three tasks."""
    costs = []
    for task, patches, millions, giga, metric, milliseconds in _TABLE_10:
        size = _SIZES[task]
        ours: tuple[int | None, int | None, int | None] = (None, None, None)
        network = "MobileNetv2"
        if patches is not None:
            model = create_model(_XS[task], patch_sizes=patches)
            counted = stages(model, size)
            ours = (
                sum(part.parameters for part in counted),
                sum(part.macs for part in counted),
                total_macs(model, size, convention="paper"),
            )
            network = f"MobileViT-XS, patches {', '.join(map(str, patches))}"
        paper = (millions * 1e6, giga * 1e9, metric, milliseconds)
        costs.append(TaskCost(task, network, size, *ours, *paper))
    return costs
