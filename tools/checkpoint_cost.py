"""Measures what a checkpoint every 100 steps adds to the step time.

    python tools/checkpoint_cost.py [--pairs 24] [--size 64] [--batch 24] [--model mobilevit_xxs]

One run saves every 40 steps. The 20 steps after a save, with whatever Orbax still writes in the
background, are compared with the 20 before it, seconds apart, so that other load on the machine
falls on both. The difference is what one checkpoint costs, and it is given as a share of 100 steps.
The default is the smallest model on small images: a short step, so nearly the largest share that a
checkpoint can take.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    Experiment,
    load_experiment,
)
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.processing import ImageProcessor

_EVERY, _WINDOW = 100, 20
_QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart.py"


class Clock:
    """A reporter that notes when each step was done."""

    def __init__(self) -> None:
        self.at: dict[int, float] = {}

    def say(self, message: str) -> None:
        print(message)

    def begin(self, first_step: int) -> None:
        pass

    def update(
        self,
        step: int,
        *,
        epoch: int,
        loss: float | None = None,
        images_per_second: float | None = None,
    ) -> None:
        self.at[step] = time.perf_counter()

    def log(self, row: Mapping[str, object]) -> None:
        pass

    def seconds(self, first: int) -> float:
        """Of a window of steps from one on."""
        return self.at[first + _WINDOW] - self.at[first]


def experiment(pairs: int, model: str, size: int, batch: int, data_dir: str) -> Experiment:
    """Returns the quickstart of one size, long enough, saved every two windows and at its end."""
    quickstart = load_experiment(_QUICKSTART)
    images_an_epoch = 6000  # or somewhat more or less; the run only has to be long enough
    epochs = 1 + (pairs + 2) * 2 * _WINDOW * batch // images_an_epoch
    return dataclasses.replace(
        quickstart,
        epochs=epochs,
        model=dataclasses.replace(quickstart.model, name=model),
        data=DataConfig("shapes/quickstart", data_dir, validation=None),
        processor=ImageProcessor(size=size, crop_size=(size, size)),
        sampler=SamplerConfig(batch_size=batch, base_size=size, sizes=(size,), reference_devices=1),
        evaluation=EvaluationConfig(every_epochs=epochs),
        checkpoint=CheckpointConfig(every_epochs=epochs, every_steps=2 * _WINDOW, keep_best=0),
    )


def main() -> None:
    """Trains, and prints the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--model", default="mobilevit_xxs")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--data-dir", default=None, help="of data sets; else a temporary one")
    arguments = parser.parse_args()
    start_jax()
    from mobilevit_jax.tasks import create_task
    from mobilevit_jax.training import loop

    with tempfile.TemporaryDirectory() as scratch:
        data_dir = arguments.data_dir or f"{scratch}/data"
        prepare("shapes/quickstart", data_dir=data_dir)
        wanted = experiment(
            arguments.pairs, arguments.model, arguments.size, arguments.batch, data_dir
        )
        blocked: list[float] = []
        save = loop.Checkpoints.save

        def timed_save(self: Any, *values: Any, **options: Any) -> None:
            start = time.perf_counter()
            save(self, *values, **options)
            blocked.append(time.perf_counter() - start)

        loop.Checkpoints.save = timed_save
        clock, workdir = Clock(), Path(scratch) / "run"
        loop.train(wanted, create_task(wanted), workdir, clock)
        newest = max((workdir / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    report(clock, blocked, size, arguments.pairs)


def report(clock: Clock, blocked: list[float], size: int, pairs: int) -> None:
    """Prints what the steps took with and without a save."""
    saves = [2 * _WINDOW * number for number in range(1, pairs + 1)]
    before = [clock.seconds(at - _WINDOW) for at in saves]
    extra = [clock.seconds(at) - plain for at, plain in zip(saves, before, strict=True)]
    step = statistics.median(before) / _WINDOW
    low, middle, high = (
        cost / (_EVERY * step) for cost in statistics.quantiles(extra, n=4, method="inclusive")
    )
    print(f"step without a checkpoint: {1e3 * step:.1f} ms (median of {pairs} x {_WINDOW} steps)")
    print(f"a checkpoint: {size / 1e6:.1f} MB, blocks for {statistics.median(blocked):.3f} s")
    print(
        f"every {_EVERY} steps it adds {middle:.1%} to the step time (median of {pairs}; half "
        f"of them from {low:.1%} to {high:.1%})"
    )


if __name__ == "__main__":
    main()
