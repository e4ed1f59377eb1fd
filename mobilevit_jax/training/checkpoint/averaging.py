"""The mean of several checkpoints."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training.checkpoint import Checkpoints
from mobilevit_jax.training.pytree import LeafPath, describe, fill, leaves, place


def average(checkpoints: Checkpoints, steps: Sequence[int], abstract: Any) -> Any:
    """Averages checkpoints, as CVNets does with the best of a run.

    Args:
        checkpoints: Where they are.
        steps: Which ones, one or more, such as those of `checkpoints.best()`.
        abstract: The part of the state to read, as for a partial `Checkpoints.restore`.

    Returns:
        `abstract` with the mean of every floating-point leaf, taken in float64; other leaves, such
        as counters, are those of the highest step.

    Raises:
        ConfigurationError: If no step is given.
        DataError: As `Checkpoints.restore` does.
    """
    if not steps:
        raise ConfigurationError("there is no checkpoint to average")
    like = leaves(abstract)
    on_host = fill(abstract, {path: describe(leaf) for path, leaf in like.items()})
    chosen = sorted(set(steps))
    total: dict[LeafPath, Any] = {}
    for step in chosen:
        for path, value in leaves(checkpoints.restore(step, on_host, partial=True)).items():
            if jnp.issubdtype(value.dtype, jnp.floating):
                total[path] = total.get(path, 0.0) + value.astype(np.float64)
            else:
                total[path] = value
    for path, leaf in like.items():
        if jnp.issubdtype(describe(leaf).dtype, jnp.floating):
            total[path] = (total[path] / len(chosen)).astype(describe(leaf).dtype)
        total[path] = place(total[path], leaf)
    return fill(abstract, total)
