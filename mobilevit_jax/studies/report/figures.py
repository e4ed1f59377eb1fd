"""The figures of a report that compare runs: learning curves, and accuracy against image size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mobilevit_jax.analysis.metrics import HEADINGS
from mobilevit_jax.analysis.plots import Row, new_figure, points_of, shorten, tidy, write_figure

# Those of Okabe and Ito without their yellow, which is hard to see on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":")
_LABEL_LENGTH = 30


@dataclass(frozen=True)
class Curves:
    """What belongs together: the seeds of a row, or one run.

    Attributes:
        label: In the legend.
        points: For each run its (x, y), sorted by x.
        colour: Its own, if not the next one.
    """

    label: str
    points: tuple[tuple[tuple[float, float], ...], ...]
    colour: str = ""


def curves(
    runs: Mapping[str, Sequence[Sequence[Row]]], split: str, metric: str
) -> tuple[Curves, ...]:
    """Returns a metric of a split against the epoch, for those who have any.

    Args:
        runs: The rows of metrics of one or several runs, by what they are called.
        split: "train", "validation" or "test".
        metric: Its name in the rows.
    """
    found = []
    for label, seeds in runs.items():
        lines = [points_of(rows, metric).get(split) for rows in seeds]
        points = tuple(tuple(sorted(line)) for line in lines if line)
        if points:
            found.append(Curves(label, points))
    return tuple(found)


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
    below = (len(lines) + 1) // 2  # rows of the legend
    figure = new_figure(5.0, 3.5 + 0.21 * below)
    axes = figure.add_subplot()
    handles = [_plot(axes, line, index, dots_at_all=sizes) for index, line in enumerate(lines)]
    if metric.removeprefix("raw_") in HEADINGS:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=None))
    axes.set_title(shorten(title, 60), loc="left", fontsize=11, parse_math=False)
    axes.set_xlabel("side of the images in pixels" if sizes else "epoch")
    if not sizes:
        last = max(x for line in lines for points in line.points for x, _ in points)
        axes.set_xlim(0.0, 1.02 * max(last, 1.0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    tidy(axes)
    # Names are data: neither "$x$" nor a leading "_" means anything.
    # The end of a path tells more than its beginning.
    labels = [" " + shorten(line.label[::-1], _LABEL_LENGTH)[::-1] for line in lines]
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    write_figure(figure, path)


def _plot(axes: Axes, line: Curves, index: int, *, dots_at_all: bool):
    """Draws the runs of one label alike; returns a handle for the legend."""
    handles = []
    for points in line.points:
        x, y = zip(*points, strict=True)
        handles += axes.plot(
            x,
            y,
            color=line.colour or _COLOURS[index % len(_COLOURS)],
            linestyle=_STYLES[index // len(_COLOURS) % len(_STYLES)],
            linewidth=1.4,
            marker="o" if dots_at_all or len(points) <= 20 else "",
            markersize=3.5,
        )
    return handles[0]
