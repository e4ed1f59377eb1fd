"""What a run does about a loss or gradient that is not finite."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training.state import TrainState


@dataclass(frozen=True)
class RecoveryConfig:
    """What happens when a loss or gradient is not finite.

    Attributes:
        non_finite: "stop" ends the run and names the step. "skip" goes back to the newest
            checkpoint that the configuration asked for (or to the start) and leaves out the
            batches from there to where it was noticed, at the next row of metrics.jsonl or
            checkpoint. Step and learning rate go on as if they had been trained on.
        attempts: How often "skip" may go back to the same checkpoint before the run ends.
    """

    non_finite: Literal["stop", "skip"] = "stop"
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.non_finite not in ("stop", "skip"):
            raise ConfigurationError(
                f"recovery.non_finite must be 'stop' or 'skip'; got {self.non_finite!r}"
            )
        if self.attempts < 1:
            raise ConfigurationError(f"recovery.attempts must be at least 1; got {self.attempts}")


def skip_to(state: TrainState, step: int) -> TrainState:
    """Moves a state's clock without training: its step, and the step of the learning rate.

    Adam's own count of updates stays, since its moments have had no more.

    Args:
        state: The state, of an earlier step.
        step: The step to go on from.
    """
    clock = jnp.asarray(step, jnp.int32)

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    opt_state = jax.tree.map(
        lambda node: node._replace(count=clock) if is_schedule(node) else node,
        state.opt_state,
        is_leaf=is_schedule,
    )
    meter = {**state.meter, "skipped_steps": jnp.asarray(step - state.step, jnp.float32)}
    return jax.device_get(replace(state, step=clock, opt_state=opt_state, meter=meter))
