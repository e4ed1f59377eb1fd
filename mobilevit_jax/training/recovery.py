"""What a run does about a loss or gradient that is not finite."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from mobilevit_jax.errors import check_fields
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
        check_fields(
            self,
            "recovery.",
            non_finite=(self.non_finite in ("stop", "skip"), "'stop' or 'skip'"),
            attempts=(self.attempts >= 1, "at least 1"),
        )


def skip_to(state: TrainState, step: int) -> TrainState:
    """Moves a state's clock on to a step without training: its own, and the learning rate's.

    Adam's own count of updates stays, since its moments have had no more.
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
