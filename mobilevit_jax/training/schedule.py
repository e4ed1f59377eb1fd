"""Warm-up by step, then cosine by epoch, as CVNets v0.1 steps them (paper section 4.1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mobilevit_jax.errors import ConfigurationError, check_fields

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the run.

    Attributes:
        peak: Learning rate after the warm-up, where the cosine starts.
        start: Learning rate of step 0.
        end: Learning rate at which the cosine ends.
        warmup_steps: Steps of warm-up.
        warmup_power: 1 for a linear warm-up, 2 for the quadratic one of YOLOX.
        hold_epochs: Epochs at the end of the run in which the rate stays at `end`; the cosine is
            over by then.
        cosine_by: "epoch" holds the rate constant inside an epoch, as CVNets v0.1 does; "step"
            lets it fall smoothly, which suits runs of few epochs.
    """

    peak: float = 2e-3
    start: float = 2e-4
    end: float = 2e-4
    warmup_steps: int = 3000
    warmup_power: int = 1
    hold_epochs: int = 0
    cosine_by: Literal["epoch", "step"] = "epoch"


def warmup_cosine(config: ScheduleConfig, steps_of_epochs: Sequence[int]) -> Schedule:
    """Returns the learning rate as a function of the step, usable inside a compiled step.

    The cosine has no offset for the warm-up: it counts from epoch 0, so the rate drops a little
    where the warm-up ends. With a multi-scale sampler epochs differ in length.

    Raises:
        ConfigurationError: If a rate or the warm-up is negative, or the run has no step.
    """
    if min(config.peak, config.start, config.end) < 0 or config.peak == 0:
        raise ConfigurationError(
            f"learning rates must not be negative and the peak above 0; got {config}"
        )
    if sum(steps_of_epochs) < 1:
        raise ConfigurationError("the run has no step; raise epochs or give it more examples")
    check_fields(
        config,
        warmup_steps=(config.warmup_steps >= 0, "0 or more"),
        warmup_power=(config.warmup_power >= 1, "1 or more"),
        hold_epochs=(
            0 <= config.hold_epochs < len(steps_of_epochs),
            f"0 or more, and less than the {len(steps_of_epochs)} epochs of the run",
        ),
        cosine_by=(config.cosine_by in ("epoch", "step"), "'epoch' or 'step'"),
    )
    boundaries = np.cumsum(steps_of_epochs)
    by_epoch = config.cosine_by == "epoch"
    falling = len(boundaries) - config.hold_epochs
    period = falling if by_epoch else int(boundaries[falling - 1])
    warmup = optax.linear_schedule(config.start, config.peak, max(config.warmup_steps, 1))
    if config.warmup_power > 1:
        warmup = _raised(config)
    cosine = optax.cosine_decay_schedule(config.peak, period, alpha=config.end / config.peak)

    def learning_rate(step: jax.typing.ArrayLike) -> jax.Array:
        epoch = jnp.searchsorted(jnp.asarray(boundaries), step, side="right")
        decayed = cosine(epoch if by_epoch else step)
        return jnp.where(jnp.asarray(step) < config.warmup_steps, warmup(step), decayed)

    return learning_rate


def _raised(config: ScheduleConfig) -> Schedule:
    """Returns the warm-up along a power of the step."""
    steps = max(config.warmup_steps, 1)
    rise = config.peak - config.start
    return lambda step: config.start + rise * (jnp.asarray(step) / steps) ** config.warmup_power
