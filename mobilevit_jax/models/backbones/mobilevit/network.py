"""MobileViT's network (Mehta & Rastegari, ICLR 2022; CVNets v0.1)."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.attention import LayerNorm, TransformerLayer
from mobilevit_jax.models.backbones.mobilevit.variants import Variant
from mobilevit_jax.models.layers import Common, Conv, ConvBlock
from mobilevit_jax.models.model import check_rates, check_triple
from mobilevit_jax.models.patches import fold, padded_size, resize_bilinear, unfold
from mobilevit_jax.models.trunk import Trunk, check_output_stride


class MobileViTBlock(nn.Module):
    """Local convolution, transformers among patches, projection and fusion (paper Figure 1b).

    A map that does not hold whole patches is resized before unfolding and back after folding.

    Attributes:
        dim: Width of the tokens.
        depth: Number of transformer layers.
        heads: Attention heads.
        ffn_dim: Hidden width of the feed-forward networks.
        patch_size: Side of a patch in pixels.
        kernel_size: Side of the local and of the fusion convolution (n in the paper).
        fusion: Whether the input is concatenated and fused by a convolution at the end.
        dropout: Rate after attention and feed-forward network.
        attention_dropout: Rate on the attention map.
        ffn_dropout: Rate inside the feed-forward network.
        common: See `layers.Common`.
    """

    dim: int
    depth: int
    heads: int
    ffn_dim: int
    patch_size: int = 2
    kernel_size: int = 3
    fusion: bool = True
    dropout: float = 0.1
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    common: Common = Common()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to the same shape."""
        common, kernel_size = self.common, self.kernel_size
        channels, size = x.shape[-1], (x.shape[1], x.shape[2])
        y = ConvBlock(channels, kernel_size, common=common, name="local_conv")(x, train)
        y = Conv(self.dim, dtype=common.dtype, name="local_project")(y)
        y = self._transform(y, train)
        y = resize_bilinear(y, size)
        y = ConvBlock(channels, common=common, name="project")(y, train)
        if not self.fusion:
            return y
        y = jnp.concatenate([x, y], axis=-1)
        return ConvBlock(channels, kernel_size, common=common, name="fusion")(y, train)

    def _transform(self, x: jax.Array, train: bool) -> jax.Array:
        """Runs the transformers over [b, h, w, dim], resized to whole patches."""
        patch = (self.patch_size, self.patch_size)
        size = padded_size(x.shape[1], x.shape[2], patch)
        tokens = unfold(resize_bilinear(x, size), patch)
        for index in range(self.depth):
            tokens = TransformerLayer(
                self.heads,
                self.ffn_dim,
                self.dropout,
                self.attention_dropout,
                self.ffn_dropout,
                dtype=self.common.dtype,
                name=f"transformer_{index}",
            )(tokens, train)
        tokens = LayerNorm(self.common.dtype, name="final_norm")(tokens)
        return fold(tokens, patch, size)


class MobileViT(Trunk):
    """The network below the heads.

    Attributes:
        variant: Widths and depths.
        patch_sizes: Side of a patch in layer_3, layer_4, layer_5, in pixels of their maps.
        fusion: Whether blocks concatenate their input and fuse it (the ablation of Figure 12).
        kernel_size: Side of the blocks' local and fusion convolutions.
        dropout: Rate in the transformers.
        attention_dropout: Rate on the attention maps.
        ffn_dropout: Rate inside the feed-forward networks.
        output_stride: 32, 16 or 8: the image's size over that of layer_5.
        common: See `layers.Common`.
    """

    variant: Variant
    patch_sizes: tuple[int, int, int] = (2, 2, 2)
    fusion: bool = True
    kernel_size: int = 3
    dropout: float = 0.1
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0

    kind: ClassVar[type[nn.Module]] = MobileViTBlock
    residuals: ClassVar[int] = 3

    @property
    def exp_channels(self) -> int:
        """Channels of the 1x1 convolution that a classifier has before its pooling."""
        return self.variant.exp_channels

    def block(self, number: int) -> dict[str, Any]:
        """Returns the fields of the block of layer_3, layer_4 or layer_5."""
        index = number - 3
        dim = self.variant.dims[index]
        return {
            "dim": dim,
            "depth": self.variant.depths[index],
            "heads": self.variant.heads,
            "ffn_dim": dim * self.variant.ffn_multiplier,
            "patch_size": self.patch_sizes[index],
            "kernel_size": self.kernel_size,
            "fusion": self.fusion,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "ffn_dropout": self.ffn_dropout,
            "common": self.common,
        }


def check(backbone: MobileViT) -> None:
    """Raises ConfigurationError for an option that the network cannot be built with."""
    dims, heads = backbone.variant.dims, backbone.variant.heads
    if any(dim % heads for dim in dims):
        raise ConfigurationError(f"{heads} heads do not divide token widths of {dims}")
    check_triple("patch_sizes", backbone.patch_sizes, "for layer_3, layer_4 and layer_5")
    check_output_stride(backbone)
    if backbone.kernel_size < 1 or backbone.kernel_size % 2 == 0:
        raise ConfigurationError(
            f"kernel_size must be a positive odd integer; got {backbone.kernel_size!r}"
        )
    check_rates(backbone)
