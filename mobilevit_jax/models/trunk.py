"""What MobileViT's versions have in common: conv_1, and five stages of inverted residuals.

The last three stages end in a block of the version's own.
"""

import itertools
import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.layers import Common, ConvBlock, InvertedResidual

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


class Stage(nn.Module):
    """Residual blocks and, at layer_3 to layer_5 of MobileViT, a block of its own.

    Attributes:
        residuals: Fields of each residual block.
        kind: Module of the block, None for no block.
        fields: Of the block.
        remat: Whether the backward pass computes activations again.
        residual: Module of the residual blocks.
    """

    residuals: tuple[dict[str, Any], ...]
    kind: type[nn.Module] | None = None
    fields: dict[str, Any] | None = None
    remat: bool = False
    residual: type[nn.Module] = InvertedResidual

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to the stage's map."""

        def wrap(kind: Any) -> Any:
            return nn.remat(kind, static_argnums=(2,)) if self.remat else kind

        for index, fields in enumerate(self.residuals):
            x = wrap(self.residual)(**fields, name=f"block_{index}")(x, train)
        if self.kind is not None:
            x = wrap(self.kind)(**self.fields or {}, name="mobilevit")(x, train)
        return x


class Trunk(nn.Module):
    """conv_1 and layer_1 to layer_5, whose maps the heads take.

    Attributes:
        variant: Widths and depths: `channels` of conv_1 and of the stages, and `expansion`.
        output_stride: 32, 16 or 8: the image's size over that of layer_5.
        common: See `layers.Common`.
    """

    variant: Any
    output_stride: int = 32
    common: Common = Common()

    kind: ClassVar[type[nn.Module]]
    """Module of the blocks."""
    residuals: ClassVar[int]
    """Inverted residuals of layer_2; the other stages have one."""

    def block(self, number: int) -> dict[str, Any]:
        """Returns the fields of the block of layer_3, layer_4 or layer_5."""
        raise NotImplementedError

    @property
    def stages(self) -> dict[str, tuple[int, int]]:
        """{"conv_1", "layer_1", ..., "layer_5"} -> (stride, channels)."""
        names = ("conv_1", *(f"layer_{number}" for number in range(1, 6)))
        steps = (*_STRIDES, *(stride for stride, _ in _TAIL[self.output_stride]))
        strides = itertools.accumulate(steps, operator.mul)
        return dict(zip(names, zip(strides, self.variant.channels, strict=True), strict=True))

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Maps images [b, h, w, 3] to {stage: map [b, h, w, c]}."""
        channels = self.variant.channels[0]
        x = ConvBlock(channels, 3, _STRIDES[0], common=self.common, name="conv_1")(images, train)
        features = {"conv_1": x}
        for number in range(1, 6):
            name = f"layer_{number}"
            block = (self.kind, self.block(number)) if number >= 3 else (None, None)
            stage = Stage(self._residuals(number), *block, self.common.remat, name=name)
            features[name] = x = stage(x, train)
        return features

    def _residuals(self, number: int) -> tuple[dict[str, Any], ...]:
        base = {
            "features": self.variant.channels[number],
            "expansion": self.variant.expansion,
            "common": self.common,
        }
        early = [(stride, 1) for stride in _STRIDES[1:]]
        stride, dilation = [*early, *_TAIL[self.output_stride]][number - 1]
        first = base | {"stride": stride, "dilation": dilation}
        return (first, *[base] * (self.residuals - 1)) if number == 2 else (first,)


def dilated(strides: Sequence[int], output_stride: int) -> list[tuple[int, int, int]]:
    """Takes strides out from where an output stride is reached, and dilates what stands behind.

    A convolution whose stride is taken out keeps the dilation that it stood behind; those after it
    have that times the stride (torchvision's `replace_stride_with_dilation`, timm's
    `output_stride`).

    Args:
        strides: Of each part of a network, which its first block has.
        output_stride: Of the image to the last map.

    Returns:
        (stride, dilation of the first block, dilation of the other blocks) of each part.
    """
    found, reached, dilation = [], 1, 1
    for stride in strides:
        before = dilation
        if reached == output_stride:
            stride, dilation = 1, dilation * stride
        reached *= stride
        found.append((stride, before, dilation))
    return found


def check_output_stride(backbone: Any) -> None:
    """Raises ConfigurationError for an output stride that there is none of."""
    if backbone.output_stride not in OUTPUT_STRIDES:
        raise ConfigurationError(
            f"output_stride must be one of {sorted(OUTPUT_STRIDES)}; got {backbone.output_stride!r}"
        )
