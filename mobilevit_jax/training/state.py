"""What a training step takes and returns."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from mobilevit_jax.errors import check_fields
from mobilevit_jax.models.initial import initialise

NEVER = np.iinfo(np.int32).max


@dataclass(frozen=True)
class EMAConfig:
    """Exponential moving average of parameters and running statistics.

    Attributes:
        decay: Share of the average that stays at each step; 0.9995 in the paper's 300 epochs
            (CVNets v0.1: momentum 0.0005). A run of few steps needs a smaller one. 0 keeps none.
        warmup: Whether the decay starts small, min(decay, (1 + step) / (10 + step)), so that a
            short run does not average over its initial weights.
        ramp_steps: Where above 0, the decay grows towards `decay` by its share 1 - exp(-n /
            ramp_steps) after n steps instead; YOLOX has 2,000.
    """

    decay: float = 0.9995
    warmup: bool = False
    ramp_steps: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            "ema.",
            decay=(0 <= self.decay < 1, "in [0, 1)"),
            ramp_steps=(self.ramp_steps >= 0, "0 or more"),
            warmup=(not (self.warmup and self.ramp_steps), "off where ema.ramp_steps is set"),
        )


@flax.struct.dataclass
class TrainState:
    """State of a run; a pure function of its configuration and the step.

    Attributes:
        step: Steps done, int32 scalar: the only clock.
        params: Parameters, float32.
        batch_stats: Running statistics of the batch norms.
        opt_state: The optimizer's.
        ema: {"params", "batch_stats"} averaged, or {} if no average is kept.
        meter: Sums since the last row of the log; "bad_step" is the first step since whose loss
            or gradient was not finite, "skipped_steps" the steps left out because of one.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    meter: dict[str, jax.Array]

    @property
    def variables(self) -> dict[str, Any]:
        """The raw weights as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    ema: EMAConfig,
    metrics: tuple[str, ...],
    seed: int,
) -> TrainState:
    """Initialises a run from scratch, without compiling the model; cannot be traced itself.

    `metrics` are the names of the sums that the task reports.
    """
    drawn = initialise(model, jax.random.key(seed))
    variables = jax.device_put(traverse_util.unflatten_dict(drawn))
    # Compiled once and run once: optimising the code would take longer than running it.
    begin = jax.jit(
        lambda variables: state_from(variables, optimizer, ema, metrics),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return begin(variables)


def state_from(
    variables: Any,
    optimizer: optax.GradientTransformation,
    ema: EMAConfig,
    metrics: tuple[str, ...],
) -> TrainState:
    """Returns the state of step 0 with weights: {"params"}, and "batch_stats" if there are any."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        ema={"params": params, "batch_stats": batch_stats} if ema.decay else {},
        meter=empty_meter(metrics),
    )


def empty_meter(metrics: tuple[str, ...]) -> dict[str, jax.Array]:
    """Returns sums of zero for the task's metrics and the step's own."""
    names = (*metrics, "count", "gradient_norm", "steps", "skipped_steps")
    return {name: jnp.zeros((), jnp.float32) for name in names} | {
        "bad_step": jnp.asarray(NEVER, jnp.int32)
    }


def update_ema(config: EMAConfig, ema: Any, new: Any, step: jax.Array) -> Any:
    """Moves the average towards `new`; `step` counts from 0."""
    if not config.decay:
        return ema
    decay = jnp.float32(config.decay)
    if config.warmup:
        decay = jnp.minimum(decay, (1 + step) / (10 + step))
    if config.ramp_steps:
        decay *= -jnp.expm1(-(1 + step) / config.ramp_steps)
    # By its change, so that the average of what does not move stays exactly what it is.
    return jax.tree.map(lambda old, value: old + (1 - decay) * (value - old), ema, new)
