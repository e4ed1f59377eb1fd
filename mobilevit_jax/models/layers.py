"""Convolution, batch norm and their blocks, as CVNets v0.1 defines and initialises them.

Layout is [b, h, w, c]; padding is always symmetric and explicit ((k - 1) / 2 * dilation), because
'SAME' pads stride-2 convolutions on one side only and shifts everything.
"""

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError
from jax import lax

from mobilevit_jax.ops import conv, depthwise_conv, dropout, pointwise, recomputed

Dtype = jnp.dtype | type | str

BATCH_NORM_MOMENTUM, BATCH_NORM_EPS = 0.9, 1e-5


@dataclass(frozen=True)
class Initializer:
    """Draws a kernel: a distribution of scale 1 times what the shape asks for.

    Attributes:
        draw: `jax.random.normal`, or another of its arguments (key, shape, dtype) that draws the
            same first elements for any shape.
        scale: From the kernel's shape.
    """

    draw: Callable[..., jax.Array]
    scale: Callable[[tuple[int, ...]], float]

    def __call__(
        self, key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32, /
    ) -> jax.Array:
        """Returns a kernel of this shape."""
        return self.scale(shape) * self.draw(key, shape, dtype)


# Kaiming normal of [k, k, in, out], not truncated, with gain sqrt(2) over fan_out = k * k * out,
# and that also for depthwise kernels: the fan is not divided by the groups (CVNets v0.1,
# `misc/init_utils.py`). Xavier uniform of the same.
conv_init = Initializer(
    jax.random.normal, lambda shape: (2.0 / (shape[0] * shape[1] * shape[3])) ** 0.5
)
xavier_init = Initializer(
    functools.partial(jax.random.uniform, minval=-1),
    lambda shape: (6 / (shape[0] * shape[1] * (shape[2] + shape[3]))) ** 0.5,
)
dense_init = Initializer(jax.random.normal, lambda shape: 0.02)
small_dense_init = Initializer(jax.random.normal, lambda shape: 0.01)


@dataclass(frozen=True)
class Common:
    """What all layers of a model share.

    Attributes:
        bn_axis_name: Devices' axis over which batch statistics are averaged, None for each
            device's own.
        bn_unbiased: Whether running variances are unbiased, as PyTorch keeps them.
        remat: Whether the backward pass computes the blocks' activations again to save memory.
        freeze_backbone: Whether training leaves everything below the head as it is: no dropout
            there, running statistics used and kept, no gradient. Without `train` it changes
            nothing.
        dtype: Type of the computation; parameters, statistics and outputs are float32.
    """

    bn_axis_name: str | None = None
    bn_unbiased: bool = True
    remat: bool = False
    freeze_backbone: bool = False
    dtype: Dtype = jnp.float32


@flax.struct.dataclass
class Pending:
    """A map that the depthwise convolution behind it finishes; see `ops.depthwise_conv`.

    Attributes:
        x: [b, h, w, c], as the convolution before left it.
        operands: Factor and offset of the norm, [1, 1, 1, c] each, or nothing.
        finish: `finish(x, *operands)` is the map; None if it is `x`.
    """

    x: jax.Array
    operands: tuple[jax.Array, ...] = ()
    finish: Callable[..., jax.Array] | None = flax.struct.field(pytree_node=False, default=None)

    def finished(self, train: bool) -> jax.Array:
        """Returns the map; see `ops.recomputed` for what training keeps."""
        if self.finish is None:
            return self.x
        if not train:
            return self.finish(self.x, *self.operands)
        return recomputed(self.finish, self.x, *self.operands)


class Conv(nn.Module):
    """A convolution without norm; 1x1 as a matrix product, depthwise by `ops.depthwise_conv`.

    Attributes:
        features: Output channels.
        kernel_size: Side of the square kernel, odd.
        stride: Step in pixels.
        dilation: Distance of taps in pixels.
        depthwise: Whether every channel has its own filter (`features` equals the input's).
        use_bias: Whether a bias is added.
        dtype: Type of the computation; the kernel is kept in float32.
        kernel_init: Draws the kernel.
        first_bias: What every number of the bias starts as.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False
    use_bias: bool = False
    dtype: Dtype = jnp.float32
    kernel_init: Callable[..., jax.Array] = conv_init
    first_bias: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        before: Callable[..., jax.Array] | None = None,
        operands: tuple[jax.Array, ...] = (),
    ) -> jax.Array:
        """Convolves `x` [b, h, w, c] to [b, ceil(h / stride), ceil(w / stride), features].

        With `before`, it convolves `before(x, *operands)`; see `ops.depthwise_conv`.
        """
        k = self.kernel_size
        shape = (k, k, 1 if self.depthwise else x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        bias = None
        if self.use_bias:
            init = nn.initializers.constant(self.first_bias)
            bias = self.param("bias", init, (self.features,)).astype(self.dtype)
        if before is not None and not self.depthwise:
            x, before, operands = before(x, *operands), None, ()
        x = x.astype(self.dtype)
        if self.depthwise:
            x = depthwise_conv(x, kernel, self.stride, self.dilation, before, operands)
        elif k == 1:
            return pointwise(x[:, :: self.stride, :: self.stride], kernel[0, 0], bias)
        else:
            x = conv(x, kernel, self.stride, self.dilation)
        return x if bias is None else x + bias.reshape(1, 1, 1, -1)


class Dense(nn.Module):
    """A linear layer with bias, as `nn.Dense` but by `ops.pointwise`.

    Attributes:
        features: Width of the output.
        dtype: Type of the computation; the parameters are kept in float32.
        kernel_init: Draws the kernel.
    """

    features: int
    dtype: Dtype = jnp.float32
    kernel_init: Callable[..., jax.Array] = dense_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., c] to [..., features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return pointwise(*(array.astype(self.dtype) for array in (x, kernel, bias)))


class Dropout(nn.Module):
    """Dropout in training, by the key "dropout"; as `nn.Dropout` but by `ops.dropout`.

    What is dropped depends on the key and on the module's path: called twice, a module drops the
    same elements.

    Attributes:
        rate: Share of the elements that is dropped.
        channels: Whether it drops whole channels of a map instead.
    """

    rate: float
    channels: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Returns `x` with some elements dropped and the others scaled, or as it is.

        Args:
            x: Any shape; [b, h, w, c] for channels.
            train: Whether anything is dropped.

        Raises:
            flax.errors.InvalidRngError: If there is no key "dropout".
        """
        if not train or self.rate == 0 or self.is_initializing():
            return x
        if self.scope is None or not self.has_rng("dropout"):
            raise InvalidRngError(
                'dropout in training needs a random key: apply(..., rngs={"dropout": key})'
            )
        # `make_rng` would fold the path into the key by a compiled loop for every module.
        rng: Any = self.scope.rngs["dropout"]
        salt = zlib.crc32("/".join(map(str, rng.suffix)).encode())
        return dropout(x, self.rate, rng.rng, salt, (1, 2) if self.channels else ())


class BatchNorm(nn.Module):
    """Batch norm with PyTorch's running statistics (Linen's keeps the biased variance).

    Attributes:
        momentum: Share of the old running statistics that stays (0.9 is PyTorch's 0.1).
        eps: Added to the variance.
        unbiased: Whether the running variance is n / (n - 1) times the batch's, as PyTorch keeps
            it; the batch itself is always normalised by the biased one.
        axis_name: Devices' axis over which the batch statistics are averaged, or None for each
            device's own (the paper's classification runs; CVNets v0.1 `batch_norm_2d`).
        dtype: Type of the output; the statistics are float32.
    """

    momentum: float = BATCH_NORM_MOMENTUM
    eps: float = BATCH_NORM_EPS
    unbiased: bool = True
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalises `x` [b, h, w, c] by the batch's statistics or by the running ones."""
        return self.pending(x, train).finished(train)

    @nn.compact
    def pending(
        self, x: jax.Array, train: bool = False, act: Callable[[jax.Array], jax.Array] | None = None
    ) -> Pending:
        """Takes the statistics and leaves the rest, with an activation that follows, for later."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if train:
            mean, var, count = self._statistics(x)
            if not self.is_initializing():
                kept = var * (count / max(count - 1, 1)) if self.unbiased else var
                running_mean.value += (1 - self.momentum) * (mean - running_mean.value)
                running_var.value += (1 - self.momentum) * (kept - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * lax.rsqrt(var + self.eps)
        factor, offset = (v.reshape(1, 1, 1, -1) for v in (factor, bias - mean * factor))

        def normalised(x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
            y = (x * factor + offset).astype(self.dtype)
            return y if act is None else act(y)

        return Pending(x, (factor, offset), normalised)

    def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Returns mean [c], biased variance [c] and the number of values behind each."""
        x = x.astype(jnp.float32)
        axes = tuple(range(x.ndim - 1))
        mean, square = jnp.mean(x, axes), jnp.mean(lax.square(x), axes)
        count = x.size // x.shape[-1]
        if self.axis_name is not None and not self.is_initializing():
            mean, square = lax.pmean((mean, square), self.axis_name)
            count *= lax.axis_size(self.axis_name)
        return mean, jnp.maximum(square - lax.square(mean), 0.0), count


class ConvBlock(nn.Module):
    """Convolution, batch norm and activation.

    With parameters that `fuse_batch_norm` made, the convolution has a bias and no norm follows.

    Attributes:
        features: Output channels.
        kernel_size: Side of the kernel.
        stride: Step in pixels.
        dilation: Distance of taps in pixels.
        depthwise: Whether every channel has its own filter.
        act: The activation, None for none.
        kernel_init: Draws the kernel.
        bn_momentum: See `BatchNorm`.
        bn_eps: See `BatchNorm`.
        common: See `Common`.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False
    act: Callable[[jax.Array], jax.Array] | None = nn.silu
    kernel_init: Callable[..., jax.Array] = conv_init
    bn_momentum: float = BATCH_NORM_MOMENTUM
    bn_eps: float = BATCH_NORM_EPS
    common: Common = Common()

    def __call__(self, x: jax.Array | Pending, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to [b, ceil(h / stride), ceil(w / stride), features].

        Args:
            x: The map; if it is pending, a depthwise convolution finishes it on the way.
            train: Whether the norm takes the batch's statistics.

        Raises:
            ValueError: If the norm is fused, and it is to be trained.
        """
        return self.pending(x, train).finished(train)

    @nn.compact
    def pending(self, x: jax.Array | Pending, train: bool = False) -> Pending:
        """As a call, but norm and activation are left to the depthwise convolution behind it."""
        fused = not (self.is_initializing() or self.has_variable("params", "norm"))
        if fused and train:
            raise ValueError("batch norms that are fused into convolutions cannot be trained")
        taken = x if isinstance(x, Pending) else Pending(x)
        y = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.depthwise,
            use_bias=fused,
            dtype=self.common.dtype,
            kernel_init=self.kernel_init,
            name="conv",
        )(taken.x, taken.finish, taken.operands)
        if fused:
            return Pending(y, (), self.act)
        common = self.common
        norm = BatchNorm(
            self.bn_momentum,
            self.bn_eps,
            unbiased=common.bn_unbiased,
            axis_name=common.bn_axis_name,
            dtype=common.dtype,
            name="norm",
        )
        return norm.pending(y, train, self.act)


class InvertedResidual(nn.Module):
    """MobileNetv2 block: 1x1 expand, 3x3 depthwise, 1x1 project without activation (CVNets v0.1).

    The input is added when the stride is 1 and the channels stay.

    Attributes:
        features: Output channels.
        expansion: Hidden channels as a multiple of the input's.
        stride: Step of the depthwise convolution.
        dilation: Dilation of the depthwise convolution.
        expand: Whether it begins with the 1x1 expansion.
        act: The activation after expansion and depthwise convolution.
        common: See `Common`.
    """

    features: int
    expansion: int
    stride: int = 1
    dilation: int = 1
    expand: bool = True
    act: Callable[[jax.Array], jax.Array] = nn.silu
    common: Common = Common()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to [b, ceil(h / stride), ceil(w / stride), features]."""
        hidden = x.shape[-1] * self.expansion
        y: jax.Array | Pending = x
        if self.expand:
            block = ConvBlock(hidden, act=self.act, common=self.common, name="expand_1x1")
            y = block.pending(x, train)
        y = ConvBlock(
            hidden,
            kernel_size=3,
            stride=self.stride,
            dilation=self.dilation,
            depthwise=True,
            act=self.act,
            common=self.common,
            name="conv_3x3",
        )(y, train)
        y = ConvBlock(self.features, act=None, common=self.common, name="reduce_1x1")(y, train)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y
