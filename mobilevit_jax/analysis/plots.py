"""Pictures of a run and of predictions, as PNG files.

Figures are made without pyplot, so that nothing global (backend, style, open figures) changes.
Colours are those of Okabe and Ito, which people with colour-blindness can tell apart.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mobilevit_jax.base.atomic import replacing
from mobilevit_jax.errors import visible

DPI = 120
COLOURS = {"train": "#0072B2", "validation": "#D55E00", "test": "#009E73"}
_RATE_COLOUR = "#555555"
_BAR_COLOUR, _BEST_BAR_COLOUR = "#B7CFE0", "#0072B2"
_GRID_COLOUR = "#E4E4E4"
_TEXT_COLOUR = "#222222"
_NAME_LENGTH, _TITLE_LENGTH = 38, 30

Row = Mapping[str, Any]
Point = tuple[float, float]


def learning_curves(rows: Sequence[Row], path: str | Path, *, title: str = "") -> None:
    """Draws loss, top-1 and learning rate of a run against the epoch.

    Args:
        rows: Rows of metrics.jsonl. The panels use `loss`, `top1` (a fraction) and
            `learning_rate`; a panel without numbers is left out.
        path: The PNG file to write.
        title: Shown above the panels if not empty.

    Raises:
        ValueError: If no row has a number for any panel.
        OSError: If the file cannot be written.
    """
    every = {"loss": _draw_loss, "top1": _draw_top1, "learning_rate": _draw_learning_rate}
    panels = [draw for metric, draw in every.items() if points_of(rows, metric)]
    if not panels:
        raise ValueError("there is nothing to draw: no row has loss, top1 or learning_rate")
    figure = new_figure(4.6 * len(panels) + 0.4, 3.7)
    for index, draw in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), index)
        draw(axes, rows)
        tidy(axes)
        show_epochs(axes, max(row["epoch"] for row in rows))
    if title:
        style: dict[str, Any] = {"fontsize": 12, "fontweight": "bold", "parse_math": False}
        figure.suptitle(title, x=0.012, ha="left", **style)
    write_figure(figure, path)


def predictions(
    images: Sequence[np.ndarray],
    answers: Sequence[Sequence[tuple[str, float]]],
    path: str | Path,
    *,
    titles: Sequence[str] | None = None,
    shares: bool = True,
) -> None:
    """Draws images, each with the probabilities of its most likely classes beside it.

    Args:
        images: uint8 [height, width, 3] each, in RGB.
        answers: For each image (class name, probability), the most likely first.
        path: The PNG file to write.
        titles: A line above each image, such as its file name.
        shares: Whether the numbers are probabilities; if not, they may be any.

    Raises:
        ValueError: If there is no image, or not one list of answers and one title an image.
        OSError: If the file cannot be written.
    """
    titles = [""] * len(images) if titles is None else titles
    if not images or not len(images) == len(answers) == len(titles):
        raise ValueError(
            f"{len(images)} images, {len(answers)} answers and {len(titles)} titles; "
            "there must be as many of each, and at least one"
        )
    columns = 1 if len(images) == 1 else 2
    count = math.ceil(len(images) / columns)
    figure = new_figure(6.2 * columns, 2.5 * count)
    grid = figure.add_gridspec(count, 2 * columns, width_ratios=[1, 1.45] * columns)
    for index, (image, answer, title) in enumerate(zip(images, answers, titles, strict=True)):
        row, column = divmod(index, columns)
        _draw_image(figure.add_subplot(grid[row, 2 * column]), image, title)
        _draw_answer(figure.add_subplot(grid[row, 2 * column + 1]), answer, shares)
    write_figure(figure, path)


def points_of(rows: Sequence[Row], name: str) -> dict[str, list[Point]]:
    """Returns {split: [(epoch, value)]} with the epoch as a fraction where steps tell it."""
    last = {}  # epoch -> its last step
    for row in rows:
        last[row["epoch"]] = max(row["step"], last.get(row["epoch"], 0))
    points: dict[str, list[Point]] = {}
    for row in rows:
        value = row.get(name)
        if value is None:
            continue
        end = last[row["epoch"]]
        begin = max((step for epoch, step in last.items() if epoch < row["epoch"]), default=0)
        share = (row["step"] - begin) / (end - begin) if end > begin else 1.0
        points.setdefault(row["split"], []).append((row["epoch"] - 1 + share, value))
    return {split: points[split] for split in COLOURS if split in points}


def draw_line(
    axes: Axes, points: Sequence[Point], *, dots: bool = False, size: float = 3.5, **style: Any
) -> Line2D:
    """Draws a line through (x, y), with dots of a size if they are few or asked for."""
    # A line through one point is invisible; dots on a hundred hide the line.
    marker = "o" if dots or len(points) <= 20 else ""
    (line,) = axes.plot(*zip(*points, strict=True), marker=marker, markersize=size, **style)
    return line


def show_epochs(axes: Axes, last: float) -> None:
    """Makes the horizontal axis one of epochs, up to the last one."""
    axes.set(xlabel="epoch", xlim=(0.0, 1.02 * last))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _draw_curves(
    axes: Axes, rows: Sequence[Row], name: str, label: Callable[[str, list[float]], str]
) -> None:
    for split, points in points_of(rows, name).items():
        text = label(split, [value for _, value in points])
        size = 6 if len(points) == 1 else 3.5
        draw_line(axes, points, size=size, color=COLOURS[split], label=text)
    axes.legend(frameon=False, fontsize=9)


def _draw_loss(axes: Axes, rows: Sequence[Row]) -> None:
    _draw_curves(axes, rows, "loss", lambda split, values: f"{split} {values[-1]:.3g}")
    axes.set_title("loss", loc="left")


def _draw_top1(axes: Axes, rows: Sequence[Row]) -> None:
    def label(split: str, values: list[float]) -> str:
        best = f" (best {max(values):.1%})" if len(values) > 1 and split != "train" else ""
        return f"{split} {values[-1]:.1%}{best}"

    _draw_curves(axes, rows, "top1", label)
    axes.set_title("top-1 accuracy", loc="left")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=None))
    axes.set_ylim(0.0, max(0.01, min(1.0, axes.get_ylim()[1])) * 1.02)


def _draw_learning_rate(axes: Axes, rows: Sequence[Row]) -> None:
    points = [point for line in points_of(rows, "learning_rate").values() for point in line]
    highest = max(value for _, value in points)
    exponent = math.floor(math.log10(highest)) if highest > 0 else 0
    draw_line(axes, [(x, y / 10.0**exponent) for x, y in sorted(points)], color=_RATE_COLOUR)
    unit = f" / $10^{{{exponent}}}$" if exponent else ""
    axes.set_title(f"learning rate{unit}", loc="left")
    axes.set_ylim(bottom=0.0)


def _draw_image(axes: Axes, image: np.ndarray, title: str) -> None:
    height, width = image.shape[:2]
    half = max(height, width) / 2
    axes.imshow(image, interpolation="antialiased")
    # Every image gets a square, so that those beside it line up.
    axes.set_xlim(width / 2 - 0.5 - half, width / 2 - 0.5 + half)
    axes.set_ylim(height / 2 - 0.5 + half, height / 2 - 0.5 - half)
    axes.set(anchor="NE", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    # The end of a file name tells more than its beginning.
    text = shorten(visible(title)[::-1], _TITLE_LENGTH)[::-1]
    axes.set_title(text, fontsize=9, loc="left", color=_TEXT_COLOUR, parse_math=False)


def _draw_answer(axes: Axes, answer: Sequence[tuple[str, float]], shares: bool) -> None:
    numbers = [number for _, number in answer]
    places = range(len(answer))
    low, high = (0.0, 1.0) if shares else (min(0.0, *numbers), max(0.0, *numbers))
    high = high if high > low else low + 1.0
    colours = [_BEST_BAR_COLOUR, *[_BAR_COLOUR] * (len(answer) - 1)]
    axes.barh(places, numbers, height=0.36, color=colours)
    for place, (name, number) in enumerate(answer):
        weight = "bold" if place == 0 else "normal"
        text: dict[str, Any] = {"va": "bottom", "fontsize": 9, "fontweight": weight}
        # Names are data: a "$" in one starts no formula.
        name = shorten(visible(name), _NAME_LENGTH)
        axes.text(low, place - 0.24, name, parse_math=False, ha="left", **text)
        shown = f"{number:.1%}" if shares else f"{number:.4g}"
        axes.text(high, place - 0.24, shown, ha="right", **text)
    axes.set_xlim(low, high)
    axes.set_ylim(max(len(answer), 5) - 0.6, -0.8)
    axes.set_axis_off()


def shorten(text: str, length: int) -> str:
    """Cuts a text to a length, with an ellipsis for what is left out."""
    return text if len(text) <= length else text[: length - 1].rstrip(" ,") + "…"


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """Gives axes the look of all figures: a light grid, no box."""
    axes.grid(True, color=_GRID_COLOUR, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=_TEXT_COLOUR, labelsize=9)


def write_figure(figure: Figure, path: str | Path) -> None:
    """Writes a PNG, or an SVG by its name, so that the file is never half-written."""
    form = "svg" if Path(path).suffix.lower() == ".svg" else "png"
    with replacing(Path(path)) as unfinished, warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; nothing a caller could mend.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(unfinished, format=form)
