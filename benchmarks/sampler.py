"""Measures what the multi-scale sampler promises: fewer updates and less time for the same images.

    python benchmarks/sampler.py --output benchmarks/results/sampler.json

The paper's Figure 5b: 375 thousand updates and 380 s an epoch with the standard sampler, 232
thousand and 270 s with the multi-scale one, a ratio of 0.62 and
0.71. Three parts, of which `--parts` chooses:

* plan: the updates of the paper's own recipe, 300 epochs of ImageNet, from the sampler's plan, and
  the pixels of an average image, which is what the arithmetic of an epoch grows with;
* epochs: updates and seconds of whole epochs over the same images, read by the loader and trained
  on this machine, the samplers taking turns, compilation apart;
* compile: seconds until all five scales of a model are ready to train, with an empty compilation
  cache and then with the one that this has filled, each in a process of its own.

Rows are written as soon as they are there; the same command again goes on with what is missing.
"""

import argparse
import collections
import functools
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reporting import Results, Worker, markdown, plain_errors, say, serve, surroundings

from mobilevit_jax.allocator import keep_memory_of_steps
from mobilevit_jax.data.sampler import SamplerConfig, scale_table, steps_in_epoch
from mobilevit_jax.errors import ConfigurationError

PACKAGES = ("mobilevit_jax", "jax", "jaxlib", "flax", "optax", "grain")
PARTS = ("plan", "epochs", "compile")
STANDARD, CVNETS, AREA = "standard", "multi-scale, rule 'cvnets'", "multi-scale, rule 'area'"
SAMPLERS = (STANDARD, CVNETS, AREA)
IMAGENET, EPOCHS = 1_281_167, 300
# Figure 5b: standard, multi-scale.
PAPER_UPDATES, PAPER_SECONDS = (375_000, 232_000), (380, 270)

# What JAX says of its own work: name here, event there.
_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "XLA, or reading the cache",
}


class Quiet:
    """A reporter for what is of no interest here."""

    def say(self, message: str) -> None:
        """Shows a line of progress."""
        say(message)


def plan(epochs: int) -> dict[str, dict[str, float]]:
    """Returns updates and relative pixels of an image, for the paper's recipe and its rules."""
    configs = {
        STANDARD: SamplerConfig(sizes=(256,)),
        CVNETS: SamplerConfig(),
        AREA: SamplerConfig(rule="area"),
    }
    rows = {}
    for name, config in configs.items():
        table = scale_table(config)
        steps = [steps_in_epoch(0, epoch, IMAGENET, table) for epoch in range(epochs)]
        pixels = sum(s.batch_size * s.height * s.width for s in table)
        rows[name] = {
            "updates": sum(steps) / epochs * EPOCHS,
            "pixels": pixels / sum(s.batch_size for s in table) / config.base_size**2,
        }
    return rows


def experiment(options: argparse.Namespace, sampler: str, model: str, batch: int) -> Any:
    """Returns a run over the same images with one of the samplers."""
    from mobilevit_jax.config import DataConfig, Experiment
    from mobilevit_jax.models.config import ModelConfig

    sizes = [options.base_size] if sampler == STANDARD else options.sizes
    return Experiment(
        epochs=options.rounds,
        model=ModelConfig(model),
        data=DataConfig(
            options.dataset,
            data_dir=options.data_dir,
            train=f"train[:{options.images}]",
            validation=None,
        ),
        sampler=SamplerConfig(
            batch_size=batch,
            base_size=options.base_size,
            sizes=tuple(sizes),
            rule="area" if sampler == AREA else "cvnets",
            reference_devices=1,
        ),
    )


class Run:
    """One sampler's training, compiled."""

    def __init__(self, options: argparse.Namespace, sampler: str, model: str, batch: int) -> None:
        from mobilevit_jax.tasks import create_task
        from mobilevit_jax.training import parallel
        from mobilevit_jax.training.compile import compile_scales
        from mobilevit_jax.training.schedule import warmup_cosine
        from mobilevit_jax.training.setup import begin
        from mobilevit_jax.training.timing import Timing

        wanted = experiment(options, sampler, model, batch)
        self.task = create_task(wanted)
        learning_rate = warmup_cosine(wanted.schedule, self.task.steps_of_epochs)
        create, self.step = begin(wanted, self.task, learning_rate)
        self.state = parallel.replicate(create())
        timing, reporter = Timing(), Quiet()
        compile_scales(self.step, self.state, self.task, reporter, timing)  # pyright: ignore
        self.compile_seconds = timing.compile_seconds
        self.all_compile_seconds = timing.all_compile_seconds

    def epoch(self, number: int) -> dict[str, float]:
        """Trains an epoch; returns updates, images and seconds."""
        import jax

        from mobilevit_jax.training import parallel

        first, steps = sum(self.task.steps_of_epochs[:number]), self.task.steps_of_epochs[number]
        images, before = 0, None
        start = time.perf_counter()
        with_data = itertools.islice(self.task.training_batches(first), steps)
        for batch in parallel.prefetch(with_data):
            self.state, metrics = self.step(self.state, batch)
            images += batch["weight"].size
            jax.block_until_ready(before)
            before = metrics["loss"]
        jax.block_until_ready(self.state)
        return {"updates": steps, "images": images, "seconds": time.perf_counter() - start}

    def steps(self, repeats: int) -> dict[str, float]:
        """Returns median seconds of the step of each scale."""
        import jax

        from mobilevit_jax.training import parallel

        seconds = collections.defaultdict(list)
        for scale in self.task.table * repeats:
            batch = parallel.shard(self.task.zero_batch(scale))
            start = time.perf_counter()
            self.state, metrics = self.step(self.state, batch)
            jax.block_until_ready((self.state, metrics))
            seconds[str(scale.height)].append(time.perf_counter() - start)
        return {name: statistics.median(values) for name, values in seconds.items()}


def start(options: argparse.Namespace) -> None:
    """Sets up what every command of the package does, and the data."""
    from mobilevit_jax.cli.runtime import start_jax
    from mobilevit_jax.data.prepare import prepare

    start_jax()
    if options.dataset.partition("/")[0] == "shapes":
        prepare(options.dataset, data_dir=options.data_dir)


def measure_epochs(options: argparse.Namespace, results: Results) -> None:
    """Trains epochs with all samplers in turn."""
    missing = [n for n in range(options.rounds) if f"epoch {n}" not in results.rows]
    if not missing:
        return
    start(options)
    runs = {name: Run(options, name, options.model, options.batch) for name in SAMPLERS}
    seconds = {name: run.all_compile_seconds for name, run in runs.items()}
    results.rows.setdefault("compiled", seconds)
    for number in missing:
        say(f"epoch {number + 1} of {options.rounds} ...")
        results.add(f"epoch {number}", {name: run.epoch(number) for name, run in runs.items()})


def measure_compile(options: argparse.Namespace, results: Results) -> None:
    """Compiles all scales in two processes, which share a cache that is empty at first."""
    if "compile" in results.rows:
        return
    say(f"compiling {options.compile_model} ...")
    rows = {}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            task = {"options": {**vars(options), "output": None}}
            one = Worker(__file__, task, {"JAX_COMPILATION_CACHE_DIR": cache})
            try:
                rows[state] = one.ask()
            finally:
                one.close()
    results.add("compile", rows)


def compile_scales_once(options: argparse.Namespace) -> dict[str, Any]:
    """Does everything up to the first step, as a fresh run would; returns seconds."""
    import jax

    start(options)
    jax.devices()
    spent: dict[str, float] = dict.fromkeys(_EVENTS.values(), 0.0)

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event in _EVENTS:
            spent[_EVENTS[event]] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    begun = time.perf_counter()
    run = Run(options, CVNETS, options.compile_model, options.compile_batch)
    seconds = time.perf_counter() - begun
    return {
        "each": run.compile_seconds,
        "state and all scales": seconds,
        "of that": spent,
        "steps alone": run.steps(3),
    }


def show(results: Results) -> str:
    """Returns all rows as Markdown."""
    parts = []
    if "plan" in results.rows:
        parts.append(_plan_table(results.rows["plan"]))
    epochs = [row for key, row in results.rows.items() if key.startswith("epoch ")]
    if epochs:
        parts.append(_epochs_table(epochs, results.rows.get("compiled", {})))
    if "compile" in results.rows:
        parts.append(_compile_table(results.rows["compile"]))
    return "\n\n".join(parts)


def _plan_table(rows: dict[str, dict[str, float]]) -> str:
    standard = rows[STANDARD]["updates"]
    columns = ["300 epochs of ImageNet", "updates, thousands", "of standard", "pixels an image"]
    lines = [
        [name, row["updates"] / 1000, row["updates"] / standard, row["pixels"]]
        for name, row in rows.items()
    ]
    paper = [
        [f"paper, {name}", updates / 1000, updates / PAPER_UPDATES[0], ""]
        for name, updates in zip((STANDARD, "multi-scale"), PAPER_UPDATES, strict=True)
    ]
    return markdown(columns, [*lines, *paper])


def _epochs_table(epochs: list[dict[str, Any]], compiled: dict[str, float]) -> str:
    """Means over the rounds, and medians of the rounds' ratios to the standard sampler."""
    fields = ("updates", "images", "seconds")
    columns = [f"means of {len(epochs)} epochs", *fields, "updates / standard", "time / standard"]
    columns += ["time of an image / standard", "s to compile"]
    lines: list[list[Any]] = []
    for name in SAMPLERS:
        means = [statistics.mean(row[name][field] for row in epochs) for field in fields]
        pairs = [(row[name], row[STANDARD]) for row in epochs]
        ratios = [
            statistics.median(own[field] / standard[field] for own, standard in pairs)
            for field in ("updates", "seconds")
        ]
        an_image = statistics.median(
            own["seconds"] / own["images"] / (standard["seconds"] / standard["images"])
            for own, standard in pairs
        )
        lines.append([name, *means, *ratios, an_image, compiled.get(name, "")])
    paper = [values[1] / values[0] for values in (PAPER_UPDATES, PAPER_SECONDS)]
    lines.append(["paper, multi-scale", "", "", "", *paper, "", ""])
    return markdown(columns, lines)


def _compile_table(rows: dict[str, Any]) -> str:
    names = list(next(iter(rows.values()))["each"])
    columns = ["cache", *names, "all scales and the state", *_EVENTS.values(), "the steps' own"]
    lines = [
        [
            state,
            *row["each"].values(),
            row["state and all scales"],
            *row["of that"].values(),
            sum(row["steps alone"].values()),
        ]
        for state, row in rows.items()
    ]
    return markdown([f"{name}, s" if name != "cache" else name for name in columns], lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", default="mobilevit_xxs", help="of the epochs")
    parser.add_argument("--batch", type=int, default=16, help="images at the base size")
    parser.add_argument("--base-size", type=int, default=256)
    parser.add_argument("--sizes", nargs="+", type=int, default=[160, 192, 256, 288, 320])
    parser.add_argument("--dataset", default="shapes/quickstart", help="a prepared one, or shapes")
    parser.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    parser.add_argument("--images", type=int, default=512, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each sampler")
    parser.add_argument("--plan-epochs", type=int, default=EPOCHS, help="counted for the plan")
    parser.add_argument("--compile-model", default="mobilevit_s")
    parser.add_argument("--compile-batch", type=int, default=8)
    parser.add_argument("--output", type=Path, help="JSON; goes on from what it holds")
    parser.add_argument("--tiny", action="store_true", help="two minutes, most of it compiling")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.tiny:
        options.compile_model, options.dataset = "mobilevit_xxs", "shapes/tiny"
        options.base_size, options.sizes = 32, [32]
        options.batch = options.compile_batch = 4
        options.images, options.rounds, options.plan_epochs = 16, 1, 1
    return options


def check(options: argparse.Namespace) -> None:
    """Refuses what cannot be measured, before anything is.

    Raises:
        ConfigurationError: Names the option.
    """
    for name in ("batch", "base_size", "images", "rounds", "plan_epochs", "compile_batch"):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"--{name.replace('_', '-')} must be at least 1")
    if not 1 <= options.plan_epochs <= EPOCHS:
        raise ConfigurationError(f"--plan-epochs must be at most {EPOCHS}")
    # These raise for models and sizes that there are not.
    from mobilevit_jax import create_model

    create_model(options.model)
    create_model(options.compile_model)
    SamplerConfig(sizes=tuple(options.sizes))


def main() -> None:
    """Measures what is missing in the output file, and prints all of it."""
    options = parse()
    with plain_errors():
        keep_memory_of_steps()  # as all our commands do
        if options.worker:
            task = argparse.Namespace(**json.loads(options.worker)["options"])
            serve(lambda _: compile_scales_once(task))
            return
        check(options)
        apart = ("parts", "output", "worker", "tiny", "data_dir")
        settings = {name: value for name, value in vars(options).items() if name not in apart}
        about = surroundings(PACKAGES, len(os.sched_getaffinity(0)))
        results = Results(options.output, settings, about)
        work: dict[str, Callable[[], None]] = {
            "plan": lambda: results.add("plan", plan(options.plan_epochs)),
            "epochs": functools.partial(measure_epochs, options, results),
            "compile": functools.partial(measure_compile, options, results),
        }
        for part in options.parts:
            work[part]()
        print(show(results))


if __name__ == "__main__":
    main()
