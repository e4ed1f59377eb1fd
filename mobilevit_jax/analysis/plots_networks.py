"""Accuracy over size of networks, as the scatter plots of the paper's Figures 6 and 7."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.path import Path as Polyline
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mobilevit_jax.analysis.networks import Network, with_options
from mobilevit_jax.analysis.plots import DPI, new_figure, tidy, write_figure
from mobilevit_jax.errors import ConfigurationError

# Of Okabe and Ito, with markers that tell families apart without colour.
_STYLES = (
    *(("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D")),
    *(("#8A6D00", "v"), ("#000000", "P"), ("#56B4E9", "X")),
)
_TICKS = [factor * 10**power for power in range(-4, 5) for factor in (1, 2, 5)]
_Place = tuple[float, float]
_DIRECTIONS: tuple[_Place, ...] = (
    *((0, 1), (1, 0), (0, -1), (-1, 0)),
    *((0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7)),
)
# Where a label may stand beside its point, in points; the first that is free is taken.
_PLACES = [(step * x, step * y) for step in (5, 10, 16) for x, y in _DIRECTIONS]
_HALF = 3.0  # of a marker's width and height, in points


class Point(NamedTuple):
    """A network on the plot: millions of parameters, percent, and what stands beside it."""

    x: float
    y: float
    text: str


def accuracy_over_parameters(networks: Sequence[Network], path: str | Path) -> None:
    """Draws published top-1 over parameters, a colour and a marker for each family.

    Args:
        networks: From `networks.networks`; those without a published top-1 are left out.
        path: The file to write, a PNG, or an SVG if it is called so.

    Raises:
        ConfigurationError: If no top-1 is known.
        OSError: If the file cannot be written.
    """
    groups = _groups(networks)
    if not groups:
        raise ConfigurationError("there is nothing to draw: of no network a top-1 is published")
    figure = new_figure(8.0, 5.4)
    axes = figure.add_subplot()
    for (group, points), style in zip(groups.items(), itertools.cycle(_STYLES), strict=False):
        colour, marker = style
        x, y = [point.x for point in points], [point.y for point in points]
        axes.plot(x, y, color=colour, marker=marker, markersize=2 * _HALF, lw=1.0, label=group)
    _dress(axes)
    figure.draw_without_rendering()
    place_labels(axes, [point for points in groups.values() for point in points])
    write_figure(figure, path)


def _groups(networks: Sequence[Network]) -> dict[str, list[Point]]:
    groups: dict[str, list[Point]] = {}
    for network in networks:
        if network.top1 is not None:
            text = network.name.removeprefix(network.family).strip("_")
            point = Point(network.parameters / 1e6, 100 * network.top1, text)
            groups.setdefault(with_options(network.family, network.options), []).append(point)
    return groups


def _dress(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(0.08)
    # From tick to tick, so that there are some even where there is one network.
    first, last = axes.dataLim.intervalx
    axes.set_xlim(
        max(tick for tick in _TICKS if tick < 0.95 * first),
        min(tick for tick in _TICKS if tick > 1.05 * last),
    )
    axes.set_xlabel("parameters, millions")
    axes.set_title("published top-1 accuracy on ImageNet-1k, %", loc="left")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    tidy(axes)


def place_labels(axes: Axes, points: Sequence[Point]) -> list[Annotation]:
    """Writes a label beside each point, where it covers no other label, point or line if it can.

    The figure must have been drawn once, so that places do not change any more.
    """
    taken = drawn(axes)
    labels = []
    for point in points:
        label = axes.annotate(
            point.text, (point.x, point.y), (0, 0), textcoords="offset points", fontsize=8
        )
        label.set_in_layout(False)
        areas = [covered(_move(label, place), taken) for place in _PLACES]
        box = _move(label, _PLACES[areas.index(min(areas))])
        taken = np.vstack([taken, box])
        labels.append(label)
    return labels


def drawn(axes: Axes) -> np.ndarray:
    """Returns where markers, and pieces of the lines between them, are.

    Returns:
        [n, 4]: left, bottom, right and top of each in pixels.
    """
    boxes = []
    for line in axes.lines:
        markers = axes.transData.transform(line.get_xydata())
        between = np.asarray(Polyline(markers).interpolated(40).vertices)
        for places, half in ((markers, _HALF * DPI / 72), (between, 1)):
            boxes.append(np.hstack([places - half, places + half]))
    return np.vstack(boxes)


def covered(box: np.ndarray, others: np.ndarray) -> float:
    """Returns the area that a box [4] shares with others [n, 4], in square pixels."""
    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(shared.clip(0).prod(axis=1).sum())


def _move(label: Annotation, place: _Place) -> np.ndarray:
    """Moves a label to a place beside its point and returns its box [4] there, in pixels."""
    label.set_position(place)
    label.set_horizontalalignment(("center", "left", "right")[_sign(place[0])])
    label.set_verticalalignment(("center", "bottom", "top")[_sign(place[1])])
    return np.asarray(label.get_window_extent().extents)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
