"""Building blocks whose best form depends on the platform, or that keep less for training."""

from mobilevit_jax.ops.attention import (
    attention_map,
    join_heads,
    self_attention,
    split_heads,
)
from mobilevit_jax.ops.convolution import conv
from mobilevit_jax.ops.depthwise import depthwise_conv
from mobilevit_jax.ops.dispatch import use_form
from mobilevit_jax.ops.dropout import dropout
from mobilevit_jax.ops.layer_norm import layer_norm
from mobilevit_jax.ops.pointwise import pointwise
from mobilevit_jax.ops.recompute import recomputed
from mobilevit_jax.ops.separable_attention import separable_attention, separable_scores

__all__ = [
    "attention_map",
    "conv",
    "depthwise_conv",
    "dropout",
    "join_heads",
    "layer_norm",
    "pointwise",
    "recomputed",
    "self_attention",
    "separable_attention",
    "separable_scores",
    "split_heads",
    "use_form",
]
