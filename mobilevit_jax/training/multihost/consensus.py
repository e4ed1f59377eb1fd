"""What the processes of a run agree on, so that they go the same way; with one, nothing is sent."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mobilevit_jax.errors import MobileViTError

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


def first_process_does(act: Callable[[], object], failed: MobileViTError) -> None:
    """Does something in the first process; if that fails, all raise. All must ask at one point.

    Args:
        act: What is done.
        failed: Raised in the other processes; the first one's own error says why.
    """
    error: Exception | None = None
    if jax.process_index() == 0:
        try:
            act()
        except (MobileViTError, OSError) as caught:
            error = caught
    if highest(error is not None):
        raise error or failed
