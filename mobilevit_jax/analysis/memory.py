"""Memory that there is, and the most that a piece of work has held: of a device, or of a process.

Needs nothing but JAX; what a platform does not tell is None.
"""

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilevit_jax.allocator import trim
from mobilevit_jax.errors import ConfigurationError

# jaxlib's class, which type checkers do not know.
Device = Any

_PROCESS, _SYSTEM = Path("/proc/self"), Path("/proc")
# The limit of a container and what it uses, in both versions of Linux's control groups.
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
_RESET_PEAK = "5"  # man 5 proc_pid_clear_refs


@dataclass
class Peak:
    """The most memory that was held while `peak` was open.

    Attributes:
        most: Bytes, of the device where it counts, else resident memory of the whole process with
            its libraries; None where neither can be told.
        before: The same at the start.
        of: "device" or "process".
    """

    most: int | None = None
    before: int | None = None
    of: str = "process"

    @property
    def held(self) -> int | None:
        """What was held beyond what there was at the start; None where it cannot be told."""
        return None if self.most is None or self.before is None else self.most - self.before


@contextlib.contextmanager
def peak(device: Device) -> Iterator[Peak]:
    """Watches the most memory that is held until the block ends; the result is filled in then.

    A device's own peak cannot be set back: it is None if it was reached before the block.

    Args:
        device: Whose memory, or whose process's if it is a CPU.
    """
    watched = Peak()
    statistics = device.memory_stats()
    if statistics:
        watched.of, watched.before = "device", statistics.get("bytes_in_use")
        reached = statistics.get("peak_bytes_in_use")
        yield watched
        now = (device.memory_stats() or {}).get("peak_bytes_in_use")
        watched.most = now if now != reached else None
        return
    release_freed()
    counted = device.platform == "cpu" and _reset_peak()
    watched.before = _kilobytes(_PROCESS / "status", "VmRSS")
    yield watched
    watched.most = _kilobytes(_PROCESS / "status", "VmHWM") if counted else None


def available(device: Device) -> int | None:
    """Returns the bytes that a program may still take on a device; None if nothing tells.

    For a CPU that is what the operating system could give without swapping, or what is left of
    the container's limit if that is less.
    """
    statistics = device.memory_stats()
    if statistics:
        limit, used = statistics.get("bytes_limit"), statistics.get("bytes_in_use", 0)
        return None if not limit else limit - used
    if device.platform != "cpu":
        return None
    release_freed()
    left = [_kilobytes(_SYSTEM / "meminfo", "MemAvailable")]
    for limit, used in _GROUPS:
        with contextlib.suppress(OSError, ValueError):
            left.append(int(limit.read_text()) - int(used.read_text()))
    return min((value for value in left if value is not None), default=None)


def check(needed: int, there: int | None, what: str) -> None:
    """Raises ConfigurationError if a piece of work needs more memory than there is.

    Args:
        needed: Bytes.
        there: Bytes, from `available`.
        what: The work, for the message.
    """
    if there is not None and needed > there:
        raise ConfigurationError(
            f"{what} needs {shown(needed)} of memory, and there are {shown(max(there, 0))}; "
            "choose a smaller batch or size"
        )


def shown(count: float) -> str:
    """Returns bytes for a reader: "1.5 GB", "35 MB"."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def release_freed() -> None:
    """Gives memory that was freed back to the operating system, so that it counts for nobody."""
    gc.collect()
    trim()


def _reset_peak() -> bool:
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except OSError:  # not Linux, or a sandbox that lacks it
        return False
    return True


def _kilobytes(path: Path, field: str) -> int | None:
    """Returns the bytes that a line such as "VmHWM:  1234 kB" tells."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    return None
