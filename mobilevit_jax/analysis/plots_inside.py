"""What goes on inside a model, as pictures: its features, and where its attention goes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from mobilevit_jax.analysis.plots import new_figure, write_figure
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.patches import padded_size

_MAP_COLOURS = "viridis"
_QUERY_COLOUR = "#D55E00"
_TILE = 1.5  # inches


def feature_maps(features: Mapping[str, ArrayLike], path: str | Path, *, channels: int = 8) -> None:
    """Draws the channels of each stage that differ most between places.

    Args:
        features: {name of a stage: [1, h, w, c]}, as `model.apply(..., features=True)` gives them
            for one image; a row is drawn for each.
        path: The PNG file to write.
        channels: How many of each stage.

    Raises:
        ConfigurationError: If there is nothing to draw, or more than one image.
        OSError: If the file cannot be written.
    """
    arrays = {name: _only(array, f"features of {name}") for name, array in features.items()}
    if not arrays or channels < 1:
        raise ConfigurationError("feature maps need at least one stage and one channel")
    figure = new_figure(_TILE * channels, (_TILE + 0.3) * len(arrays))
    for row, (name, array) in enumerate(arrays.items()):
        height, width, depth = array.shape
        liveliest = np.argsort(-array.std(axis=(0, 1)), kind="stable")[:channels]
        for column, channel in enumerate(liveliest):
            axes = figure.add_subplot(len(arrays), channels, row * channels + column + 1)
            axes.imshow(array[:, :, channel], cmap=_MAP_COLOURS)
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"channel {channel}", fontsize=8, loc="left")
            if column == 0:
                axes.set_ylabel(f"{name}\n{height} x {width} x {depth}", fontsize=9)
    write_figure(figure, path)


def patch_grid(feature_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Returns how many patches a block cuts a feature map into, as (rows, columns).

    A map that does not divide is enlarged to the next multiple before (CVNets v0.1).

    Args:
        feature_size: Height and width of the map.
        patch_size: Height and width of a patch.
    """
    height, width = padded_size(*feature_size, (patch_size, patch_size))
    return height // patch_size, width // patch_size


def attended(
    attention: ArrayLike, grid: tuple[int, int], patch_size: int, at: tuple[float, float]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns where one pixel of a feature map looks: the same place of every patch.

    Args:
        attention: [1, p, heads, n, n] of one image and transformer layer, as `attention_maps` gives
            it: p places in a patch, n patches.
        grid: Of the patches, see `patch_grid`.
        patch_size: Height and width of a patch.
        at: (down, across) as fractions of the image.

    Returns:
        (weights [heads, rows, columns], each head's sum being 1; the patch as (row, column)).

    Raises:
        ConfigurationError: If the shapes do not belong together, or `at` is outside.
    """
    array = _only(attention, "attention")
    places, heads, patches, _ = array.shape
    if (places, patches) != (patch_size**2, grid[0] * grid[1]):
        raise ConfigurationError(
            f"attention over {patches} patches of {places} places is not that of a grid of "
            f"{grid[0]} x {grid[1]} patches of {patch_size} x {patch_size}"
        )
    if not all(0 <= share < 1 for share in at):
        raise ConfigurationError(f"a place must be two shares of the image in [0, 1), not {at}")
    down, across = (int(share * count * patch_size) for share, count in zip(at, grid, strict=True))
    patch = down // patch_size, across // patch_size
    place = down % patch_size * patch_size + across % patch_size
    weights = array[place, :, patch[0] * grid[1] + patch[1]]
    return weights.reshape(heads, *grid), patch


def attention_over_patches(
    image: np.ndarray,
    attention: Mapping[str, Sequence[ArrayLike]],
    features: Mapping[str, ArrayLike],
    path: str | Path,
    *,
    patch_sizes: Sequence[int] = (2, 2, 2),
    at: tuple[float, float] = (0.5, 0.5),
    layer: int = -1,
) -> None:
    """Draws where the pixel at a place of the image looks, in each block: all heads, and each.

    A row has the image first, with a frame round the patch that looks.

    Args:
        image: What the model saw, [h, w, 3] in RGB, values in [0, 1].
        attention: `attention_maps(model, variables, images)` of one image.
        features: The features of the same image, for the sizes of the maps.
        path: The PNG file to write.
        patch_sizes: Of layer_3, layer_4 and layer_5, as the model has them.
        at: (down, across) as fractions of the image.
        layer: Which transformer layer of each block.

    Raises:
        ConfigurationError: As `attended` does, and for a model that has no such attention.
        OSError: If the file cannot be written.
    """
    if not attention:
        raise ConfigurationError(
            "there are no attention maps to draw: MobileViT has them; MobileViTv2, whose attention "
            "is separable, has none"
        )
    rows = []
    for (stage, layers), patch_size in zip(attention.items(), patch_sizes, strict=True):
        size = np.shape(features[stage])[1:3]
        weights, patch = attended(layers[layer], patch_grid(size, patch_size), patch_size, at)
        rows.append((stage, weights, patch))
    columns = 2 + max(len(weights) for _, weights, _ in rows)
    figure = new_figure(_TILE * 1.35 * columns, (_TILE * 1.35 + 0.3) * len(rows))
    for row, (stage, weights, patch) in enumerate(rows):
        _, high, wide = weights.shape
        pictures = [("image", None), ("mean of the heads", weights.mean(axis=0))]
        pictures += [(f"head {number}", head) for number, head in enumerate(weights, 1)]
        for column, (title, picture) in enumerate(pictures):
            axes = figure.add_subplot(len(rows), columns, row * columns + column + 1)
            _draw_attention(axes, image, picture, (high, wide), patch)
            axes.set_title(title, fontsize=8, loc="left")
            if column == 0:
                axes.set_ylabel(f"{stage}\n{high} x {wide} patches")
    write_figure(figure, path)


def _draw_attention(
    axes: Axes,
    image: np.ndarray,
    weights: np.ndarray | None,
    grid: tuple[int, int],
    patch: tuple[int, int],
) -> None:
    """Draws the image, or weights over a grey one, and a frame round the patch that looks."""
    extent = (0, grid[1], grid[0], 0)
    if weights is None:
        axes.imshow(image, extent=extent, interpolation="antialiased")
    else:
        grey = np.asarray(image, np.float32).mean(axis=-1)
        axes.imshow(grey, cmap="gray", extent=extent, interpolation="antialiased")
        axes.imshow(weights, cmap=_MAP_COLOURS, extent=extent, alpha=0.65, vmin=0)
    frame = Rectangle((patch[1], patch[0]), 1, 1, fill=False, color=_QUERY_COLOUR, linewidth=1.8)
    axes.add_patch(frame)
    axes.set(aspect="auto", box_aspect=image.shape[0] / image.shape[1], xticks=[], yticks=[])


def _only(array: ArrayLike, what: str) -> np.ndarray:
    """Returns what an array of a batch of one has."""
    if np.shape(array)[0] != 1:
        raise ConfigurationError(f"{what}: one image is drawn at a time, not {np.shape(array)[0]}")
    return np.asarray(array, np.float32)[0]
