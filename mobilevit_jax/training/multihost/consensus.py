"""What the processes of a run agree on, so that they go the same way; with one, nothing is sent."""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# Lengths are rounded up to so many bytes, because each one is compiled for.
_BLOCK = 4096


def from_first_host(value: Any) -> Any:
    """Returns the first process's value in all of them; all must ask at the same point.

    Args:
        value: What JSON can hold; it counts in the first process alone.
    """
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode()
    text += b" " * (-len(text) % _BLOCK)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    first = jax.process_index() == 0
    mine = np.frombuffer(text, np.uint8) if first else np.zeros(length, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(mine)).tobytes())


def highest(value: int) -> int:
    """Returns the highest value of any process; all must ask at the same point."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))
