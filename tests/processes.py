"""Starts processes with fake CPU devices of their own, for tests of what several do together."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_address() -> str:
    """Returns localhost with a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start(
    module: str,
    arguments: Sequence[object],
    *,
    devices: int,
    environment: Mapping[str, object] | None = None,
) -> subprocess.Popen[str]:
    """Starts `python -m MODULE ARGUMENTS` in the root of the checkout; both outputs in one pipe.

    Args:
        module: The module.
        arguments: Its arguments.
        devices: How many fake devices it has.
        environment: Added to this process's own.
    """
    own = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "500",
    }
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **own, **{k: str(v) for k, v in (environment or {}).items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes: Sequence[subprocess.Popen[str]], seconds: float = 500) -> list[str]:
    """Waits for processes to end and returns what each wrote; none outlives this call."""
    try:
        return [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
