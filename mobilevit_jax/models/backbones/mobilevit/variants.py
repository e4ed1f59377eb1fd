"""The published sizes of MobileViT as data (paper Table 4; CVNets v0.1)."""

from dataclasses import dataclass, replace

from mobilevit_jax.models.model import Accuracy


@dataclass(frozen=True)
class Variant:
    """Widths and depths of one size.

    Attributes:
        channels: Output channels of conv_1 and of layer_1 to layer_5.
        dims: Token widths of the blocks in layer_3, layer_4, layer_5.
        expansion: Expansion of every inverted residual.
        exp_channels: Output channels of conv_1x1_exp, min(4 * channels of layer_5, 960).
        dropout: Rate in the transformers (CVNets v0.1: `mit.dropout`).
        depths: Transformer layers of the three blocks.
        heads: Attention heads, everywhere.
        ffn_multiplier: Hidden width of the feed-forward networks as a multiple of `dims`.
    """

    channels: tuple[int, int, int, int, int, int]
    dims: tuple[int, int, int]
    expansion: int
    exp_channels: int
    dropout: float
    depths: tuple[int, int, int] = (2, 4, 3)
    heads: int = 4
    ffn_multiplier: int = 2


VARIANTS: dict[str, Variant] = {
    "xxs": Variant((16, 16, 24, 48, 64, 80), (64, 80, 96), 2, 320, dropout=0.05),
    "xs": Variant((16, 32, 48, 64, 80, 96), (96, 120, 144), 4, 384, dropout=0.1),
    "s": Variant((16, 32, 64, 96, 128, 160), (144, 192, 240), 4, 640, dropout=0.1),
}

_PAPER = "MobileViT paper (arXiv 2110.02178), Figure 6"
ACCURACIES = (
    Accuracy("mobilevit_xxs", 0.690, "CVNets v0.1, README"),
    Accuracy("mobilevit_xs", 0.748, _PAPER),
    Accuracy("mobilevit_s", 0.784, _PAPER),
)


def published(variant: Variant) -> str | None:
    """Returns the name of the published size that a variant has, whatever its dropout."""
    for size, known in VARIANTS.items():
        if replace(variant, dropout=known.dropout) == known:
            return f"mobilevit_{size}"
    return None
