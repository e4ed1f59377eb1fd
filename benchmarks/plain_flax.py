"""MobileViT as anyone would write it in Flax in an afternoon, to compare programs with.

Nothing here is tuned: `nn.Conv`, `nn.BatchNorm`, `nn.LayerNorm`, `jax.nn.dot_product_attention`,
`nn.Dropout`, optax's AdamW and an average of the weights. It has as many parameters as ours, and
computes the same function of them but for what the biased running variance of Linen changes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from mobilevit_jax.models.backbones.mobilevit import VARIANTS, Variant
from mobilevit_jax.training.parallel import AXIS

_STRIDES = (1, 2, 2, 2, 2)
_DECAY, _SMOOTHING, _EMA = 0.01, 0.1, 0.9995

# Where our modules' parameters stand here, the outer modules first.
_INVERTED = ("1/block_0", *(f"2/block_{i}" for i in range(3)), *(f"{i}/block_0" for i in (3, 4, 5)))
_NAMES = {
    **{f"backbone/layer_{place}": f"InvertedResidual_{i}" for i, place in enumerate(_INVERTED)},
    **{f"backbone/layer_{i + 3}/mobilevit": f"Block_{i}" for i in range(3)},
    **{f"transformer_{i}": f"Transformer_{i}" for i in range(4)},
    **dict.fromkeys(("backbone/conv_1", "expand_1x1", "local_conv"), "ConvBlock_0"),
    **dict.fromkeys(("conv_1x1_exp", "conv_3x3", "project"), "ConvBlock_1"),
    **dict.fromkeys(("reduce_1x1", "fusion"), "ConvBlock_2"),
    **dict.fromkeys(("conv", "local_project"), "Conv_0"),
    **dict.fromkeys(("attention_norm", "final_norm"), "LayerNorm_0"),
    **dict.fromkeys(("attention/qkv", "classifier"), "Dense_0"),
    **{"norm": "BatchNorm_0", "ffn_norm": "LayerNorm_1", "attention/out": "Dense_1"},
    **{"ffn_expand": "Dense_2", "ffn_reduce": "Dense_3"},
}


class ConvBlock(nn.Module):
    """Convolution, batch norm and SiLU."""

    features: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    act: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [b, h, w, c] to [b, h / stride, w / stride, features]."""
        pad = self.kernel_size // 2
        x = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            self.stride,
            ((pad, pad), (pad, pad)),
            feature_group_count=self.groups,
            use_bias=False,
            dtype=self.dtype,
        )(x)
        x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)(x)
        return nn.silu(x) if self.act else x


class InvertedResidual(nn.Module):
    """MobileNetv2's block."""

    features: int
    expansion: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [b, h, w, c] to [b, h / stride, w / stride, features]."""
        hidden = x.shape[-1] * self.expansion
        y = ConvBlock(hidden, dtype=self.dtype)(x, train)
        y = ConvBlock(hidden, 3, self.stride, hidden, dtype=self.dtype)(y, train)
        y = ConvBlock(self.features, act=False, dtype=self.dtype)(y, train)
        return x + y if y.shape == x.shape else y


class Transformer(nn.Module):
    """A pre-norm layer over tokens [b, p, n, dim]; attention runs over n."""

    heads: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens to the same shape."""
        dim, still = x.shape[-1], not train
        y = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)(x)
        y = nn.Dense(3 * dim, dtype=self.dtype)(y)
        y = y.reshape(-1, x.shape[2], 3, self.heads, dim // self.heads)
        y = jax.nn.dot_product_attention(y[:, :, 0], y[:, :, 1], y[:, :, 2])
        y = nn.Dense(dim, dtype=self.dtype)(y.reshape(x.shape))
        x = x + nn.Dropout(self.dropout)(y, deterministic=still)
        y = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)(x)
        y = nn.silu(nn.Dense(2 * dim, dtype=self.dtype)(y))
        y = nn.Dense(dim, dtype=self.dtype)(y)
        return x + nn.Dropout(self.dropout)(y, deterministic=still)


class Block(nn.Module):
    """MobileViT's block, with patches of two by two."""

    dim: int
    depth: int
    variant: Variant
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [b, h, w, c] to the same shape; h and w are even."""
        batch, height, width, channels = x.shape
        y = ConvBlock(channels, 3, dtype=self.dtype)(x, train)
        y = nn.Conv(self.dim, (1, 1), use_bias=False, dtype=self.dtype)(y)
        y = y.reshape(batch, height // 2, 2, width // 2, 2, self.dim)
        y = y.transpose(0, 2, 4, 1, 3, 5).reshape(batch, 4, -1, self.dim)
        for _ in range(self.depth):
            y = Transformer(self.variant.heads, self.variant.dropout, self.dtype)(y, train)
        y = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)(y)
        y = y.reshape(batch, 2, 2, height // 2, width // 2, self.dim)
        y = y.transpose(0, 3, 1, 4, 2, 5).reshape(batch, height, width, self.dim)
        y = ConvBlock(channels, dtype=self.dtype)(y, train)
        y = jnp.concatenate([x, y], -1)
        return ConvBlock(channels, 3, dtype=self.dtype)(y, train)


class MobileViT(nn.Module):
    """The classifier of a published size."""

    size: str
    num_classes: int = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images [b, h, w, 3] in [0, 1] to logits [b, num_classes], float32."""
        variant = VARIANTS[self.size]
        x = ConvBlock(variant.channels[0], 3, 2, dtype=self.dtype)(x, train)
        for index, (features, stride) in enumerate(
            zip(variant.channels[1:], _STRIDES, strict=True)
        ):
            for repeat in range(3 if index == 1 else 1):
                step = 1 if repeat else stride
                x = InvertedResidual(features, variant.expansion, step, self.dtype)(x, train)
            if index >= 2:
                dim, depth = variant.dims[index - 2], variant.depths[index - 2]
                x = Block(dim, depth, variant, self.dtype)(x, train)
        x = ConvBlock(variant.exp_channels, dtype=self.dtype)(x, train).mean((1, 2))
        x = nn.Dropout(0.1)(x, deterministic=not train)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)


def from_ours(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of our classifier of the same size under this module's names."""
    found = {}
    for name, array in traverse_util.flatten_dict(variables, sep="/").items():
        for ours, plain in _NAMES.items():
            name = name.replace(f"/{ours}/", f"/{plain}/")
        found[name] = array
    return traverse_util.unflatten_dict(found, sep="/")


def training_step(model: nn.Module) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """Returns `begin(variables) -> state` and `step(state, batch) -> (state, loss)`, to be pmapped.

    The batch holds "image" uint8 [b, h, w, 3] and "label" [b].
    """
    optimizer = optax.adamw(2e-3, weight_decay=_DECAY)

    def begin(variables: Any) -> Any:
        return {"variables": variables, "optimizer": optimizer.init(variables["params"])} | {
            "average": variables,
            "step": jnp.zeros((), jnp.int32),
        }

    def step(state: Any, batch: Any) -> tuple[Any, jax.Array]:
        key = jax.random.fold_in(jax.random.key(0), state["step"])
        key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            variables = state["variables"] | {"params": params}
            images = batch["image"].astype(jnp.float32) / 255
            logits, new = model.apply(
                variables, images, True, mutable=["batch_stats"], rngs={"dropout": key}
            )
            targets = optax.smooth_labels(
                jax.nn.one_hot(batch["label"], logits.shape[-1]), _SMOOTHING
            )
            return optax.softmax_cross_entropy(logits, targets).mean(), new

        (loss, new), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state["variables"]["params"]
        )
        loss, new, gradients = jax.lax.pmean((loss, new, gradients), AXIS)
        updates, moments = optimizer.update(
            gradients, state["optimizer"], state["variables"]["params"]
        )
        variables = new | {"params": optax.apply_updates(state["variables"]["params"], updates)}
        average = optax.incremental_update(variables, state["average"], 1 - _EMA)
        step = state["step"] + 1
        return {
            "variables": variables,
            "optimizer": moments,
            "average": average,
            "step": step,
        }, loss

    return begin, step
