"""Building blocks whose best form depends on the platform."""

from mobilevit_jax.ops.depthwise import depthwise_conv, use_form
from mobilevit_jax.ops.pointwise import pointwise

__all__ = ["depthwise_conv", "pointwise", "use_form"]
