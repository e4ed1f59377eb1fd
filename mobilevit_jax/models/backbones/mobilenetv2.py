"""MobileNetV2 in several widths (Sandler et al., CVPR 2018), as torchvision and timm have it."""

import itertools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax

from mobilevit_jax.models.layers import Common, ConvBlock, Initializer, small_dense_init
from mobilevit_jax.models.model import Accuracy, Family
from mobilevit_jax.models.names import BackboneNames, HeadNames, Row, Tensors, apart
from mobilevit_jax.models.trunk import Stage, check_output_stride, dilated

# Of the seven rows of the paper's Table 2: expansion, blocks, stride.
_ROWS = ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1))
# Which of them make up layer_1 to layer_5, as CVNets names them.
_STAGES = ((0,), (1,), (2,), (3, 4), (5, 6))


@dataclass(frozen=True)
class Variant:
    """Widths of one size.

    Attributes:
        channels: Output channels of conv_1 and of the seven rows of blocks.
        exp_channels: Output channels of conv_1x1_exp, 1280 times the width if that is above 1.
    """

    channels: tuple[int, int, int, int, int, int, int, int]
    exp_channels: int = 1280


# Multiples of 8 near the width's share of those of width 1, and not below nine tenths of it.
VARIANTS = {
    "025": Variant((8, 8, 8, 8, 16, 24, 40, 80)),
    "035": Variant((16, 8, 8, 16, 24, 32, 56, 112)),
    "050": Variant((16, 8, 16, 16, 32, 48, 80, 160)),
    "075": Variant((24, 16, 24, 24, 48, 72, 120, 240)),
    "100": Variant((32, 16, 24, 32, 64, 96, 160, 320)),
    "140": Variant((48, 24, 32, 48, 88, 136, 224, 448), 1792),
}
_TOP1 = {"025": 0.5357, "050": 0.6528, "075": 0.7042, "100": 0.7293}


class MobileNetV2(nn.Module):
    """The network below the heads; ReLU6 everywhere but after a block's last convolution.

    Attributes:
        variant: Widths.
        output_stride: 32, 16 or 8: the image's size over that of layer_5; see `trunk.dilated`.
        common: See `layers.Common`.
    """

    variant: Variant
    output_stride: int = 32
    common: Common = Common()

    @property
    def stages(self) -> dict[str, tuple[int, int]]:
        """{"conv_1", "layer_1", ..., "layer_5"} -> (stride, channels)."""
        strides = [*itertools.accumulate((step for step, *_ in self._steps()), operator.mul)]
        last = [0, *(1 + rows[-1] for rows in _STAGES)]
        return {
            f"layer_{number}" if number else "conv_1": (strides[row], self.variant.channels[row])
            for number, row in enumerate(last)
        }

    @property
    def exp_channels(self) -> int:
        """Channels of the 1x1 convolution that a classifier has before its pooling."""
        return self.variant.exp_channels

    @property
    def exp_act(self) -> Callable[[jax.Array], jax.Array]:
        """The activation after it."""
        return nn.relu6

    @property
    def classifier_init(self) -> Initializer:
        """Draws the kernel of a classifier's last layer."""
        return small_dense_init

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Maps images [b, h, w, 3] to {stage: map [b, h, w, c]}."""
        block = ConvBlock(
            self.variant.channels[0], 3, 2, act=nn.relu6, common=self.common, name="conv_1"
        )
        features = {"conv_1": (x := block(images, train))}
        for number, rows in enumerate(_STAGES, 1):
            residuals = tuple(fields for row in rows for fields in self._row(row))
            stage = Stage(residuals, remat=self.common.remat, name=f"layer_{number}")
            features[f"layer_{number}"] = x = stage(x, train)
        return features

    def _steps(self) -> list[tuple[int, int, int]]:
        return dilated((2, *(stride for _, _, stride in _ROWS)), self.output_stride)

    def _row(self, row: int) -> Iterator[dict[str, Any]]:
        """Yields the fields of the blocks of a row."""
        expansion, count, _ = _ROWS[row]
        stride, dilation, behind = self._steps()[1 + row]
        for index in range(count):
            yield {
                "features": self.variant.channels[1 + row],
                "expansion": expansion,
                "stride": 1 if index else stride,
                "dilation": behind if index else dilation,
                "expand": expansion > 1,
                "act": nn.relu6,
                "common": self.common,
            }


def _published(variant: Variant) -> str | None:
    found = (f"mobilenetv2_{width}" for width, known in VARIANTS.items() if known == variant)
    return next(found, None)


def _blocks() -> Iterator[tuple[str, int, int]]:
    """Yields (our path, row of the table, place in the row) of each block, from the first."""
    for number, rows in enumerate(_STAGES, 1):
        places = ((row, place) for row in rows for place in range(_ROWS[row][1]))
        for block, (row, place) in enumerate(places):
            yield f"backbone/layer_{number}/block_{block}", row, place


def _torchvision() -> Iterator[Row]:
    yield from apart("backbone/conv_1", "features.0.0", "features.0.1")
    for number, (ours, row, _) in enumerate(_blocks(), 1):
        theirs, place = f"features.{number}.conv", int(_ROWS[row][0] > 1)
        if place:
            yield from apart(f"{ours}/expand_1x1", f"{theirs}.0.0", f"{theirs}.0.1")
        yield from apart(f"{ours}/conv_3x3", f"{theirs}.{place}.0", f"{theirs}.{place}.1")
        yield from apart(f"{ours}/reduce_1x1", f"{theirs}.{place + 1}", f"{theirs}.{place + 2}")
    yield from apart("conv_1x1_exp", "features.18.0", "features.18.1")


def _timm() -> Iterator[Row]:
    yield from apart("backbone/conv_1", "conv_stem", "bn1")
    for ours, row, place in _blocks():
        units = [("expand_1x1", "conv_pw"), ("conv_3x3", "conv_dw"), ("reduce_1x1", "conv_pwl")]
        if _ROWS[row][0] == 1:
            units = [("conv_3x3", "conv_dw"), ("reduce_1x1", "conv_pw")]
        theirs = f"blocks.{row}.{place}"
        for number, (unit, conv) in enumerate(units, 1):
            yield from apart(f"{ours}/{unit}", f"{theirs}.{conv}", f"{theirs}.bn{number}")
    yield from apart("conv_1x1_exp", "conv_head", "bn2")


def _refused_by_timm(backbone: MobileNetV2) -> list[str]:
    return ["a width of 0.25 (none there)"] if backbone.variant == VARIANTS["025"] else []


def _classifier(theirs: str) -> dict[str, tuple[HeadNames, ...]]:
    return {"classifier": (HeadNames((Row("classifier", theirs, "dense"),)),)}


def _recognise(tensors: Tensors) -> tuple[str | None, dict[str, Any]]:
    """Tells the width; see `Family`."""
    blocks = {row: f"{ours}/reduce_1x1" for ours, row, _ in _blocks()}
    convs = ("backbone/conv_1", *(blocks[row] for row in range(len(_ROWS))))
    stem, *rows = (tensors.outputs(f"{conv}/conv/kernel") for conv in convs)
    exp = tensors.outputs("conv_1x1_exp/conv/kernel")
    a, b, c, d, e, f, g = rows
    variant = Variant((stem, a, b, c, d, e, f, g), exp)
    return _published(variant), {"variant": variant}


_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

FAMILY = Family(
    name="mobilenetv2",
    module=MobileNetV2,
    variants={f"mobilenetv2_{width}": variant for width, variant in VARIANTS.items()},
    defaults=lambda variant: {},
    check=check_output_stride,
    names={
        "torchvision": BackboneNames(
            (*_torchvision(),),
            "reduce_1x1",
            heads=_classifier("classifier.1"),
            processing={
                **_IMAGENET,
                "size": 256,
                "crop_size": (224, 224),
                "resample": "pillow_bilinear",
            },
        ),
        "timm": BackboneNames(
            (*_timm(),),
            "reduce_1x1",
            _refused_by_timm,
            heads=_classifier("classifier"),
            processing=_IMAGENET,
        ),
    },
    published=_published,
    same_tensors=lambda one, other: one == other,
    recognise=_recognise,
    head_defaults={"classifier": {"classifier_dropout": 0.2}},
    timm={**_IMAGENET, "input_size": (3, 224, 224), "crop_pct": 0.875},
    # Of one source, so that the widths compare.
    accuracies=tuple(
        Accuracy(f"mobilenetv2_{width}", top1, "CVNets v0.2, model zoo")
        for width, top1 in _TOP1.items()
    ),
)
