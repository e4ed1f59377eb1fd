"""Anchor boxes of the single-shot detector (Liu et al. 2016, section 2.2), as CVNets lays them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobilevit_jax.errors import ConfigurationError


@dataclass(frozen=True)
class AnchorConfig:
    """Sizes and shapes of the anchors of every level; the defaults are those of the paper.

    Attributes:
        min_scale: Side of the small square of the first level, as a share of the image's side.
        max_scale: Where the evenly spaced scales end, one step past the last level.
        aspect_ratios: For each level, finest first, the ratios (over 1) of its oblong anchors;
            each ratio makes two, one wide and one tall.
    """

    min_scale: float = 0.1
    max_scale: float = 1.05
    aspect_ratios: tuple[tuple[float, ...], ...] = ((2, 3),) * 5 + ((2,),)

    def __post_init__(self) -> None:
        if not 0 < self.min_scale < self.max_scale:
            raise ConfigurationError(
                f"anchors need 0 < min_scale < max_scale; got {self.min_scale} and {self.max_scale}"
            )
        if not self.aspect_ratios:
            raise ConfigurationError("anchors need the aspect ratios of at least one level")
        for ratio in itertools.chain.from_iterable(self.aspect_ratios):
            if not (ratio > 0 and math.isfinite(ratio)):
                raise ConfigurationError(f"an anchor's aspect ratio must be positive; got {ratio}")


def anchors_per_location(config: AnchorConfig = AnchorConfig()) -> tuple[int, ...]:
    """Returns the number of anchors at each location, by level: two squares and the oblong ones."""
    return tuple(2 + 2 * len(ratios) for ratios in config.aspect_ratios)


def anchors(sizes: Sequence[tuple[int, int]], config: AnchorConfig = AnchorConfig()) -> np.ndarray:
    """Lays the anchors over feature maps.

    Args:
        sizes: (height, width) of each level's feature map, finest first.
        config: Scales and ratios.

    Returns:
        float32 [A, 4], (cx, cy, w, h) as shares of the image, each number clipped to [0, 1]. Levels
        follow each other; within one, rows, then columns, then the anchors of a location: small
        square, large square, then wide and tall of each ratio.

    Raises:
        ConfigurationError: If the number of levels is not that of `config.aspect_ratios`.
    """
    levels = len(config.aspect_ratios)
    if len(sizes) != levels:
        raise ConfigurationError(
            f"anchors have aspect ratios for {levels} levels, but there are {len(sizes)} feature "
            "maps; give one tuple of ratios a level"
        )
    scales = np.linspace(config.min_scale, config.max_scale, levels + 1)
    parts = [
        _level(height, width, _shapes(*pair, ratios))
        for (height, width), pair, ratios in zip(
            sizes, itertools.pairwise(scales), config.aspect_ratios, strict=True
        )
    ]
    return np.clip(np.concatenate(parts), 0, 1).astype(np.float32)


def _shapes(scale: float, next_scale: float, ratios: Sequence[float]) -> np.ndarray:
    """Returns (w, h) of the anchors of one location, [n, 2]."""
    large = math.sqrt(scale * next_scale)
    shapes = [(scale, scale), (large, large)]
    for ratio in ratios:
        root = math.sqrt(ratio)
        shapes += [(scale * root, scale / root), (scale / root, scale * root)]
    return np.array(shapes)


def _level(height: int, width: int, shapes: np.ndarray) -> np.ndarray:
    """Returns the anchors of one feature map, [height * width * n, 4]."""
    y, x = np.mgrid[:height, :width] + 0.5
    centres = np.stack([x / width, y / height], axis=-1).reshape(-1, 1, 2)
    centres, shapes = np.broadcast_arrays(centres, shapes[None])
    return np.concatenate([centres, shapes], axis=-1).reshape(-1, 4)
