"""SSDLite (paper section 4.2; Liu et al. 2016; CVNets v0.1, `detection/ssd.py`).

Six levels look for objects of growing size: the backbone's maps of stride 16 and 32, three more
stride-2 separable convolutions, and the whole image pooled to one place.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models.anchors import AnchorConfig, anchors, anchors_per_location
from mobilevit_jax.models.layers import Common, Conv, ConvBlock, xavier_init
from mobilevit_jax.models.model import (
    Head,
    Model,
    Spelled,
    Stages,
    check_classes,
    deepest,
    map_sizes,
)
from mobilevit_jax.models.names import HeadNames, Row, Tensors

# CVNets v0.1 draws the detector's own kernels by Glorot's uniform rule; biases are zero.
kernel_init = xavier_init


class Level(NamedTuple):
    """A feature map that objects are looked for on.

    Attributes:
        name: "stride_16" and "stride_32" are the backbone's maps; the others are made here:
            "extra_<output stride>" or "extra_pool".
        features: Channels of an extra level's map; 0 for those of the backbone.
        width: Channels that the predictor works on; where the map has others, a 1x1 convolution
            stands between.
    """

    name: str
    features: int
    width: int


# Facts of the published detectors, finest level first.
LEVELS = (
    Level("stride_16", 0, 512),
    Level("stride_32", 0, 256),
    Level("extra_64", 256, 256),
    Level("extra_128", 128, 128),
    Level("extra_256", 128, 128),
    Level("extra_pool", 64, 64),
)


class SeparableConv(nn.Module):
    """3x3 depthwise convolution with batch norm, then 1x1 with batch norm and ReLU.

    Attributes:
        features: Output channels.
        stride: Step of the depthwise convolution.
        common: See `layers.Common`.
    """

    features: int
    stride: int = 2
    common: Common = Common()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to [b, ceil(h / stride), ceil(w / stride), features]."""
        x = _depthwise(x, train, self.stride, self.common)
        return _relu_block(self.features, "pointwise", self.common)(x, train)


class Predictor(nn.Module):
    """What is found at each place of a level: offsets and class scores of its anchors.

    Attributes:
        outputs: Numbers for each place, anchors by 4 offsets and the classes.
        width: Channels that they are computed from, see `Level`.
        depthwise: Whether the neighbourhood is looked at; the pooled level has none.
        common: See `layers.Common`.
    """

    outputs: int
    width: int
    depthwise: bool = True
    common: Common = Common()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to [b, h, w, outputs]."""
        if x.shape[-1] != self.width:
            x = _relu_block(self.width, "project", self.common)(x, train)
        if self.depthwise:
            x = _depthwise(x, train, 1, self.common)
        return Conv(
            self.outputs,
            use_bias=True,
            dtype=self.common.dtype,
            kernel_init=kernel_init,
            name="predict",
        )(x)


class SSDLite(Model):
    """The detector; `create_model` builds it by name. Other fields: see `Model`.

    Attributes:
        num_classes: Classes with the background, which is class 0.
        anchor_config: Anchors of the six levels.
    """

    num_classes: int = 81
    anchor_config: AnchorConfig = AnchorConfig()

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, features: bool = False
    ) -> tuple[jax.Array, jax.Array] | tuple[tuple[jax.Array, jax.Array], dict[str, jax.Array]]:
        """Scores and moves every anchor.

        Args:
            images: [b, h, w, 3] in [0, 1], channels in the order of the weights.
            train: Whether dropout and batch statistics are on.
            features: Whether the stages' and the extra levels' maps are returned too.

        Returns:
            Class logits [b, A, num_classes] and box offsets [b, A, 4], float32, in the order of
            `anchors(h, w)`; with `features`, ((logits, offsets), {name: map}).
        """
        maps = self.maps(images, train)
        fine, coarse = _stages_of(self.backbone.stages)
        extra = self._extra_levels(maps[coarse], train)
        levels = [maps[fine], maps[coarse], *extra.values()]
        per_location = anchors_per_location(self.anchor_config)
        parts = []
        for index, (level, x, count) in enumerate(zip(LEVELS, levels, per_location, strict=True)):
            predicted = Predictor(
                count * (4 + self.num_classes),
                level.width,
                depthwise=level is not LEVELS[-1],
                common=self.common,
                name=f"head_{index}",
            )(x, train)
            parts.append(predicted.reshape(images.shape[0], -1, 4 + self.num_classes))
        outputs = jnp.concatenate(parts, axis=1).astype(jnp.float32)
        # In each anchor's row the offsets stand before the logits.
        found = outputs[..., 4:], outputs[..., :4]
        return (found, {**maps, **extra}) if features else found

    def anchors(self, height: int, width: int) -> np.ndarray:
        """Returns the anchors of images of `height` x `width` pixels.

        Returns:
            float32 [A, 4] as (cx, cy, w, h), shares of the image; 3,232 at 320x320.
        """
        sizes = level_sizes(self.backbone, height, width)
        return anchors(sizes, self.anchor_config)

    def _extra_levels(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Returns the maps of the four levels behind the backbone's last map."""
        maps = {}
        *separable, pooled = LEVELS[2:]
        for level in separable:
            extra = SeparableConv(level.features, common=self.common, name=level.name)
            maps[level.name] = x = extra(x, train)
        x = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        dtype = self.common.dtype
        conv = Conv(pooled.features, dtype=dtype, kernel_init=kernel_init, name=pooled.name)
        maps[pooled.name] = nn.relu(conv(x))
        return maps


def level_sizes(backbone: Any, height: int, width: int) -> list[tuple[int, int]]:
    """Returns (height, width) of each level's map for an image, in pixels of the map."""
    sizes = map_sizes(backbone, height, width)
    found = [sizes[name] for name in _stages_of(backbone.stages)]
    for _ in LEVELS[2:-1]:
        rows, columns = found[-1]
        found.append((-(-rows // 2), -(-columns // 2)))
    return [*found, (1, 1)]


def _stages_of(stages: Stages) -> tuple[str, str]:
    """Returns the backbone's stages of the first two levels."""
    coarse = deepest(stages, 32)
    return deepest(stages, 16, before=coarse), coarse


def _relu_block(features: int, name: str, common: Common) -> ConvBlock:
    return ConvBlock(features, act=nn.relu, kernel_init=kernel_init, common=common, name=name)


def _depthwise(x: jax.Array, train: bool, stride: int, common: Common) -> jax.Array:
    """3x3 depthwise convolution and batch norm, without activation."""
    return ConvBlock(
        x.shape[-1],
        3,
        stride,
        depthwise=True,
        act=None,
        kernel_init=kernel_init,
        common=common,
        name="depthwise",
    )(x, train)


def _check(model: SSDLite) -> None:
    check_classes(model)
    levels = len(model.anchor_config.aspect_ratios)
    if levels != len(LEVELS):
        raise ConfigurationError(
            f"anchor_config must have the aspect ratios of {len(LEVELS)} levels; got {levels}"
        )
    _stages_of(model.backbone.stages)


def _recognise(tensors: Tensors) -> dict[str, int]:
    """Classes with the background; each anchor has as many outputs, and 4 offsets."""
    counts = anchors_per_location()
    outputs = [tensors.outputs(f"head_{level}/predict/kernel") for level in range(len(counts))]
    classes = {found / count - 4 for found, count in zip(outputs, counts, strict=True)}
    if len(classes) > 1 or (number := classes.pop()) != int(number):
        raise DataError(
            f"cannot tell the number of classes: {', '.join(map(str, counts))} anchors at each "
            f"place of the levels were assumed, and there are {', '.join(map(str, outputs))} "
            "outputs; create the model with its anchor_config"
        )
    return {"num_classes": int(number)}


@dataclass(frozen=True)
class AnchorOptions:
    """Anchors as configurations spell them.

    Attributes:
        anchor_scales: Detectors: scale of the first level's anchors, and where the scales end.
        anchor_ratios: Detectors: aspect ratios of each of the six levels' anchors.
    """

    anchor_scales: tuple[float, float] | None = None
    anchor_ratios: tuple[tuple[float, ...], ...] | None = None

    def config(self) -> AnchorConfig:
        """Returns the anchors that are meant."""
        options: dict[str, Any] = {}
        if self.anchor_scales is not None:
            options["min_scale"], options["max_scale"] = self.anchor_scales
        if self.anchor_ratios is not None:
            # Those out of a JSON file are lists inside.
            options["aspect_ratios"] = tuple(map(tuple, self.anchor_ratios))
        return AnchorConfig(**options)


_EXTRA = "extra_layers.os_{extra}"
_PREDICTOR = "ssd_heads.{level}"
_CVNETS_ROWS = (
    Row("extra_{extra}/depthwise", f"{_EXTRA}.dw_conv.block"),
    Row("extra_{extra}/pointwise", f"{_EXTRA}.pw_conv.block"),
    Row("extra_pool", "extra_layers.os_-1.1.block.conv", "conv"),
    Row("head_{level}/project", f"{_PREDICTOR}.proj_layer.block"),
    Row("head_{level}/depthwise", f"{_PREDICTOR}.loc_cls_layer.dw_conv.block"),
    Row("head_{level}/predict", f"{_PREDICTOR}.loc_cls_layer.pw_conv.block.conv", "dense"),
    # The pooled level has one place only, and no neighbourhood.
    Row("head_5/predict", "ssd_heads.5.loc_cls_layer.block.conv", "dense"),
)

HEAD = Head(
    name="ssdlite",
    prefix="ssdlite_",
    module=SSDLite,
    task="detection",
    input_size=320,
    first_named=1,
    check=_check,
    saved_as="SSDLite",
    recognise=_recognise,
    class_modules=("predict",),
    beside_classes=4,
    spelled=Spelled("anchor_config", AnchorOptions, AnchorOptions.config),
    names={"cvnets": (HeadNames(_CVNETS_ROWS, prefixes=("encoder.",)),)},
)
