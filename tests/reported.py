"""Directories of runs and sweeps as the package's own functions leave them, untrained."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mobilevit_jax.base import run_files
from mobilevit_jax.config import DataConfig, Experiment, to_dict
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.studies.sweeps import RECORD, RunRecord, SweepRecord
from mobilevit_jax.study import Line, Row, Study, Table
from mobilevit_jax.training import workdir
from mobilevit_jax.training.metrics_log import MetricsLog
from mobilevit_jax.training.timing import Timing

EXAMPLES, EPOCHS, STEPS = 64, 2, 8
# Numbers that no run here can have by chance.
PAPER = (0.7731, 0.7642, 0.7553)


def experiment(**options: Any) -> Experiment:
    """Returns two epochs of four steps at 32 pixels."""
    defaults = {
        "epochs": EPOCHS,
        "model": ModelConfig("mobilevit_xxs"),
        "data": DataConfig("flowers", test="test"),
        "processor": ImageProcessor(size=32, crop_size=(32, 32)),
        "sampler": SamplerConfig(batch_size=16, base_size=32, sizes=(32,), reference_devices=1),
    }
    return Experiment(**{**defaults, **options})


def make_run(
    directory: Path,
    config: Experiment | None = None,
    *,
    top1: float = 0.5,
    steps: int = STEPS,
    metric: str = "top1",
    sizes: Mapping[int, float] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Makes the work directory of a run of eight steps.

    Args:
        directory: Where.
        config: What is trained.
        top1: The last metric; it was 0.1 before.
        steps: Steps done; 8 finishes the run.
        metric: Its name.
        sizes: Metrics of evaluations at other sizes.
        changes: What experiment.json is to say otherwise, such as its commit.
    """
    config = config or experiment()
    workdir.open_workdir(directory, config, ("a", "b"), EXAMPLES)
    workdir.write_json(
        directory / workdir.EXPERIMENT, {**workdir.read_record(directory), **(changes or {})}
    )
    with MetricsLog(directory) as log:
        for step in range(4, steps + 1, 4):
            numbers = {"loss": 2.0 / step, "learning_rate": 1e-3 / step, "step_seconds": 0.25}
            log.write(step=step, epoch=step // 4, split="train", numbers=numbers)
            numbers = {"loss": 2.5 / step, metric: top1 if step == STEPS else 0.1, "count": 9}
            log.write(step=step, epoch=step // 4, split="validation", numbers=numbers)
            (directory / workdir.CHECKPOINTS / str(step)).mkdir(parents=True)
        if steps == STEPS:
            log.write(step=steps, epoch=EPOCHS, split="test", numbers={metric: top1, "count": 9})
    timing = Timing({"32x32": 1.25}, 1.5, {"32x32": 1}, {"32x32": 0}, 2.0, 0.5, 16 * steps, steps)
    timing.scale_seconds, timing.scale_steps = {"32x32": 2.0}, {"32x32": steps}
    timing.devices = "4 x TPU v4"
    if steps:
        workdir.write_json(directory / run_files.TIMING, asdict(timing))
    for size, value in (sizes or {}).items():
        result = {"dataset": "flowers", "split": "test", "size": size, metric: value}
        workdir.write_json(directory / f"evaluation-flowers-test-{size}.json", result)
    return directory


def study(name: str = "decay", claim: str = "weak is best") -> Study:
    """Returns a study of three rows, the paper's numbers of which are `PAPER`."""
    recipe = experiment()
    rows = ("weak", "strong", "strongest")
    decays = zip(rows, (0.01, 0.1, 1.0), strict=True)
    lines = [Line(f"decay {row}", row, (p, None)) for row, p in zip(rows, PAPER, strict=True)]
    return Study(
        name,
        claim,
        tuple(
            Row(row, replace(recipe, optimizer=replace(recipe.optimizer, weight_decay=decay)))
            for row, decay in decays
        ),
        (Table("weight decay", "Figure 11, of flowers", ("top1", "updates"), tuple(lines)),),
    )


def write_sweep(
    directory: Path, made: Study, runs: Sequence[RunRecord], *, tiny: bool = False
) -> Path:
    """Writes the record of a sweep, as its command does."""
    record = SweepRecord(made, "decay.py", tiny, tuple(runs))
    directory.mkdir(parents=True, exist_ok=True)
    workdir.write_json(directory / RECORD.format(made.name), to_dict(record))
    return directory


def make_sweep(directory: Path, made: Study | None = None, **options: Any) -> Path:
    """Makes a sweep: `weak` finished with two seeds, `strong` stopped, `strongest` not begun."""
    made = made or study()
    for seed, top1 in enumerate((0.5, 0.51)):
        config = replace(made.row("weak").experiment, seed=seed)
        make_run(directory / "weak" / f"seed{seed}", config, top1=top1, sizes={48: top1 + 0.02})
    make_run(directory / "strong" / "seed0", made.row("strong").experiment, steps=4)
    runs = [
        RunRecord("weak", 0, "weak/seed0", "done"),
        RunRecord("weak", 1, "weak/seed1", "done"),
        RunRecord("strong", 0, "strong/seed0", "stopped"),
        RunRecord("strongest", 0, "strongest/seed0"),
    ]
    return write_sweep(directory, made, runs, **options)
