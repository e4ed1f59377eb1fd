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
    """

    compile_seconds: dict[str, float] = field(default_factory=dict)
    all_compile_seconds: float = 0.0
    programs: dict[str, int] = field(default_factory=dict)
    programs_cached: dict[str, int] = field(default_factory=dict)
    train_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    images: int = 0
    steps: int = 0


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
