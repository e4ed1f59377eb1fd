"""Building blocks whose best form depends on the platform."""

from mobilevit_jax.ops.depthwise import depthwise_conv, use_form

__all__ = ["depthwise_conv", "use_form"]
