"""Trains as `test_loop` does, in a process of its own that kills itself: no handler can run.

    python -m tests.training.killed_run DATA_DIR WORKDIR EVERY_STEPS PLACE COUNT

The process dies when it reaches a place ("step", "evaluation", "save") for the COUNTth time.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import tests.conftest  # noqa: F401 - settles JAX's devices and cache before its first import
from mobilevit_jax.config import CheckpointConfig
from mobilevit_jax.tasks.classification import ClassificationTask
from mobilevit_jax.training import loop
from mobilevit_jax.training.checkpoint import Checkpoints
from tests.small import tiny_experiment
from tests.training.test_loop import Reporter, run


def die() -> None:
    """Ends the process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(data_dir: str, directory: str, every_steps: str, place: str, count: str) -> None:
    """Trains until the place is reached so many times."""
    left = int(count)

    def reached() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    class Dying(Reporter):
        def update(self, step, *, epoch, loss=None, images_per_second=None):
            if place == "step" and reached():
                die()

    evaluate, save = ClassificationTask.evaluate, Checkpoints.save

    def dying_evaluate(self, variables, split, poll=None):
        def look() -> None:
            if place == "evaluation" and reached():
                die()

        return evaluate(self, variables, split, look)

    def dying_save(self, *arguments, **options):
        if place == "save" and reached():
            # The save goes on in the background, which takes some milliseconds.
            threading.Thread(target=lambda: (time.sleep(0.005), die()), daemon=True).start()
        save(self, *arguments, **options)

    experiment = tiny_experiment(
        Path(data_dir), checkpoint=CheckpointConfig(every_steps=int(every_steps))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassificationTask, "evaluate", dying_evaluate)
        patch.setattr(loop.Checkpoints, "save", dying_save)
        run(experiment, Path(directory), reporter=Dying())
    raise SystemExit(f"{place} was not reached {count} times")


if __name__ == "__main__":
    main(*sys.argv[1:])
