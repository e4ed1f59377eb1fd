"""Settings of the C library's memory allocator that a training step on a CPU is faster with.

XLA asks for a step's temporary arrays anew at every step. By default glibc gives blocks that large
back to the operating system when they are freed, and the next step pays for every page a second
time: up to a third of a step's time went into that. Kept, the memory is there for the next step.

Only the main thread's arena can keep large blocks. The other threads have arenas of their own all
the same: a compilation leaves an arena in thousands of pieces, among which every later allocation
from it has to search, and the threads of a step would wait for one another.
"""

import contextlib
import ctypes
import os
import sys

# From glibc's malloc.h. Thresholds end at 2 GiB, which a block may pass; "never" has no end.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER_TRIM, _NO_MMAP = -1, 0

_ASYNC_DISPATCH = "jax_cpu_enable_async_dispatch"

_kept = False

_ENVIRONMENT = (
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)


def keep_freed_memory() -> bool:
    """Makes freed memory stay with the process, for its next allocation.

    The memory that the process holds then falls by `return_freed_memory` alone. Blocks of more
    than 64 MiB are kept if the main thread asked for them.

    Returns:
        Whether it was done: not without glibc, and not where one of the environment variables
        that set the same ($MALLOC_ARENA_MAX and its kin, $GLIBC_TUNABLES) is set.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _ENVIRONMENT):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    settings = ((_MMAP_MAX, _NO_MMAP), (_TRIM_THRESHOLD, _NEVER_TRIM))
    global _kept
    _kept = all([mallopt(parameter, value) == 1 for parameter, value in settings])
    return _kept


def keep_memory_of_steps() -> bool:
    """Makes the memory of a computation stay for the next one; see `keep_freed_memory`.

    On a CPU, JAX then computes in the thread that calls, which is where it asks for the memory.
    That is settled when JAX first looks for its devices, so call it before, and not where
    $JAX_CPU_ENABLE_ASYNC_DISPATCH is set.

    Returns:
        What `keep_freed_memory` does; where it is not done, JAX is left as it is.
    """
    kept = keep_freed_memory()
    if kept and _ASYNC_DISPATCH.upper() not in os.environ:
        import jax

        jax.config.update(_ASYNC_DISPATCH, False)
    return kept


def return_freed_memory() -> None:
    """Gives back to the system what is free, if `keep_freed_memory` has kept it.

    For the moment after a compilation, which needs more memory than it leaves in use, and in other
    pieces than a step; and for that after the first steps. glibc before 2.38 asks for a little more
    than an aligned block takes, so that a step's block does not fit where the last one was once the
    memory beside it is in use: the place of one of the first steps often stays empty.
    """
    if _kept:
        trim()


def trim() -> None:
    """Gives back to the system what is free, where the C library can."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has none
            ctypes.CDLL(None).malloc_trim(0)
