"""Where the time of a training process goes."""

import time
from dataclasses import dataclass, field


@dataclass
class Timing:
    """Where the time of this process went, in seconds.

    Attributes:
        compile_seconds: For each scale, "64x64", tracing and compiling its step; several may be
            compiled at once.
        all_compile_seconds: Until all of them were there.
        programs: For each scale, the programs that this needed and the process had not yet.
        programs_cached: Those of them that came from the persistent compilation cache.
        train_seconds: In the loop, evaluation and checkpoints excluded.
        data_wait_seconds: Waiting for a batch that came after the devices had finished their last
            step: an upper bound of the time for which data left them idle.
        images: Trained on.
        steps: Done.
        scale_seconds: For each scale, "64x64", the sum of its steps' seconds; see `ScaleClock`.
        scale_steps: For each scale, the number of steps behind that.
        devices: On which all of this was measured, those of all hosts.
    """

    compile_seconds: dict[str, float] = field(default_factory=dict)
    all_compile_seconds: float = 0.0
    programs: dict[str, int] = field(default_factory=dict)
    programs_cached: dict[str, int] = field(default_factory=dict)
    train_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    images: int = 0
    steps: int = 0
    scale_seconds: dict[str, float] = field(default_factory=dict)
    scale_steps: dict[str, int] = field(default_factory=dict)
    devices: str = ""


class RowClock:
    """Times the steps between two rows of metrics."""

    def __init__(self, timing: Timing) -> None:
        self.total = timing
        self.restart()

    def restart(self) -> None:
        """Forgets what was timed since the last row."""
        self.start = time.perf_counter()
        self.images = self.steps = 0
        self.waited = 0.0

    def wait(self, seconds: float) -> None:
        """Adds seconds for which data left the devices idle."""
        self.waited += seconds

    def count(self, images: int) -> None:
        """Adds a step of so many images."""
        self.images += images
        self.steps += 1

    @property
    def seconds(self) -> float:
        """Since the last row."""
        return time.perf_counter() - self.start

    @property
    def images_per_second(self) -> float:
        """Since the last row."""
        return self.images / max(self.seconds, 1e-9)

    def read(self) -> dict[str, float]:
        """Returns the clock's fields of a row, adds them to the total and starts anew."""
        numbers = {
            "images_per_second": self.images_per_second,
            "step_seconds": self.seconds / max(self.steps, 1),
            "data_wait_seconds": self.waited / max(self.steps, 1),
        }
        self.total.train_seconds += self.seconds
        self.total.data_wait_seconds += self.waited
        self.total.images += self.images
        self.total.steps += self.steps
        self.restart()
        return numbers


class ScaleClock:
    """Times the steps of each scale, from the end of one step to the end of the next.

    So a step that had to wait for its batch counts the wait. One that follows anything else, such
    as an evaluation, is left out.
    """

    def __init__(self, timing: Timing) -> None:
        self.total = timing
        self._since: float | None = None

    def ended(self, scale: str) -> None:
        """Counts the step that has just ended."""
        now = time.perf_counter()
        if self._since is not None:
            seconds, steps = self.total.scale_seconds, self.total.scale_steps
            seconds[scale] = seconds.get(scale, 0.0) + now - self._since
            steps[scale] = steps.get(scale, 0) + 1
        self._since = now

    def interrupt(self) -> None:
        """Leaves out the step that is running."""
        self._since = None
