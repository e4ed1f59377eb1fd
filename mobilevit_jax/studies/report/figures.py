"""The figures of a report that compare runs: learning curves, and accuracy against image size."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.ticker import PercentFormatter

from mobilevit_jax.analysis import plots
from mobilevit_jax.analysis.metrics import HEADINGS
from mobilevit_jax.analysis.plots import Point, Row, shorten
from mobilevit_jax.errors import visible

# Those of Okabe and Ito without their yellow, which is hard to see on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LOOKS = tuple(itertools.product(("-", "--", ":"), _COLOURS))
_LABEL_LENGTH, _HALF_LENGTH = 30, 25  # two longer ones do not fit side by side


@dataclass(frozen=True)
class Curves:
    """What belongs together: the seeds of a row, or one run.

    Attributes:
        label: In the legend.
        points: For each run its (x, y), sorted by x.
        colour: Its own, if not the next one.
    """

    label: str
    points: Sequence[Sequence[Point]]
    colour: str = ""


def curves(runs: Mapping[str, Sequence[Sequence[Row]]], split: str, metric: str) -> list[Curves]:
    """Returns a metric of a split against the epoch, for those who have any.

    Args:
        runs: The rows of metrics of one or several runs, by what they are called.
        split: "train", "validation" or "test".
        metric: Its name in the rows.
    """
    found = []
    for label, seeds in runs.items():
        lines = [plots.points_of(rows, metric).get(split) for rows in seeds]
        if points := [sorted(line) for line in lines if line]:
            found.append(Curves(label, points))
    return found


def draw_lines(
    lines: Sequence[Curves], path: Path, *, metric: str, title: str, sizes: bool = False
) -> None:
    """Draws a metric against the epoch, or against the size of the images in pixels if `sizes`.

    Raises:
        ValueError: If there are no lines.
        OSError: If the file cannot be written.
    """
    if not lines:
        raise ValueError("there is nothing to draw: no line has a point")
    # The end of a path tells more than its beginning.
    labels = [" " + shorten(visible(line.label)[::-1], _LABEL_LENGTH)[::-1] for line in lines]
    columns = 1 if max(map(len, labels)) > _HALF_LENGTH else 2
    below = -(-len(lines) // columns)  # rows of the legend
    figure = plots.new_figure(5.0, 3.5 + 0.21 * below)
    axes = figure.add_subplot()
    handles = []
    for line, (dashes, colour) in zip(lines, itertools.cycle(_LOOKS), strict=False):
        look: Any = {"color": line.colour or colour, "linestyle": dashes, "linewidth": 1.4}
        drawn = [plots.draw_line(axes, points, dots=sizes, **look) for points in line.points]
        handles.append(drawn[0])
    if metric.removeprefix("raw_") in HEADINGS:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=None))
    axes.set_title(shorten(visible(title), 60), loc="left", fontsize=11, parse_math=False)
    if sizes:
        axes.set_xlabel("side of the images in pixels")
    else:
        ends = [points[-1][0] for line in lines for points in line.points]
        plots.show_epochs(axes, max(1.0, *ends))
    plots.tidy(axes)
    # Names are data: neither "$x$" nor a leading "_" means anything.
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    plots.write_figure(figure, path)
