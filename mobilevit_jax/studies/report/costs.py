"""The part of a report that follows from the models alone: Figure 3d, Tables 8 and 10."""

from pathlib import Path

from matplotlib.ticker import PercentFormatter

from mobilevit_jax.analysis.costs import MOBILENETV2_KILOBYTES, stage_costs, task_costs
from mobilevit_jax.analysis.plots import new_figure, tidy, write_figure
from mobilevit_jax.studies.report.page import Cell, Grid, grid
from mobilevit_jax.studies.report.tables import NONE

MODELS = ("mobilevit_s", "mobilevit_xs", "mobilevit_xxs")
_COLOURS = ("#0072B2", "#56B4E9", "#B7CFE0")
_NO_MAP = Cell("no map", "missing")


def draw_parameters(path: Path) -> None:
    """Draws the share of the parameters that each stage of the three classifiers holds.

    Raises:
        OSError: If the file cannot be written.
    """
    figure = new_figure(5.0, 3.9)
    axes = figure.add_subplot()
    for index, (name, colour) in enumerate(zip(MODELS, _COLOURS, strict=True)):
        costs = stage_costs(name)
        total = sum(cost.parameters for cost in costs)
        places = [place + (index - 1) * 0.27 for place in range(len(costs))]
        axes.barh(
            places,
            [cost.share for cost in costs],
            height=0.25,
            color=colour,
            label=f"{name}, {total / 1e6:.1f} million",
        )
        axes.set_yticks(range(len(costs)), [cost.name for cost in costs])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.set_title("share of all parameters", loc="left")
    axes.legend(frameon=False, fontsize=9)
    tidy(axes)
    write_figure(figure, path)


def stages() -> Grid:
    """Returns the stages of MobileViT-XS at 224 pixels, Table 8's numbers beside ours."""
    rows = [
        [
            cost.name,
            "x".join(map(str, cost.shape)) if cost.shape else _NO_MAP,
            f"{cost.parameters:,}",
            f"{cost.share:.1%}",
            f"{cost.macs / 1e6:,.1f}",
            _paper(cost.paper_kilobytes, "g"),
            Cell(f"{cost.kilobytes:,.1f}", "ours") if cost.shape else _NO_MAP,
            _paper(MOBILENETV2_KILOBYTES.get(cost.output_stride or 0), "g"),
        ]
        for cost in stage_costs()
    ]
    return grid(
        (
            *("stage", "map", "parameters", "share", "multiply-adds, M"),
            *("kB of the map, paper", "kB of the map, here", "kB of MobileNetv2, paper"),
        ),
        rows,
        title="Stages of MobileViT-XS at 224x224",
        note="Paper: Table 8, the last map at each output stride, 2 bytes a number; Figure 3d has "
        "no numbers. Here: counted from the modules, nothing was run. MobileNetv2's number is that "
        "of the same output stride.",
    )


def _paper(value: float | None, form: str) -> Cell:
    return NONE if value is None else Cell(f"{value:{form}}", "paper")


def tasks() -> Grid:
    """Returns Table 10: parameters and multiply-adds in the three tasks."""
    rows = [
        [
            cost.task,
            cost.network,
            _paper(cost.paper_parameters / 1e6, ".1f"),
            _ours(cost.parameters, 1e6),
            _paper(cost.paper_macs / 1e9, ".1f"),
            _ours(cost.profiled_macs, 1e9),
            _ours(cost.macs, 1e9),
            f"{cost.size}x{cost.size}",
        ]
        for cost in task_costs()
    ]
    return grid(
        (
            *("task", "network", "parameters, M, paper", "here"),
            *("multiply-adds, G, paper", "here, counted as there", "here, all of them", "at"),
        ),
        rows,
        title="What the three tasks cost",
        note="Paper: Table 10 (its accuracies are not repeated here). Here: counted from the "
        "modules, nothing was run.",
        words=("network",),
    )


def _ours(value: int | None, unit: float) -> Cell:
    return Cell("uncounted", "missing") if value is None else Cell(f"{value / unit:.2f}", "ours")
