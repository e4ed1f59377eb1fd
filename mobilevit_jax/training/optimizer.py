"""AdamW as the paper uses it: decay on every tensor unless told otherwise."""

from dataclasses import dataclass

import jax
import optax

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training.schedule import Schedule


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and what surrounds it.

    Attributes:
        weight_decay: Decoupled decay, multiplied by the learning rate.
        decay_one_dimensional: Whether biases and norm scales decay too, as in the paper's runs
            (CVNets v0.1: `no_decay_bn_filter_bias: false`).
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root of the second moment.
        clip_norm: Largest global norm of the gradient, or None for no clipping (the recipe's).
        accumulation: Parts that each device splits its batch into to save memory; their gradients
            are averaged, batch norm sees one part at a time.
    """

    weight_decay: float = 0.01
    decay_one_dimensional: bool = True
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip_norm: float | None = None
    accumulation: int = 1


def create_optimizer(
    config: OptimizerConfig, learning_rate: Schedule
) -> optax.GradientTransformation:
    """Builds the optimizer.

    Raises:
        ConfigurationError: If a field is out of range.
    """
    clips_to_nothing = config.clip_norm is not None and config.clip_norm <= 0
    if config.weight_decay < 0 or config.accumulation < 1 or clips_to_nothing:
        raise ConfigurationError(
            "weight_decay must be 0 or more, accumulation 1 or more and clip_norm above 0; "
            f"got {config}"
        )

    def at_least_two_axes(params: optax.Params) -> optax.Params:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    adamw = optax.adamw(
        learning_rate,
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=None if config.decay_one_dimensional else at_least_two_axes,
    )
    if config.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
