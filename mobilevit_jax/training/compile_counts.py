"""Counts the programs that JAX compiles, and those that its persistent cache had."""

import threading
from typing import Self

import jax

# JAX records the first for every program, whether it was compiled or read.
_READY = "/jax/core/compile/backend_compile_duration"
_READ = "/jax/compilation_cache/cache_hits"


class Compilations:
    """Context manager that counts while it is open.

    Attributes:
        programs: Programs that were compiled or read from the persistent cache; those that this
            process had already are not counted.
        cached: Those of them that were read.
    """

    def __init__(self, *, own_thread: bool = False) -> None:
        """Counts nothing yet.

        Args:
            own_thread: Whether only what the calling thread compiles is counted.
        """
        self.programs = self.cached = 0
        self._thread = threading.get_ident() if own_thread else None

    def __enter__(self) -> Self:
        jax.monitoring.register_event_duration_secs_listener(self._ready)
        jax.monitoring.register_event_listener(self._read)
        return self

    def __exit__(self, *exception: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._ready)
        jax.monitoring.unregister_event_listener(self._read)

    def _ready(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.programs += event == _READY and self._counts()

    def _read(self, event: str, **kwargs: str | int) -> None:
        self.cached += event == _READ and self._counts()

    def _counts(self) -> bool:
        return self._thread in (None, threading.get_ident())
