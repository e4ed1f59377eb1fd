"""The neck of YOLOX (Ge et al. 2021): three maps tell one another what they see, down and up.

A path aggregation network (Liu et al. 2018) of cross stage partial blocks (Wang et al. 2020), on
the widths of the backbone.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from mobilevit_jax.models.layers import Common, ConvBlock, Initializer, xavier_init

# PyTorch's own rule for convolutions, uniform and of variance 1 / (3 * fan_in), which YOLOX keeps.
kernel_init = Initializer(xavier_init.draw, lambda shape: (shape[0] * shape[1] * shape[2]) ** -0.5)


def block(
    features: int,
    name: str,
    common: Common,
    kernel_size: int = 1,
    stride: int = 1,
    depthwise: bool = False,
) -> ConvBlock:
    """Returns a convolution with YOLOX's batch norm and SiLU."""
    return ConvBlock(
        features,
        kernel_size,
        stride,
        depthwise=depthwise,
        kernel_init=kernel_init,
        bn_momentum=0.97,
        bn_eps=1e-3,
        common=common,
        name=name,
    )


class SeparableConv(nn.Module):
    """3x3 depthwise and 1x1 convolution, with batch norm and SiLU after both.

    Attributes:
        features: Output channels.
        stride: Step of the depthwise convolution.
        common: See `layers.Common`.
    """

    features: int
    stride: int = 1
    common: Common = Common()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to [b, ceil(h / stride), ceil(w / stride), features]."""
        x = block(x.shape[-1], "depthwise", self.common, 3, self.stride, True)(x, train)
        return block(self.features, "pointwise", self.common)(x, train)


def conv_3x3(
    features: int, name: str, common: Common, depthwise: bool, stride: int = 1
) -> ConvBlock | SeparableConv:
    """Returns a 3x3 convolution, or a separable one in its place."""
    if depthwise:
        return SeparableConv(features, stride, common, name=name)
    return block(features, name, common, 3, stride)


class CSP(nn.Module):
    """A bottleneck without shortcut on one half of the channels, and the other half beside it.

    Attributes:
        features: Output channels.
        depthwise: Whether the 3x3 convolution is separable.
        common: See `layers.Common`.
    """

    features: int
    depthwise: bool = False
    common: Common = Common()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to [b, h, w, features]."""
        half, common = max(self.features // 2, 1), self.common
        y = block(half, "through", common)(x, train)
        y = block(half, "bottleneck_1x1", common)(y, train)
        y = conv_3x3(half, "bottleneck_3x3", common, self.depthwise)(y, train)
        y = jnp.concatenate([y, block(half, "beside", common)(x, train)], axis=-1)
        return block(self.features, "project", common)(y, train)


class PAFPN(nn.Module):
    """The neck; its maps have the sizes and widths of those that it takes.

    Attributes:
        depthwise: Whether 3x3 convolutions are separable.
        common: See `layers.Common`.
    """

    depthwise: bool = False
    common: Common = Common()

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool = False) -> tuple[jax.Array, ...]:
        """Maps three maps [b, h, w, c], finest first, to as many of the same shapes.

        Args:
            maps: The sides of each are whole multiples of those of the next.
            train: Whether batch statistics are on.
        """
        p3, p4, p5 = (x.astype(self.common.dtype) for x in maps)
        lateral_5 = block(p4.shape[-1], "lateral_5", self.common)(p5, train)
        x = self._joined("top_down_4", _enlarged(lateral_5, p4), p4, p4, train)
        lateral_4 = block(p3.shape[-1], "lateral_4", self.common)(x, train)
        n3 = self._joined("top_down_3", _enlarged(lateral_4, p3), p3, p3, train)
        n4 = self._joined(
            "bottom_up_4", self._reduced(3, n3, lateral_4, train), lateral_4, p4, train
        )
        n5 = self._joined(
            "bottom_up_5", self._reduced(4, n4, lateral_5, train), lateral_5, p5, train
        )
        return n3, n4, n5

    def _joined(
        self, name: str, x: jax.Array, y: jax.Array, like: jax.Array, train: bool
    ) -> jax.Array:
        csp = CSP(like.shape[-1], self.depthwise, self.common, name=name)
        return csp(jnp.concatenate([x, y], axis=-1), train)

    def _reduced(self, level: int, x: jax.Array, like: jax.Array, train: bool) -> jax.Array:
        """Reduces a map to the size of a coarser one; its channels stay."""
        step = x.shape[1] // like.shape[1]
        name = f"downsample_{level}"
        return conv_3x3(x.shape[-1], name, self.common, self.depthwise, step)(x, train)


def _enlarged(x: jax.Array, like: jax.Array) -> jax.Array:
    """Repeats the places of a map until it has the size of a finer one."""
    step = like.shape[1] // x.shape[1]
    return x.repeat(step, axis=1).repeat(step, axis=2)
