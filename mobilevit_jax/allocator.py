"""Settings of the C library's memory allocator that a training step on a CPU is faster with.

XLA asks for a step's temporary arrays anew at every step. By default glibc gives blocks that large
back to the operating system when they are freed, and the next step pays for every page a second
time: up to a third of a step's time went into that. Kept, the memory is there for the next step.
"""

import contextlib
import ctypes
import os
import sys

# From glibc's malloc.h. Thresholds end at 2 GiB, which a block may pass; "never" has no end.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER_TRIM, _NO_MMAP, _ONE_ARENA = -1, 0, 1

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

    The memory that the process holds then falls by `return_freed_memory` alone. One arena serves
    all threads, since the others cannot hold large blocks. Call it before other threads are
    started.

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
    settings = (
        (_ARENA_MAX, _ONE_ARENA),
        (_MMAP_MAX, _NO_MMAP),
        (_TRIM_THRESHOLD, _NEVER_TRIM),
    )
    global _kept
    _kept = all([mallopt(parameter, value) == 1 for parameter, value in settings])
    return _kept


def return_freed_memory() -> None:
    """Gives back to the system what is free, if `keep_freed_memory` has kept it.

    For the moment after a compilation, which needs more memory than it leaves in use, and in other
    pieces than a step.
    """
    if _kept:
        trim()


def trim() -> None:
    """Gives back to the system what is free, where the C library can."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has none
            ctypes.CDLL(None).malloc_trim(0)
