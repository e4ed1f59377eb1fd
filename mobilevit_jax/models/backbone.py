"""The backbone of MobileViT, and what the three models on it share (CVNets v0.1)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.models.attention import LayerNorm, TransformerLayer
from mobilevit_jax.models.layers import Conv, ConvBlock, Dtype, InvertedResidual
from mobilevit_jax.models.patches import fold, padded_size, resize_bilinear, unfold
from mobilevit_jax.models.variants import Variant

# Strides of conv_1 and of the first inverted residuals of layer_1 to layer_3.
_STRIDES = (2, 1, 2, 2)
# Stride and dilation of the inverted residuals of layer_4 and layer_5 for each output stride. The
# dilation is the one that stood before the stride was taken out, so only output stride 8 dilates
# (CVNets v0.1, `base_cls.py`).
_TAIL: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {
    32: ((2, 1), (2, 1)),
    16: ((2, 1), (1, 1)),
    8: ((1, 1), (1, 2)),
}
OUTPUT_STRIDES = tuple(_TAIL)


def feature_sizes(height: int, width: int, output_stride: int = 32) -> dict[str, tuple[int, int]]:
    """Returns (height, width) of the map of each stage of the backbone for an image.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        output_stride: 32, 16 or 8.

    Returns:
        {"conv_1", "layer_1", ..., "layer_5"} -> (height, width); odd sides round up.
    """
    names = ("conv_1", *(f"layer_{number}" for number in range(1, 6)))
    tail = (stride for stride, _ in _TAIL[output_stride])
    sizes = {}
    for name, stride in zip(names, (*_STRIDES, *tail), strict=True):
        height, width = -(-height // stride), -(-width // stride)
        sizes[name] = height, width
    return sizes


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
        bn_axis_name: See `layers.BatchNorm.axis_name`.
        bn_unbiased: See `layers.BatchNorm.unbiased`.
        dtype: Type of the computation.
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
    bn_axis_name: str | None = None
    bn_unbiased: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to the same shape."""
        norm = {"bn_axis_name": self.bn_axis_name, "bn_unbiased": self.bn_unbiased}
        channels, size = x.shape[-1], (x.shape[1], x.shape[2])
        y = ConvBlock(channels, self.kernel_size, dtype=self.dtype, name="local_conv", **norm)(
            x, train
        )
        y = Conv(self.dim, dtype=self.dtype, name="local_project")(y)
        y = self._transform(y, train)
        y = resize_bilinear(y, size)
        y = ConvBlock(channels, dtype=self.dtype, name="project", **norm)(y, train)
        if not self.fusion:
            return y
        y = jnp.concatenate([x, y], axis=-1)
        return ConvBlock(channels, self.kernel_size, dtype=self.dtype, name="fusion", **norm)(
            y, train
        )

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
                dtype=self.dtype,
                name=f"transformer_{index}",
            )(tokens, train)
        tokens = LayerNorm(self.dtype, name="final_norm")(tokens)
        return fold(tokens, patch, size)


class _Stage(nn.Module):
    """Inverted residuals and, at layer_3 to layer_5, a MobileViT block."""

    residuals: tuple[dict[str, Any], ...]
    block: dict[str, Any] | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        wrap = (lambda m: nn.remat(m, static_argnums=(2,))) if self.remat else (lambda m: m)
        for index, fields in enumerate(self.residuals):
            x = wrap(InvertedResidual)(**fields, name=f"block_{index}")(x, train)
        if self.block is not None:
            x = wrap(MobileViTBlock)(**self.block, name="mobilevit")(x, train)
        return x


class Backbone(nn.Module):
    """conv_1 and layer_1 to layer_5, shared by classifier, detector and segmentation model.

    Attributes: see `BackboneModel`.
    """

    variant: Variant
    patch_sizes: tuple[int, int, int] = (2, 2, 2)
    fusion: bool = True
    kernel_size: int = 3
    dropout: float = 0.1
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    output_stride: int = 32
    bn_axis_name: str | None = None
    bn_unbiased: bool = True
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Maps images [b, h, w, 3] to {"conv_1", "layer_1", ..., "layer_5"}: maps [b, h, w, c]."""
        shared = {
            "bn_axis_name": self.bn_axis_name,
            "bn_unbiased": self.bn_unbiased,
            "dtype": self.dtype,
        }
        x = ConvBlock(self.variant.channels[0], 3, _STRIDES[0], name="conv_1", **shared)(
            images, train
        )
        features = {"conv_1": x}
        for number in range(1, 6):
            name = f"layer_{number}"
            x = _Stage(
                self._residuals(number, shared),
                self._block(number, shared) if number >= 3 else None,
                self.remat,
                name=name,
            )(x, train)
            features[name] = x
        return features

    def _residuals(self, number: int, shared: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        base = shared | {
            "features": self.variant.channels[number],
            "expansion": self.variant.expansion,
        }
        early = [(stride, 1) for stride in _STRIDES[1:]]
        stride, dilation = [*early, *_TAIL[self.output_stride]][number - 1]
        first = base | {"stride": stride, "dilation": dilation}
        return (first, base, base) if number == 2 else (first,)

    def _block(self, number: int, shared: dict[str, Any]) -> dict[str, Any]:
        index = number - 3
        dim = self.variant.dims[index]
        return shared | {
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
        }


class BackboneModel(nn.Module):
    """What classifier, detector and segmentation model share; they differ in their heads.

    Attributes:
        variant: Widths and depths.
        num_classes: Classes; what else it may be is for the model to say.
        patch_sizes: Side of a patch in layer_3, layer_4, layer_5, in pixels of their maps.
        fusion: Whether blocks concatenate their input and fuse it (the ablation of Figure 12).
        kernel_size: Side of the blocks' local and fusion convolutions.
        dropout: Rate in the transformers.
        attention_dropout: Rate on the attention maps.
        ffn_dropout: Rate inside the feed-forward networks.
        output_stride: 32, 16 or 8: the image's size over that of layer_5.
        bn_axis_name: Devices' axis for synchronised batch norm, None for each device's own.
        bn_unbiased: Whether running variances are unbiased, as PyTorch keeps them.
        remat: Whether the backward pass computes the blocks' activations again to save memory.
        freeze_backbone: Whether training leaves everything below the head as it is: no dropout
            there, running statistics used and kept, no gradient. Without `train` it changes
            nothing.
        dtype: Type of the computation; parameters, statistics and outputs are float32.
    """

    variant: Variant
    num_classes: int = 1000
    patch_sizes: tuple[int, int, int] = (2, 2, 2)
    fusion: bool = True
    kernel_size: int = 3
    dropout: float = 0.1
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    output_stride: int = 32
    bn_axis_name: str | None = None
    bn_unbiased: bool = True
    remat: bool = False
    freeze_backbone: bool = False
    dtype: Dtype = jnp.float32

    @property
    def norm(self) -> dict[str, Any]:
        """The options of batch norm, as every block takes them."""
        return {"bn_axis_name": self.bn_axis_name, "bn_unbiased": self.bn_unbiased}

    def stages(self, images: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Runs the backbone, under the scope "backbone"; called inside a compact `__call__`.

        Args:
            images: [b, h, w, 3].
            train: Whether the model is being trained; a frozen backbone is not.

        Returns:
            {"conv_1", "layer_1", ..., "layer_5"}: maps [b, h, w, c].
        """
        frozen = train and self.freeze_backbone
        maps = Backbone(
            self.variant,
            self.patch_sizes,
            self.fusion,
            self.kernel_size,
            self.dropout,
            self.attention_dropout,
            self.ffn_dropout,
            self.output_stride,
            self.bn_axis_name,
            self.bn_unbiased,
            self.remat,
            self.dtype,
            name="backbone",
        )(images, train and not frozen)
        return lax.stop_gradient(maps) if frozen else maps
