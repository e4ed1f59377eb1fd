"""MobileViTv2's network (Mehta & Rastegari, TMLR 2023, arXiv 2206.02680; CVNets v0.2)."""

from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from mobilevit_jax.errors import ConfigurationError, unknown_name
from mobilevit_jax.models.attention import LayerNorm
from mobilevit_jax.models.backbones.mobilevitv2.variants import Variant
from mobilevit_jax.models.layers import Common, Conv, ConvBlock, Dropout, Dtype
from mobilevit_jax.models.model import check_rates
from mobilevit_jax.models.patches import padded_size, resize_bilinear
from mobilevit_jax.models.trunk import Trunk, check_output_stride
from mobilevit_jax.ops import recomputed, separable_attention, separable_scores

Implementation = Literal["cvnets", "transformers"]

PATCH = 2  # pixels a side, in all published networks
# Dilation of the local convolutions of layer_4 and layer_5 for each output stride (CVNets v0.2,
# `mobilevit_v2_block.py`); the inverted residuals have that of the first version.
_DILATIONS = {32: (1, 1), 16: (1, 2), 8: (2, 4)}


class SeparableAttention(nn.Module):
    """Self-attention by one score a pixel, among those that share their place in a patch.

    Attributes:
        dropout: Rate on the scores.
        dtype: Type of the computation; the softmax is float32.
    """

    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, dim] to the same shape, sides even."""
        dim = x.shape[-1]
        # Columns are one query, then keys, then values.
        qkv = Conv(1 + 2 * dim, use_bias=True, dtype=self.dtype, name="qkv")(x)
        scores = Dropout(self.dropout)(separable_scores(qkv[..., :1]), train)
        y = separable_attention(scores, qkv)
        return Conv(dim, use_bias=True, dtype=self.dtype, name="out")(y)


class AttentionUnit(nn.Module):
    """x + Drop(Attention(Norm(x))), then x + Drop(FFN(Norm(x))) with SiLU inside the FFN.

    The norms are over the whole map of an image.

    Attributes:
        ffn_dim: Hidden width of the feed-forward network.
        dropout: Rate after attention and after the feed-forward network.
        attention_dropout: Rate on the scores.
        ffn_dropout: Rate on the hidden layer of the feed-forward network.
        dtype: Type of the computation.
    """

    ffn_dim: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, dim] to the same shape, sides even."""
        options: Any = {"use_bias": True, "dtype": self.dtype}
        y = LayerNorm(self.dtype, whole=True, name="attention_norm")(x)
        y = SeparableAttention(self.attention_dropout, self.dtype, name="attention")(y, train)
        x = x + Dropout(self.dropout)(y, train)
        y = LayerNorm(self.dtype, whole=True, name="ffn_norm")(x)
        y = Conv(self.ffn_dim, name="ffn_expand", **options)(y)
        y = Dropout(self.ffn_dropout)(recomputed(nn.silu, y), train)
        y = Conv(x.shape[-1], name="ffn_reduce", **options)(y)
        return x + Dropout(self.dropout)(y, train)


class MobileViTv2Block(nn.Module):
    """Depthwise convolution, attention units, projection; nothing is added or fused.

    Attributes:
        dim: Width of the attention units.
        depth: Number of them.
        ffn_dim: Hidden width of their feed-forward networks.
        dilation: Distance of the local convolution's taps in pixels.
        implementation: See `MobileViTv2`.
        dropout: Rate after attention and feed-forward network.
        attention_dropout: Rate on the scores.
        ffn_dropout: Rate inside the feed-forward network.
        common: See `layers.Common`.
    """

    dim: int
    depth: int
    ffn_dim: int
    dilation: int = 1
    implementation: Implementation = "cvnets"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    common: Common = Common()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to itself, of "cvnets" with its sides rounded up to whole patches.

        Raises:
            ConfigurationError: If the map is less than a patch, for which "transformers" has no
                answer.
        """
        common, channels = self.common, x.shape[-1]
        if not self._cuts(x):
            size = padded_size(x.shape[1], x.shape[2], (PATCH, PATCH))
            x = resize_bilinear(x, size, align_corners=True)
        y = ConvBlock(
            channels,
            kernel_size=3,
            dilation=self.dilation,
            depthwise=True,
            common=common,
            name="local_conv",
        )(x, train)
        y = Conv(self.dim, dtype=common.dtype, name="local_project")(y)
        odd = [side % PATCH for side in x.shape[1:3]]
        y = self._attend(y[:, : x.shape[1] - odd[0], : x.shape[2] - odd[1]], train)
        y = jnp.pad(y, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)))
        return ConvBlock(channels, act=None, common=common, name="project")(y, train)

    def _cuts(self, x: jax.Array) -> bool:
        """Whether odd rows and columns are left out of the attention, instead of enlarging."""
        if self.implementation == "cvnets":
            return False
        if min(x.shape[1:3]) >= PATCH:
            return True
        if not self.is_initializing():
            raise ConfigurationError(
                f'implementation="transformers" has no answer where a map has '
                f"{x.shape[1]}x{x.shape[2]} pixels, less than {PATCH}x{PATCH}: take larger images, "
                'or implementation="cvnets"'
            )
        return False  # parameters are the same

    def _attend(self, x: jax.Array, train: bool) -> jax.Array:
        for index in range(self.depth):
            x = AttentionUnit(
                self.ffn_dim,
                self.dropout,
                self.attention_dropout,
                self.ffn_dropout,
                dtype=self.common.dtype,
                name=f"unit_{index}",
            )(x, train)
        return LayerNorm(self.common.dtype, whole=True, name="final_norm")(x)


class MobileViTv2(Trunk):
    """The network below the heads.

    Kernels are drawn as those of the first version are: CVNets' configuration asks for that, and
    its v0.2 does not do it but keeps PyTorch's own initial values.

    Attributes:
        variant: Widths and depths.
        implementation: MobileViTv2: whose answers it gives. "cvnets", which the published weights
            are of, enlarges maps with an odd side before each block, and dilates the blocks' local
            convolutions below an output stride of 32. "transformers" does neither, and leaves the
            odd row and column out of the attention. Without odd sides and dilation both are the
            same.
        dropout: Rate in the transformers.
        attention_dropout: Rate on the attention maps.
        ffn_dropout: Rate inside the feed-forward networks.
        output_stride: 32, 16 or 8: the image's size over that of layer_5.
        common: See `layers.Common`.
    """

    variant: Variant
    implementation: Implementation = "cvnets"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0

    kind: ClassVar[type[nn.Module]] = MobileViTv2Block
    residuals: ClassVar[int] = 2

    def map_sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Returns {stage: (height, width)} for an image: blocks enlarge, and nothing undoes it."""
        sizes = {}
        for name, (stride, _) in self.stages.items():
            size = -(-height // stride), -(-width // stride)
            enlarged = name >= "layer_3" and self.implementation == "cvnets"
            sizes[name] = padded_size(*size, (PATCH, PATCH)) if enlarged else size
        return sizes

    def block(self, number: int) -> dict[str, Any]:
        """Returns the fields of the block of layer_3, layer_4 or layer_5."""
        dim = self.variant.dims[number - 3]
        dilations = (1, *_DILATIONS[self.output_stride])
        return {
            "dim": dim,
            "depth": self.variant.depths[number - 3],
            "ffn_dim": self.variant.ffn_dim(dim),
            "dilation": dilations[number - 3] if self.implementation == "cvnets" else 1,
            "implementation": self.implementation,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "ffn_dropout": self.ffn_dropout,
            "common": self.common,
        }


def check(backbone: MobileViTv2) -> None:
    """Raises ConfigurationError for an option that the network cannot be built with."""
    check_output_stride(backbone)
    if backbone.implementation not in get_args(Implementation):
        raise unknown_name("implementation", str(backbone.implementation), get_args(Implementation))
    thin = [dim for dim in backbone.variant.dims if backbone.variant.ffn_dim(dim) < 1]
    if thin:
        raise ConfigurationError(
            f"ffn_multiplier={backbone.variant.ffn_multiplier} leaves units of width {thin[0]} no "
            "hidden layer, whose width is a multiple of 16; make dims or ffn_multiplier larger"
        )
    check_rates(backbone)
