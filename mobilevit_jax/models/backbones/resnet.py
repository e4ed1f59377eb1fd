"""ResNet (He et al., CVPR 2016), as torchvision has it: the stride is on the 3x3 convolution."""

import itertools
import operator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import flax.linen as nn
import jax

from mobilevit_jax.errors import DataError, unknown_name
from mobilevit_jax.models.layers import Common, ConvBlock, Initializer, small_dense_init
from mobilevit_jax.models.model import Accuracy, Family
from mobilevit_jax.models.names import (
    BackboneNames,
    HeadNames,
    Row,
    Tensors,
    apart,
    whole_ratio,
)
from mobilevit_jax.models.trunk import Stage, check_output_stride, dilated

Stem = Literal["torchvision", "cvnets"]
# Of conv_1, layer_1 (the pooling) and layer_2 to layer_5.
_STRIDES = (2, 2, 1, 2, 2, 2)


@dataclass(frozen=True)
class Variant:
    """Widths and depths of one size.

    Attributes:
        depths: Blocks of layer_2 to layer_5.
        expansion: Output channels of a block as a multiple of its inner ones: 4 where three
            convolutions make a bottleneck, 1 for blocks of two.
        channels: Of conv_1, and inner ones of the blocks of layer_2 to layer_5.
    """

    depths: tuple[int, int, int, int]
    expansion: int = 4
    channels: tuple[int, int, int, int, int] = (64, 64, 128, 256, 512)


VARIANTS = {
    "resnet18": Variant((2, 2, 2, 2), 1),
    "resnet34": Variant((3, 4, 6, 3), 1),
    "resnet50": Variant((3, 4, 6, 3)),
    "resnet101": Variant((3, 4, 23, 3)),
}
_TORCHVISION, _ZOO = "torchvision, its weights IMAGENET1K_V1", "CVNets v0.2, model zoo"
_PAPER = "MobileViT paper (arXiv 2110.02178), Table 5, multi-scale sampler"
_CVNETS = {"stem": "cvnets"}
_ACCURACIES = (
    Accuracy("resnet18", 0.69758, _TORCHVISION),
    Accuracy("resnet34", 0.73314, _TORCHVISION),
    Accuracy("resnet34", 0.7485, _ZOO, _CVNETS),
    Accuracy("resnet50", 0.76130, _TORCHVISION),
    Accuracy("resnet50", 0.786, _PAPER, _CVNETS),
    Accuracy("resnet101", 0.77374, _TORCHVISION),
    Accuracy("resnet101", 0.7981, _ZOO, _CVNETS),
)


class Block(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, or two of 3x3, beside a shortcut; ReLU after the sum.

    Attributes:
        channels: Of the convolutions but the last.
        expansion: Output channels as a multiple of those; 1 makes a block of two convolutions.
        stride: Step of the first 3x3 convolution.
        dilation: Dilation of that one.
        behind: Dilation of a second 3x3 convolution.
        common: See `layers.Common`.
    """

    channels: int
    expansion: int = 4
    stride: int = 1
    dilation: int = 1
    behind: int = 1
    common: Common = Common()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to [b, ceil(h / stride), ceil(w / stride), channels * expansion]."""
        features = self.channels * self.expansion
        strided, second = (3, self.stride, self.dilation), (3, 1, self.behind)
        convs = [strided, second] if self.expansion == 1 else [(1, 1, 1), strided, (1, 1, 1)]
        y = x
        for number, shape in enumerate(convs, 1):
            last = number == len(convs)
            y = ConvBlock(
                features if last else self.channels,
                *shape,
                act=None if last else nn.relu,
                common=self.common,
                name=f"conv_{number}",
            )(y, train)
        if self.stride > 1 or x.shape[-1] != features:
            shortcut = ConvBlock(
                features, 1, self.stride, act=None, common=self.common, name="shortcut"
            )
            x = shortcut(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """The network below the heads.

    Attributes:
        variant: Widths and depths.
        stem: Whose ResNet it begins as: "torchvision" with a 7x7 convolution and the largest of 3x3
            pixels, "cvnets", as in the MobileViT paper's runs, with 3x3 and depthwise convolutions.
        output_stride: 32, 16 or 8: the image's size over that of layer_5; see `trunk.dilated`.
        common: See `layers.Common`.
    """

    variant: Variant
    stem: Stem = "torchvision"
    output_stride: int = 32
    common: Common = Common()

    @property
    def stages(self) -> dict[str, tuple[int, int]]:
        """{"conv_1", "layer_1", ..., "layer_5"} -> (stride, channels)."""
        first, *inner = self.variant.channels
        channels = (first, first, *(width * self.variant.expansion for width in inner))
        steps = (step for step, *_ in dilated(_STRIDES, self.output_stride))
        names = ("conv_1", *(f"layer_{number}" for number in range(1, 6)))
        strides = itertools.accumulate(steps, operator.mul)
        return dict(zip(names, zip(strides, channels, strict=True), strict=True))

    @property
    def classifier_init(self) -> Initializer:
        """Draws the kernel of a classifier's last layer."""
        return small_dense_init

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Maps images [b, h, w, 3] to {stage: map [b, h, w, c]}."""
        first, *inner = self.variant.channels
        if self.stem == "cvnets":
            x = self._conv(first, 3, "conv_1")(images, train)
            pooled = self._conv(first, 3, "layer_1", depthwise=True)(x, train)
        else:
            x = self._conv(first, 7, "conv_1")(images, train)
            # What surrounds the map is no pixel: flax takes it for minus infinity.
            padding: Any = ((1, 1), (1, 1))
            pooled = nn.max_pool(x, (3, 3), (2, 2), padding)
        features = {"conv_1": x, "layer_1": (x := pooled)}
        steps = dilated(_STRIDES, self.output_stride)[2:]
        for number, (width, depth, step) in enumerate(
            zip(inner, self.variant.depths, steps, strict=True), 2
        ):
            blocks = self._blocks(width, depth, *step)
            name = f"layer_{number}"
            stage = Stage(blocks, remat=self.common.remat, residual=Block, name=name)
            features[name] = x = stage(x, train)
        return features

    def _conv(self, width: int, side: int, name: str, *, depthwise: bool = False) -> ConvBlock:
        return ConvBlock(
            width, side, 2, depthwise=depthwise, act=nn.relu, common=self.common, name=name
        )

    def _blocks(
        self, width: int, depth: int, stride: int, dilation: int, behind: int
    ) -> tuple[dict[str, Any], ...]:
        """Returns the fields of the blocks of a stage."""
        base = {
            "channels": width,
            "expansion": self.variant.expansion,
            "dilation": behind,
            "behind": behind,
            "common": self.common,
        }
        return ({**base, "stride": stride, "dilation": dilation}, *[base] * (depth - 1))


def _check(backbone: ResNet) -> None:
    check_output_stride(backbone)
    if backbone.stem not in get_args(Stem):
        raise unknown_name("stem", str(backbone.stem), get_args(Stem))


def _published(variant: Variant) -> str | None:
    return next((name for name, known in VARIANTS.items() if known == variant), None)


def _unnamed(backbone: ResNet) -> list[str]:
    stem = backbone.stem
    return [] if stem == "torchvision" else [f"stem={stem!r} (one convolution of 7x7 there)"]


_BLOCK = "backbone/layer_{stage}/block_{block}"
_ROWS = (
    *apart("backbone/conv_1", "conv1", "bn1"),
    *apart(
        f"{_BLOCK}/conv_{{number}}",
        "layer{index}.{block}.conv{number}",
        "layer{index}.{block}.bn{number}",
    ),
    *apart(
        f"{_BLOCK}/shortcut",
        "layer{index}.{block}.downsample.0",
        "layer{index}.{block}.downsample.1",
    ),
)


def _recognise(tensors: Tensors) -> tuple[str | None, dict[str, Any]]:
    """Tells the size; see `Family`."""
    widths, depths = [tensors.outputs("backbone/conv_1/conv/kernel")], []
    for number in range(2, 6):
        stage = f"backbone/layer_{number}/"
        width, second = (
            tensors.outputs(f"{stage}block_0/{conv}/conv/kernel") for conv in ("conv_1", "conv_2")
        )
        inputs = tensors[f"{stage}block_0/conv_2/conv/kernel"][1]
        if inputs < width == second:
            raise DataError(
                f"the 3x3 convolutions take {inputs} of {width} channels each: the tensors are "
                "those of a ResNeXt, which is not supported; use ResNet weights"
            )
        widths.append(width)
        depths.append(len({path.split("/")[2] for path in tensors if path.startswith(stage)}))
    last, expansion = "backbone/layer_2/block_0/conv_3/conv/kernel", 1
    if last in tensors:
        expansion = whole_ratio(tensors.outputs(last), widths[1], "expansion")
    variant = Variant(
        (depths[0], depths[1], depths[2], depths[3]),
        expansion,
        (widths[0], widths[1], widths[2], widths[3], widths[4]),
    )
    return _published(variant), {"variant": variant}


_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# timm has torchvision's names, and where nothing else tells, torchvision's processing is assumed.
_NAMES = BackboneNames(
    _ROWS,
    "layer_5/block_0/conv_1",
    mark="layer1.0.conv1.weight",
    unnamed=_unnamed,
    heads={"classifier": (HeadNames((Row("classifier", "fc", "dense"),)),)},
    processing={
        **_IMAGENET,
        "size": 256,
        "crop_size": (224, 224),
        "resample": "pillow_bilinear",
    },
)

FAMILY = Family(
    name="resnet",
    module=ResNet,
    variants=VARIANTS,
    defaults=lambda variant: {},
    check=_check,
    names={"torchvision": _NAMES, "timm": _NAMES},
    published=_published,
    same_tensors=lambda one, other: one == other,
    recognise=_recognise,
    head_defaults={"classifier": {"classifier_dropout": 0.0}},
    timm={**_IMAGENET, "input_size": (3, 224, 224), "crop_pct": 0.875},
    accuracies=_ACCURACIES,
)
