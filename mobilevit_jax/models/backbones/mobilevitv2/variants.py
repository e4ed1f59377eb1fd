"""The published sizes of MobileViTv2 as data (CVNets v0.2, `mobilevit_v2.py`)."""

from dataclasses import dataclass

from mobilevit_jax.models.model import Accuracy


@dataclass(frozen=True)
class Variant:
    """Widths and depths of one size.

    Attributes:
        channels: Output channels of conv_1 and of layer_1 to layer_5.
        dims: Widths of the attention units in layer_3, layer_4, layer_5.
        expansion: Expansion of every inverted residual.
        depths: Attention units of the three blocks.
        ffn_multiplier: Hidden width of the feed-forward networks as a multiple of `dims`, rounded
            down to a multiple of 16.
    """

    channels: tuple[int, int, int, int, int, int]
    dims: tuple[int, int, int]
    expansion: int = 2
    depths: tuple[int, int, int] = (2, 4, 3)
    ffn_multiplier: int = 2

    def ffn_dim(self, dim: int) -> int:
        """Returns the hidden width of the feed-forward networks of units of a width."""
        return dim * self.ffn_multiplier // 16 * 16


BASE_DIMS = (128, 192, 256)
"""Widths of the attention units of width 1."""


def scaled(width: float, base_dims: tuple[int, ...] = BASE_DIMS) -> Variant:
    """Returns the widths by their multiplier.

    Args:
        width: The multiplier; 0.5 to 2 are published.
        base_dims: Widths of the attention units that it multiplies.
    """
    layers = [divisible(base * width) for base in (128, 256, 384, 512)]
    dims = [divisible(base * width) for base in base_dims]
    return Variant(
        (
            divisible(max(16.0, min(32 * width, 64.0)), 8, 16),
            divisible(64 * width, 16, 16),
            *(layers[0], layers[1], layers[2], layers[3]),
        ),
        (dims[0], dims[1], dims[2]),
    )


def divisible(value: float, divisor: int = 8, least: int = 8) -> int:
    """Returns the nearest multiple that is not below nine tenths of a value."""
    found = max(least, int(value + divisor / 2) // divisor * divisor)
    return found + divisor if found < 0.9 * value else found


VARIANTS = {f"{round(100 * w):03d}": scaled(w) for w in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)}

_TOP1 = (0.7018, 0.7556, 0.7809, 0.7965, 0.8038, 0.8084, 0.8117)
ACCURACIES = tuple(
    Accuracy(f"mobilevitv2_{size}", top1, "CVNets v0.2, model zoo")
    for size, top1 in zip(VARIANTS, _TOP1, strict=True)
)


def published(variant: Variant) -> str | None:
    """Returns the name of the published size that a variant has."""
    found = (f"mobilevitv2_{size}" for size, known in VARIANTS.items() if known == variant)
    return next(found, None)
