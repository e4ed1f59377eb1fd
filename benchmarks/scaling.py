"""Measures how cost grows: with the batch, the resolution, the patches and the number of devices.

    python benchmarks/scaling.py --output benchmarks/results/scaling.json --plot scaling.png

Each point is a forward pass or a training step, compiled by the package as `mobilevit benchmark`
does, in a process of its own for each series; the points of a series take turns for several rounds.
Time for an image stands beside its multiply-adds, attention's square of tokens included. The last
column divides the two, relative to the first point of the series: above 1, time grew faster than
the arithmetic. Devices are fakes that share this machine's cores (`XLA_FLAGS`), at the same batch
over all of them, so that what they add is overhead.

Rows are written as soon as they are there; the same command again goes on with what is missing.
"""

import argparse
import functools
import json
import os
import statistics
from pathlib import Path
from typing import Any

from reporting import Results, Worker, markdown, plain_errors, say, serve, surroundings

from mobilevit_jax.errors import ConfigurationError

PACKAGES = ("mobilevit_jax", "jax", "jaxlib", "flax")
SERIES = ("batch", "resolution", "patches", "devices")
WORK = ("forward", "train")
_LABELS = {
    "batch": "batch, {size}x{size}",
    "resolution": "height and width, batch {batch}",
    "patches": "patch sizes, {size}x{size}, batch {batch}",
    "devices": "fake devices, {size}x{size}, batch {batch} over all",
}
_NOTABLE = 1.15  # growth beyond arithmetic, worth a remark


def points(series: str, work: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns what is measured of a series: {"x", "size", "batch", "patch_sizes", "devices"}."""
    batch = 1 if work == "forward" and series == "resolution" else options.batch
    base = {"size": options.size, "batch": batch, "patch_sizes": [2, 2, 2], "devices": 1}
    varied = {
        "batch": [{"x": str(n), "batch": n} for n in options.batches],
        "resolution": [{"x": str(n), "size": n} for n in options.sizes],
        "patches": [{"x": text, "patch_sizes": _sides(text)} for text in options.patches],
        "devices": [{"x": str(n), "devices": n} for n in options.devices],
    }
    return [base | point for point in varied[series]]


def _sides(text: str) -> list[int]:
    """Reads "8,4,2".

    Raises:
        ConfigurationError: If it is not three numbers.
    """
    try:
        sides = [int(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) != 3 or min(sides) < 1:
        raise ConfigurationError(f"--patches are three sides each, such as 8,4,2; got {text!r}")
    return sides


def worker(task: dict[str, Any]) -> None:
    """What a process does: compiles its points when first asked, then times each in turn."""
    from mobilevit_jax.allocator import keep_memory_of_steps

    keep_memory_of_steps()  # as all our commands do
    import jax

    from mobilevit_jax.analysis.programs import Setting, compile_program
    from mobilevit_jax.analysis.speed import time_calls

    if len(jax.local_devices()) < task["points"][0]["devices"]:
        raise ConfigurationError("this platform has no fake devices; leave --series devices out")

    @functools.cache
    def programs() -> list[Any]:
        return [
            compile_program(
                Setting(
                    task["model"],
                    task["work"],
                    point["size"],
                    point["batch"],
                    options={"patch_sizes": tuple(point["patch_sizes"])},
                )
            )
            for point in task["points"]
        ]

    def answer(seconds: float | None) -> list[dict[str, float]]:
        if seconds is None:
            return [
                {
                    "multiply_adds": program.setting.multiply_adds / program.setting.batch,
                    "bytes": program.total_bytes,
                    "compile_seconds": program.lower_seconds + program.compile_seconds,
                }
                for program in programs()
            ]
        queued = task["work"] == "train"
        return [
            {
                "seconds": time_calls(
                    program.start(), rounds=1, round_seconds=seconds, queued=queued
                ).median
            }
            for program in programs()
        ]

    serve(answer)


def measure(series: str, work: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures a series; returns its points with what was found."""
    wanted = points(series, work, options)
    apart = [[point] for point in wanted] if series == "devices" else [wanted]
    workers: list[Worker] = []
    try:
        for part in apart:
            flag = f"--xla_force_host_platform_device_count={part[0]['devices']}"
            flags = " ".join([os.environ.get("XLA_FLAGS", ""), flag]).strip()
            task = {"model": options.model, "work": work, "points": part}
            workers.append(Worker(__file__, task, {"XLA_FLAGS": flags}))
        about = [row for one in workers for row in one.ask()]
        rounds = [
            [row["seconds"] for one in workers for row in one.ask(options.seconds)]
            for _ in range(options.rounds)
        ]
    finally:
        for one in workers:
            one.close()
    return [
        {**point, **more, "seconds": list(seconds)}
        for point, more, seconds in zip(wanted, about, zip(*rounds, strict=True), strict=True)
    ]


def growth(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Returns of each point ms an image, and time over arithmetic relative to the first.

    The second is the median over the rounds, in each of which all points had a turn.
    """

    def an_image(row: dict[str, Any]) -> list[float]:
        return [seconds / row["batch"] for seconds in row["seconds"]]

    first = rows[0]
    return [
        {
            "ms": statistics.median(an_image(row)) * 1e3,
            "beyond": statistics.median(
                a / b for a, b in zip(an_image(row), an_image(first), strict=True)
            )
            / (row["multiply_adds"] / first["multiply_adds"]),
        }
        for row in rows
    ]


def show(results: Results) -> str:
    """Returns all rows as Markdown."""
    parts = []
    for key, rows in results.rows.items():
        series, work = key.split()
        columns = [
            f"{work}: {_LABELS[series].format(**rows[0])}",
            *("ms an image", "million multiply-adds", "XLA's memory, MB", "compile, s"),
            "time / arithmetic, relative",
        ]
        lines = [
            [
                row["x"],
                grown["ms"],
                row["multiply_adds"] / 1e6,
                row["bytes"] / 1e6,
                row["compile_seconds"],
                f"**{grown['beyond']:.2f}**" if grown["beyond"] > _NOTABLE else grown["beyond"],
            ]
            for row, grown in zip(rows, growth(rows), strict=True)
        ]
        parts.append(markdown(columns, lines))
    return "\n\n".join(parts)


def plot(results: Results, path: Path) -> None:
    """Draws time for an image against what was varied, and where the arithmetic alone would be."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from mobilevit_jax.analysis.plots import COLOURS, DPI
    from mobilevit_jax.base.atomic import replacing

    colours = dict(zip(WORK, COLOURS.values(), strict=False))
    found = [series for series in SERIES if any(f"{series} {w}" in results.rows for w in WORK)]
    figure = Figure(figsize=(4.4 * len(found), 4.2), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for index, series in enumerate(found, 1):
        axes = figure.add_subplot(1, len(found), index)
        labels, shown = {}, []
        for work in WORK:
            rows = results.rows.get(f"{series} {work}")
            if rows is None:
                continue
            times = [point["ms"] for point in growth(rows)]
            arithmetic = [
                times[0] * row["multiply_adds"] / rows[0]["multiply_adds"] for row in rows
            ]
            places = range(len(rows))
            shown += times + arithmetic
            axes.plot(places, times, "o-", color=colours[work], label=work)
            axes.plot(places, arithmetic, ":", color=colours[work], label=f"{work}, by arithmetic")
            axes.set_xticks(places, [row["x"] for row in rows])
            labels[work] = _LABELS[series].format(**rows[0])
        axes.set_yscale("log")
        axes.set_ylim(min(shown) / 2, max(shown) * 2)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("\n".join(f"{work}: {label}" for work, label in labels.items()), fontsize=8)
        axes.set_ylabel("ms an image")
        axes.grid(True, which="both", color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside upper left",
        ncols=min(4, 2 * len(found)),
        frameon=False,
    )
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES))
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--model", default="mobilevit_xxs")
    parser.add_argument("--size", type=int, default=256, help="where the resolution is fixed")
    parser.add_argument("--batch", type=int, default=8, help="where the batch is fixed")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 192, 256, 320, 384, 448, 512])
    parser.add_argument("--patches", nargs="+", default=["2,2,2", "4,4,4", "8,4,2", "1,1,1"])
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn, at least one call")
    parser.add_argument("--output", type=Path, help="JSON; goes on from what it holds")
    parser.add_argument("--plot", type=Path, help="PNG")
    parser.add_argument("--tiny", action="store_true", help="seconds")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.tiny:
        options.work, options.series = ["forward"], ["batch"]
        options.size, options.batch, options.batches = 32, 1, [1, 2]
        options.rounds, options.seconds = 1, 0.01
    return options


def check(options: argparse.Namespace) -> None:
    """Refuses what cannot be measured, before anything is.

    Raises:
        ConfigurationError: Names the option.
    """
    numbers = {
        "--size": [options.size],
        "--batch": [options.batch],
        "--batches": options.batches,
        "--sizes": options.sizes,
        "--devices": options.devices,
        "--rounds": [options.rounds],
    }
    for name, values in numbers.items():
        if min(values) < 1:
            raise ConfigurationError(f"{name} must be at least 1")
    for text in options.patches:
        _sides(text)
    if "devices" in options.series and any(options.batch % n for n in options.devices):
        raise ConfigurationError(f"--batch {options.batch} must divide by all of --devices")
    from mobilevit_jax import create_model

    create_model(options.model)


def main() -> None:
    """Measures what is missing in the output file, prints and draws all of it."""
    options = parse()
    with plain_errors():
        if options.worker:
            worker(json.loads(options.worker))
            return
        check(options)
        apart = ("series", "work", "output", "plot", "worker", "tiny")
        settings = {name: value for name, value in vars(options).items() if name not in apart}
        about = surroundings(PACKAGES, len(os.sched_getaffinity(0)))
        results = Results(options.output, settings, about)
        for series in options.series:
            for work in options.work:
                key = f"{series} {work}"
                # A forward pass runs on one device, however many there are.
                if key not in results.rows and key != "devices forward":
                    say(f"{key} ...")
                    results.add(key, measure(series, work, options))
        print(show(results))
        if options.plot:
            plot(results, options.plot)


if __name__ == "__main__":
    main()
