"""SIGTERM and SIGINT ask the loop to stop after its step; a second one stops at once."""

import signal
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """Raised where a stop was asked for and there is nothing to finish first."""


class StopRequest:
    """Context manager; `requested` turns true when a signal has come.

    Outside the main thread, where Python takes no signals, it never does.
    """

    def __init__(self) -> None:
        """Listens to nothing yet."""
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        try:
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        except ValueError:  # not in the main thread
            self._before.clear()
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._before.clear()
