"""Building blocks whose best form depends on the platform, or that keep less for training."""

from mobilevit_jax.ops.attention import attention, attention_map
from mobilevit_jax.ops.convolution import conv
from mobilevit_jax.ops.depthwise import depthwise_conv
from mobilevit_jax.ops.dispatch import use_form
from mobilevit_jax.ops.dropout import dropout
from mobilevit_jax.ops.layer_norm import layer_norm
from mobilevit_jax.ops.pointwise import pointwise

__all__ = [
    "attention",
    "attention_map",
    "conv",
    "depthwise_conv",
    "dropout",
    "layer_norm",
    "pointwise",
    "use_form",
]
