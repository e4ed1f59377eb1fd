"""DeepLabv3 on MobileViT (paper section 4.3; Chen et al. 2017; CVNets v0.1, `deeplabv3.py`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mobilevit_jax.models.backbone import BackboneModel
from mobilevit_jax.models.layers import Conv, ConvBlock, Dropout, Dtype
from mobilevit_jax.models.patches import resize_bilinear


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, dilated 3x3 at three rates, and the pooled image.

    Attributes:
        features: Channels of each branch and of the output.
        rates: Dilations of the 3x3 convolutions.
        dropout: Rate on the output.
        channel_dropout: Whether whole channels are dropped (later CVNets) instead of elements.
        bn_axis_name: See `layers.BatchNorm.axis_name`.
        bn_unbiased: See `layers.BatchNorm.unbiased`.
        dtype: Type of the computation.
    """

    features: int = 256
    rates: tuple[int, int, int] = (6, 12, 18)
    dropout: float = 0.1
    channel_dropout: bool = False
    bn_axis_name: str | None = None
    bn_unbiased: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to [b, h, w, features].

        In training, the batch statistics of the pooled branch are over b numbers a channel: a
        device needs more than one image, or synchronised batch norm, for that branch to say
        anything (PyTorch refuses one).
        """
        options = {
            "act": nn.relu,
            "bn_axis_name": self.bn_axis_name,
            "bn_unbiased": self.bn_unbiased,
            "dtype": self.dtype,
        }
        branches = [ConvBlock(self.features, name="conv_0", **options)(x, train)]
        for index, rate in enumerate(self.rates, 1):
            block = ConvBlock(self.features, 3, dilation=rate, name=f"conv_{index}", **options)
            branches.append(block(x, train))
        pooled = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        pooled = ConvBlock(self.features, name="pool", **options)(pooled, train)
        # Resizing one pixel is repeating it.
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = jnp.concatenate(branches, axis=-1)
        x = ConvBlock(self.features, name="project", **options)(x, train)
        return Dropout(self.dropout, channels=self.channel_dropout)(x, train)


class DeepLabV3(BackboneModel):
    """The segmentation model; `create_model` builds it by name. Other fields: see `BackboneModel`.

    Attributes:
        num_classes: Classes with the background, which is class 0.
        output_stride: 16 (the paper's), 8 (later CVNets) or 32.
        aspp_features: Channels of the pyramid; later CVNets: 512.
        aspp_rates: Dilations of the pyramid; later CVNets: 12, 24, 36.
        aspp_dropout: Rate after the pyramid.
        channel_dropout: Whether that drops whole channels, as later CVNets does.
        head_dropout: Rate on whole channels in front of the classifier; later CVNets: 0.
        aux_head: Whether training has a second classifier, on layer_4.
        aux_width: Least channels of that one: a quarter of layer_4's, and no fewer than this
            (CVNets v0.1: 256, later: 128).
        aux_dropout: Rate on whole channels in front of that one.
        upsample: Whether logits are resized to the image; without, they are at 1 / output_stride,
            as transformers' model gives them.
        align_corners: Whether resizing puts corner pixels on one another, as later CVNets does.
    """

    num_classes: int = 21
    output_stride: int = 16
    aspp_features: int = 256
    aspp_rates: tuple[int, int, int] = (6, 12, 18)
    aspp_dropout: float = 0.1
    channel_dropout: bool = False
    head_dropout: float = 0.1
    aux_head: bool = False
    aux_width: int = 256
    aux_dropout: float = 0.1
    upsample: bool = True
    align_corners: bool = False

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, features: bool = False
    ) -> (
        jax.Array
        | tuple[jax.Array, jax.Array]
        | tuple[jax.Array | tuple[jax.Array, jax.Array], dict[str, jax.Array]]
    ):
        """Classifies every pixel.

        Args:
            images: [b, h, w, 3] in [0, 1], channels in the order of the weights.
            train: Whether dropout and batch statistics are on.
            features: Whether the stages' maps and the pyramid's are returned too.

        Returns:
            Logits [b, h, w, num_classes], float32 ([b, ceil(h / stride), ceil(w / stride),
            num_classes] without `upsample`); in training with `aux_head`, (logits, auxiliary
            logits) of one shape, or, without `upsample`, of the shapes of their maps. With
            `features`, (that, {"conv_1", ..., "layer_5", "aspp"}).
        """
        size = images.shape[1], images.shape[2]
        maps = self.stages(images, train)
        x = ASPP(
            self.aspp_features,
            self.aspp_rates,
            self.aspp_dropout,
            self.channel_dropout,
            dtype=self.dtype,
            name="aspp",
            **self.norm,
        )(maps["layer_5"], train)
        x_dropped = Dropout(self.head_dropout, channels=True)(x, train)
        outputs = self._resized(self._classify("classifier", x_dropped), size)
        # Its parameters exist from the start, though only training computes it.
        if self.aux_head and (train or self.is_initializing()):
            aux = self._resized(self._auxiliary(maps["layer_4"], train), size)
            outputs = (outputs, aux) if train else outputs
        return (outputs, {**maps, "aspp": x}) if features else outputs

    def _auxiliary(self, x: jax.Array, train: bool) -> jax.Array:
        width = max(x.shape[-1] // 4, self.aux_width)
        block = ConvBlock(width, 3, act=nn.relu, dtype=self.dtype, name="aux_conv", **self.norm)
        x = Dropout(self.aux_dropout, channels=True)(block(x, train), train)
        return self._classify("aux_classifier", x)

    def _classify(self, name: str, x: jax.Array) -> jax.Array:
        return Conv(self.num_classes, use_bias=True, dtype=self.dtype, name=name)(x)

    def _resized(self, logits: jax.Array, size: tuple[int, int]) -> jax.Array:
        logits = logits.astype(jnp.float32)
        if not self.upsample:
            return logits
        return resize_bilinear(logits, size, align_corners=self.align_corners)
