"""SSDLite on MobileViT (paper section 4.2; Liu et al. 2016; CVNets v0.1, `detection/ssd.py`).

Six levels look for objects of growing size: the backbone's layer_4 and layer_5, three more stride-2
separable convolutions, and the whole image pooled to one place.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.models.backbone import BackboneModel, feature_sizes
from mobilevit_jax.models.layers import Conv, ConvBlock, Dtype, xavier_init
from mobilevit_jax.tasks.detection.anchors import AnchorConfig, anchors, anchors_per_location

# CVNets v0.1 draws the detector's own kernels by Glorot's uniform rule; biases are zero.
kernel_init = xavier_init


class Level(NamedTuple):
    """A feature map that objects are looked for on.

    Attributes:
        name: Where it is from: a stage of the backbone, "extra_<output stride>" or "extra_pool".
        features: Channels of an extra level's map; 0 for stages, whose channels the variant has.
        width: Channels that the predictor works on; where the map has others, a 1x1 convolution
            stands between.
    """

    name: str
    features: int
    width: int


# Facts of the published detectors, finest level first.
LEVELS = (
    Level("layer_4", 0, 512),
    Level("layer_5", 0, 256),
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
        bn_axis_name: See `layers.BatchNorm.axis_name`.
        bn_unbiased: See `layers.BatchNorm.unbiased`.
        dtype: Type of the computation.
    """

    features: int
    stride: int = 2
    bn_axis_name: str | None = None
    bn_unbiased: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to [b, ceil(h / stride), ceil(w / stride), features]."""
        options = _options(self)
        x = _depthwise(x, train, self.stride, options)
        return ConvBlock(self.features, act=nn.relu, name="pointwise", **options)(x, train)


class Predictor(nn.Module):
    """What is found at each place of a level: offsets and class scores of its anchors.

    Attributes:
        outputs: Numbers for each place, anchors by 4 offsets and the classes.
        width: Channels that they are computed from, see `Level`.
        depthwise: Whether the neighbourhood is looked at; the pooled level has none.
        bn_axis_name: See `layers.BatchNorm.axis_name`.
        bn_unbiased: See `layers.BatchNorm.unbiased`.
        dtype: Type of the computation.
    """

    outputs: int
    width: int
    depthwise: bool = True
    bn_axis_name: str | None = None
    bn_unbiased: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to [b, h, w, outputs]."""
        options = _options(self)
        if x.shape[-1] != self.width:
            x = ConvBlock(self.width, act=nn.relu, name="project", **options)(x, train)
        if self.depthwise:
            x = _depthwise(x, train, 1, options)
        return Conv(
            self.outputs,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=kernel_init,
            name="predict",
        )(x)


class SSDLite(BackboneModel):
    """The detector; `create_model` builds it by name. Other fields: see `BackboneModel`.

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
        maps = self._extra_levels(self.stages(images, train), train)
        per_location = anchors_per_location(self.anchor_config)
        parts = []
        for index, (level, count) in enumerate(zip(LEVELS, per_location, strict=True)):
            predicted = Predictor(
                count * (4 + self.num_classes),
                level.width,
                depthwise=level is not LEVELS[-1],
                dtype=self.dtype,
                name=f"head_{index}",
                **self.norm,
            )(maps[level.name], train)
            parts.append(predicted.reshape(images.shape[0], -1, 4 + self.num_classes))
        outputs = jnp.concatenate(parts, axis=1).astype(jnp.float32)
        # In each anchor's row the offsets stand before the logits.
        found = outputs[..., 4:], outputs[..., :4]
        return (found, maps) if features else found

    def anchors(self, height: int, width: int) -> np.ndarray:
        """Returns the anchors of images of `height` x `width` pixels.

        Returns:
            float32 [A, 4] as (cx, cy, w, h), shares of the image; 3,232 at 320x320.
        """
        return anchors(level_sizes(height, width, self.output_stride), self.anchor_config)

    def _extra_levels(self, maps: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """Adds the maps of the four levels behind the backbone."""
        x, maps = maps["layer_5"], dict(maps)
        *separable, pooled = LEVELS[2:]
        for level in separable:
            extra = SeparableConv(level.features, dtype=self.dtype, name=level.name, **self.norm)
            maps[level.name] = x = extra(x, train)
        x = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        conv = Conv(pooled.features, dtype=self.dtype, kernel_init=kernel_init, name=pooled.name)
        maps[pooled.name] = nn.relu(conv(x))
        return maps


def level_sizes(height: int, width: int, output_stride: int = 32) -> list[tuple[int, int]]:
    """Returns (height, width) of each level's map for an image, in pixels of the map."""
    sizes = feature_sizes(height, width, output_stride)
    found = [sizes["layer_4"], sizes["layer_5"]]
    for _ in LEVELS[2:-1]:
        rows, columns = found[-1]
        found.append((-(-rows // 2), -(-columns // 2)))
    return [*found, (1, 1)]


def _options(module: Any) -> dict[str, Any]:
    """What the blocks of a module take from it."""
    return {
        "bn_axis_name": module.bn_axis_name,
        "bn_unbiased": module.bn_unbiased,
        "dtype": module.dtype,
        "kernel_init": kernel_init,
    }


def _depthwise(x: jax.Array, train: bool, stride: int, options: dict[str, Any]) -> jax.Array:
    """3x3 depthwise convolution and batch norm, without activation."""
    block = ConvBlock(x.shape[-1], 3, stride, depthwise=True, act=None, name="depthwise", **options)
    return block(x, train)
