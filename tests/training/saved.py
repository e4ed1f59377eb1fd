"""A small state and what saves, compares and kills it; the tests of checkpoints share it."""

import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mobilevit_jax.training.checkpoint import Checkpoints


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    opt_state: Any
    ema: Any = None


def make_state(step: int = 0, value: float = 1.0, width: int = 3, ema: bool = False) -> State:
    params = {
        "stem": {"kernel": jnp.full((2, width), value, jnp.float32)},
        "head": {"bias": jnp.full((width,), -value, jnp.bfloat16)},
    }
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(1e-3))
    return State(
        step=jnp.int32(step),
        params=params,
        opt_state=optimizer.init(params),
        ema=params if ema else None,
    )


def save(directory: Path, values: Mapping[int, float | None], **options: Any) -> None:
    """Saves a state a step, with `top1` where it is not None."""
    with Checkpoints(directory, metric="top1", **options) as checkpoints:
        for step, top1 in values.items():
            metrics = None if top1 is None else {"top1": top1, "loss": 1.0}
            checkpoints.save(step, make_state(step, step), metadata={"step": step}, metrics=metrics)


def assert_equal(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)
    assert jax.tree.structure(left) == jax.tree.structure(right)


def run_child(
    code: str, *arguments: object, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own, its output captured."""
    command = [*prefix, sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)
