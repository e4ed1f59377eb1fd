"""How many cores there are to use."""

import os


def usable_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has none
        return os.cpu_count() or 1
