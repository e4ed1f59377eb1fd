"""DeepLabv3 (paper section 4.3; Chen et al. 2017; CVNets v0.1, `deeplabv3.py`)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models.layers import Common, Conv, ConvBlock, Dropout
from mobilevit_jax.models.model import (
    Head,
    Model,
    check_classes,
    check_rates,
    check_triple,
    deepest,
)
from mobilevit_jax.models.names import HeadNames, Row, Tensors
from mobilevit_jax.models.patches import resize_bilinear


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, dilated 3x3 at three rates, and the pooled image.

    Attributes:
        features: Channels of each branch and of the output.
        rates: Dilations of the 3x3 convolutions.
        dropout: Rate on the output.
        channel_dropout: Whether whole channels are dropped (later CVNets) instead of elements.
        common: See `layers.Common`.
    """

    features: int = 256
    rates: tuple[int, int, int] = (6, 12, 18)
    dropout: float = 0.1
    channel_dropout: bool = False
    common: Common = Common()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to [b, h, w, features].

        In training, the batch statistics of the pooled branch are over b numbers a channel: a
        device needs more than one image, or synchronised batch norm, for that branch to say
        anything (PyTorch refuses one).
        """
        options: Any = {"act": nn.relu, "common": self.common}
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


class DeepLabV3(Model):
    """The segmentation model; `create_model` builds it by name. Other fields: see `Model`.

    The backbones of this package have an output stride of 16 below it unless told otherwise (the
    paper's; later CVNets: 8).

    Attributes:
        num_classes: Classes, a background among them where there is one (VOC's class 0).
        aspp_features: Channels of the pyramid; later CVNets: 512.
        aspp_rates: Dilations of the pyramid; later CVNets: 12, 24, 36.
        aspp_dropout: Rate after the pyramid.
        channel_dropout: Whether that drops whole channels, as later CVNets does.
        head_dropout: Rate on whole channels in front of the classifier; later CVNets: 0.
        aux_head: Whether training has a second classifier, on the backbone's map of stride 16
            before the last (layer_4 of MobileViT).
        aux_width: Least channels of that one: a quarter of the map's, and no fewer than this
            (CVNets v0.1: 256, later: 128).
        aux_dropout: Rate on whole channels in front of that one.
        upsample: Whether logits are resized to the image; without, they are at 1 / output_stride,
            as transformers' model gives them.
        align_corners: Whether resizing puts corner pixels on one another, as later CVNets does.
    """

    num_classes: int = 21
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
            `features`, (that, the stages' maps and "aspp").
        """
        size = images.shape[1], images.shape[2]
        maps, stages = self.maps(images, train), self.backbone.stages
        last = deepest(stages, 32)
        x = ASPP(
            self.aspp_features,
            self.aspp_rates,
            self.aspp_dropout,
            self.channel_dropout,
            common=self.common,
            name="aspp",
        )(maps[last], train)
        x_dropped = Dropout(self.head_dropout, channels=True)(x, train)
        outputs = self._resized(self._classify("classifier", x_dropped), size)
        # Its parameters exist from the start, though only training computes it.
        if self.aux_head and (train or self.is_initializing()):
            aux = self._resized(
                self._auxiliary(maps[deepest(stages, 16, before=last)], train), size
            )
            outputs = (outputs, aux) if train else outputs
        return (outputs, {**maps, "aspp": x}) if features else outputs

    def _auxiliary(self, x: jax.Array, train: bool) -> jax.Array:
        width = max(x.shape[-1] // 4, self.aux_width)
        block = ConvBlock(width, 3, act=nn.relu, common=self.common, name="aux_conv")
        x = Dropout(self.aux_dropout, channels=True)(block(x, train), train)
        return self._classify("aux_classifier", x)

    def _classify(self, name: str, x: jax.Array) -> jax.Array:
        return Conv(self.num_classes, use_bias=True, dtype=self.common.dtype, name=name)(x)

    def _resized(self, logits: jax.Array, size: tuple[int, int]) -> jax.Array:
        logits = logits.astype(jnp.float32)
        if not self.upsample:
            return logits
        return resize_bilinear(logits, size, align_corners=self.align_corners)


def _check(model: DeepLabV3) -> None:
    check_classes(model)
    check_rates(model)
    check_triple("aspp_rates", model.aspp_rates, "dilations of the pyramid")
    for field in ("aspp_features", "aux_width"):
        if getattr(model, field) < 1:
            raise ConfigurationError(f"{field} must be at least 1; got {getattr(model, field)!r}")
    if model.aux_head:
        stages = model.backbone.stages
        deepest(stages, 16, before=deepest(stages, 32))


def _recognise(tensors: Tensors) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_classes": tensors.outputs("classifier/kernel"),
        "aspp_features": tensors.outputs("aspp/project/conv/kernel"),
    }
    if "aux_conv/conv/kernel" not in tensors:
        return options
    width = tensors.outputs("aux_conv/conv/kernel")
    channels = tensors["aux_conv/conv/kernel"][1]
    if width < channels // 4:
        raise DataError(
            f"the auxiliary head has {width} channels, less than a quarter of the {channels} below "
            "it; only wider ones are known"
        )
    return options | {"aux_head": True, "aux_width": width}


def _unnamed_by_huggingface(model: DeepLabV3) -> list[str]:
    return ["aux_head=True (no auxiliary head there)"] if model.aux_head else []


def _pyramid(theirs: str, pooled: str, block: str) -> tuple[Row, ...]:
    return (
        Row("aspp/conv_{branch}", f"{theirs}.convs.{{branch}}{block}"),
        Row("aspp/pool", f"{theirs}.convs.4.{pooled}{block}"),
        Row("aspp/project", f"{theirs}.project{block}"),
    )


_CVNETS_PYRAMID = _pyramid("seg_head.aspp.aspp_layer", "aspp_pool.conv_1x1", ".block")

# Versions from 0.2 read images with Pillow and trained by another recipe.
LATER = HeadNames(
    (
        *_CVNETS_PYRAMID,
        Row("classifier", "seg_head.classifier.block.conv", "dense"),
        Row("aux_conv", "seg_head.aux_head.0.block"),
        Row("aux_classifier", "seg_head.aux_head.2.block.conv", "dense"),
    ),
    prefixes=("encoder.",),
    title="CVNets after v0.1",
    channel_order="rgb",
)

HEAD = Head(
    name="deeplabv3",
    prefix="deeplabv3_",
    module=DeepLabV3,
    task="segmentation",
    input_size=512,
    first_named=0,
    check=_check,
    saved_as="DeepLabV3",
    recognise=_recognise,
    class_modules=("classifier", "aux_classifier"),
    backbone_defaults={"output_stride": 16},
    training_only=frozenset({"aux_conv", "aux_classifier"}),
    unstated=frozenset({"upsample"}),
    names={
        "cvnets": (
            HeadNames(
                (
                    *_CVNETS_PYRAMID,
                    Row("classifier", "seg_head.classifier.classifier.block.conv", "dense"),
                    Row("aux_conv", "seg_head.aux_head.aux_projection.block"),
                    Row("aux_classifier", "seg_head.aux_head.aux_classifier.block.conv", "dense"),
                ),
                prefixes=("encoder.",),
            ),
            # As `pascal_voc/deeplabv3_mobilevit.yaml` has it there.
            LATER._replace(
                assumed={
                    "output_stride": 8,
                    "aspp_rates": (12, 24, 36),
                    "channel_dropout": True,
                    "head_dropout": 0.0,
                    "align_corners": True,
                },
            ),
        ),
        "huggingface": (
            HeadNames(
                (
                    *_pyramid("segmentation_head.aspp", "conv_1x1", ""),
                    Row("classifier", "segmentation_head.classifier.convolution", "dense"),
                ),
                prefixes=("{family}.",),
                assumed={"align_corners": False},
                unnamed=_unnamed_by_huggingface,
            ),
        ),
    },
)
