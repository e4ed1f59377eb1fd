"""The receptive field of MobileViT blocks as a picture (paper, Figures 4 and 13)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from mobilevit_jax.analysis.plots import new_figure, write_figure
from mobilevit_jax.analysis.receptive_field import reach
from mobilevit_jax.errors import ConfigurationError

# What a pixel of the map is for the one in the middle, in the order of the codes 0 to 3.
_OUT_OF_REACH, _NEIGHBOUR, _ATTENDED, _ITSELF = "#FFFFFF", "#B7CFE0", "#0072B2", "#D55E00"
_PIXEL_COLOUR, _PATCH_COLOUR = "#999999", "#222222"
_PATCHES = 3  # across the map

DEFAULT = ((3, 2), (3, 3), (3, 4), (5, 4))


def receptive_fields(path: str | Path, cases: Sequence[tuple[int, int]] = DEFAULT) -> None:
    """Draws what one pixel sees through local convolution and attention, before the fusion.

    Three by three patches for each case. The pixel is red; the pixels that it attends to are dark
    blue, and what their convolutions have brought is light blue; the rest is out of reach. All of
    it comes from gradients.

    Args:
        path: The PNG file to write.
        cases: A kernel size n, odd, and a patch size h = w each.

    Raises:
        ConfigurationError: If there is no case, or as `receptive_field.reach` does.
        OSError: If the file cannot be written.
    """
    if not cases:
        raise ConfigurationError("there is no kernel and patch size to draw")
    figure = new_figure(3.1 * len(cases), 4.2)
    figure.get_layout_engine().set(h_pad=0.12)  # pyright: ignore
    for index, (kernel, patch) in enumerate(cases, 1):
        axes = figure.add_subplot(1, len(cases), index)
        _draw(axes, kernel, patch)
    _legend(figure)
    write_figure(figure, path)


def codes(kernel_size: int, patch_size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Says what each pixel is for one in the middle patch.

    Args:
        kernel_size: Side n of the kernel, odd.
        patch_size: Side h = w of a patch.

    Returns:
        int [3 h, 3 w] - 0 out of reach, 1 reached through a convolution, 2 attended to, 3 the pixel
        itself - and where that is (row, column).
    """
    side = _PATCHES * patch_size
    # The upper left of the middle pixels of the middle patch.
    place = (side - 1) // 2
    seen = reach(kernel_size, patch_size, side)[place, place]
    attended = reach(1, patch_size, side)[place, place]
    found = seen.astype(int) + (seen & attended)
    found[place, place] = 3
    return found, (place, place)


def _draw(axes: Axes, kernel: int, patch: int) -> None:
    found, (row, column) = codes(kernel, patch)
    side = len(found)
    colours = ListedColormap([_OUT_OF_REACH, _NEIGHBOUR, _ATTENDED, _ITSELF])
    axes.imshow(found, cmap=colours, vmin=0, vmax=3)
    for line in range(side + 1):
        thick = line % patch == 0
        style = {
            "color": _PATCH_COLOUR if thick else _PIXEL_COLOUR,
            "linewidth": 1.6 if thick else 0.6,
            "zorder": 3 if thick else 2,
        }
        axes.plot([line - 0.5] * 2, [-0.5, side - 0.5], **style)
        axes.plot([-0.5, side - 0.5], [line - 0.5] * 2, **style)
    for y, x in np.argwhere(found == 2):
        axes.add_patch(
            FancyArrowPatch(
                (x, y),
                (column, row),
                arrowstyle="-|>",
                mutation_scale=7,
                linewidth=0.7,
                color=_PATCH_COLOUR,
                shrinkB=4,
                zorder=4,
            )
        )
    axes.set_xlim(-0.7, side - 0.3)
    axes.set_ylim(side - 0.3, -0.7)
    axes.set_axis_off()
    inside = found[patch:-patch, patch:-patch]
    share = "sees every pixel" if inside.all() else f"misses {np.mean(inside == 0):.0%}"
    axes.set_title(f"n = {kernel}, h = w = {patch}\n{share}", fontsize=10)


def _legend(figure: Figure) -> None:
    kinds = {
        "a pixel": _ITSELF,
        "those it attends to": _ATTENDED,
        "what their convolutions bring": _NEIGHBOUR,
        "out of reach": _OUT_OF_REACH,
    }
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor=_PIXEL_COLOUR)
        for colour in kinds.values()
    ]
    figure.legend(
        handles,
        kinds,
        loc="outside lower center",
        ncols=len(kinds),
        frameon=False,
        fontsize=9,
    )
