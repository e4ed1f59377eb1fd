"""Times the input pipeline: JPEG files in memory to random-resized crops, by us and by others.

    python benchmarks/input_pipeline.py DIRECTORY --output benchmarks/results/input_pipeline.json

DIRECTORY holds full-size JPEGs, such as COCO128's; without one, pictures are drawn. The readers:
our loader to whole batches, and our decoding and augmentation without it; Pillow alone and in a
torch DataLoader (extra `parity`); tf.data with `decode_and_crop_jpeg` (needs TensorFlow). Each has
a process of its own that is held to as many cores as it has threads, and they take turns for
several rounds. A ratio is that of the speeds in the same round; the median over rounds is reported.

Then, what a crop costs us stage by stage, and with `--train`, the share of a training run on the
same pictures that is spent waiting for data. Rows are written as soon as they are there; the same
command again goes on with what is missing.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from readers import OURS, OURS_ALONE, PILLOW, READERS, Reading, check_installed, open_reader
from reporting import Results, Worker, markdown, plain_errors, say, serve, surroundings

from mobilevit_jax.allocator import keep_freed_memory, keep_memory_of_steps
from mobilevit_jax.data.augment import (
    AugmentConfig,
    augment,
    decode_and_augment,
    example_rng,
    random_crop,
)
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.headers import read_jpeg_header
from mobilevit_jax.errors import ConfigurationError, DataError

PACKAGES = (
    *("mobilevit_jax", "opencv-python-headless", "pillow", "grain", "numpy", "jax"),
    *("torch", "tensorflow-cpu", "tensorflow"),
)
_WARM_SECONDS = 0.5
# Some go on reading ahead when their turn is over, up to two batches.
_SETTLE_SECONDS = 1.0


def read_files(directory: Path | None, limit: int) -> list[bytes]:
    """Returns the JPEGs of a directory, or pictures that are drawn for want of one.

    Raises:
        DataError: If there are none, or one cannot be read or decoded.
    """
    if directory is None:
        return [_draw(number) for number in range(min(limit, 16))]
    if not directory.is_dir():
        raise DataError(f"{directory} is not a directory; name one that holds JPEGs")
    kinds = (".jpg", ".jpeg")
    paths = sorted(path for path in directory.rglob("*") if path.suffix.lower() in kinds)[:limit]
    if not paths:
        raise DataError(f"{directory} holds no .jpg or .jpeg files")
    files = [path.read_bytes() for path in paths]
    for path, data in zip(paths, files, strict=True):
        decode_image(data, name=str(path))
    return files


def _draw(number: int) -> bytes:
    """Returns a JPEG of 640x480 with shapes and some noise, about as large as a photograph's."""
    rng = np.random.default_rng(number)
    image = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (640, 480))
    image = cv2.add(image, rng.integers(0, 24, image.shape, np.uint8))
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def worker(task: dict[str, Any]) -> None:
    """What the process of one reader does: it reads for as many seconds as it is told to."""
    cores = sorted(os.sched_getaffinity(0))[: task["threads"]]
    os.sched_setaffinity(0, cores)  # before any library counts them
    if task["reader"] in (OURS, OURS_ALONE):
        keep_freed_memory()  # as all our commands do
    directory = Path(task["directory"]) if task["directory"] else None
    files = read_files(directory, task["limit"])
    reading = Reading(files, task["size"], task["threads"], task["batch"])

    @functools.cache
    def images() -> Iterator[int]:
        return open_reader(task["reader"], reading)

    def turn(seconds: float) -> float:
        # What was read ahead while others had their turn is not this turn's.
        _count(images(), min(_WARM_SECONDS, seconds))
        return _count(images(), seconds)

    serve(turn)


def _count(images: Iterator[int], seconds: float) -> float:
    """Returns images/s over at least so many seconds."""
    start, made = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < seconds or not made:
        made += next(images)
    return made / taken


def compare(options: argparse.Namespace, threads: int, results: Results) -> None:
    """Has all readers take turns; adds {reader: images/s of each round}, after every round."""
    key = f"readers {threads}"
    speeds = results.rows.get(key, {reader: [] for reader in options.readers})
    done = min(map(len, speeds.values()))
    if done == options.rounds:
        return
    say(f"{key} ...")
    workers: dict[str, Worker] = {}
    try:
        for reader in options.readers:
            task = {
                "reader": reader,
                "directory": str(options.directory.absolute()) if options.directory else None,
                "limit": options.limit,
                "size": options.size,
                "batch": options.batch,
                "threads": threads,
            }
            workers[reader] = Worker(__file__, task, {"TF_CPP_MIN_LOG_LEVEL": "3"})
        for one in workers.values():
            one.ask(0.0)  # loads its libraries and reads a batch
        for _ in range(options.rounds - done):
            found = {}
            for reader, one in workers.items():
                found[reader] = one.ask(options.seconds)
                time.sleep(min(_SETTLE_SECONDS, options.seconds))
            speeds = {reader: [*speeds[reader], found[reader]] for reader in speeds}
            results.add(key, speeds)
    finally:
        for one in workers.values():
            one.close()


def stages(files: list[bytes], size: int, seconds: float) -> dict[str, float]:
    """Returns microseconds an image of what our pipeline does, one part after another.

    The entropy coding of a JPEG is measured by decoding its luma at an eighth of the size, which
    does all of that and next to nothing else.
    """
    config = AugmentConfig()
    headers = [read_jpeg_header(data) for data in files]
    images = [decode_image(data, name="image") for data in files]
    batch = np.empty((len(files), size, size, 3), np.uint8)

    def decode(number: int, flag: int) -> None:
        cv2.imdecode(np.frombuffer(files[number], np.uint8), flag)

    def draw(number: int) -> tuple[int, int, int, int]:
        size = headers[number].height, headers[number].width
        return random_crop(*size, example_rng(0, 0, number), config)

    def whole(number: int, scaled: bool = False) -> None:
        rng = example_rng(0, 0, number)
        chosen = dataclasses.replace(config, scaled_decoding=scaled)
        batch[number] = decode_and_augment(files[number], rng, size, size, chosen, name="image")

    def augmented(number: int, **options: Any) -> None:
        rng = example_rng(0, 0, number)
        augment(images[number], rng, size, size, dataclasses.replace(config, **options))

    parts: dict[str, Callable[[int], Any]] = {
        "all of it, into a batch": whole,
        "the same with scaled_decoding": functools.partial(whole, scaled=True),
        "header": lambda number: read_jpeg_header(files[number]),
        "entropy decoding": lambda number: decode(number, cv2.IMREAD_REDUCED_GRAYSCALE_8),
        "OpenCV's decoding of the whole image": lambda number: decode(number, cv2.IMREAD_COLOR),
        "OpenCV's decoding at half the size": lambda number: decode(
            number, cv2.IMREAD_REDUCED_COLOR_2
        ),
        "generator and crop's place": draw,
        "augmentation: place, resize, mirror": augmented,
        "the same, bicubic": functools.partial(augmented, interpolation="bicubic"),
        "the same, 2 operations of RandAugment": functools.partial(augmented, rand_augment=2),
        "the same, random erasing": functools.partial(augmented, erase_probability=0.25),
        "copy into the batch": lambda number: batch.__setitem__(number, batch[0]),
    }
    taken: dict[str, list[float]] = {name: [] for name in parts}
    end = time.perf_counter() + seconds * len(parts)
    while not taken["copy into the batch"] or time.perf_counter() < end:
        for name, part in parts.items():
            start = time.perf_counter()
            for number in range(len(files)):
                part(number)
            taken[name].append((time.perf_counter() - start) / len(files) * 1e6)
    return {name: statistics.median(values) for name, values in taken.items()}


def training(options: argparse.Namespace, files: list[bytes]) -> dict[str, float]:
    """Trains on the files at this machine's own speed; returns what the loader had to do with it.

    The files are stored as a data set, by the package's own command, so reading records counts.
    """
    from mobilevit_jax.analysis.benchmark import measure
    from mobilevit_jax.cli.console import TrainProgress
    from mobilevit_jax.cli.runtime import start_jax
    from mobilevit_jax.config import DataConfig, Experiment
    from mobilevit_jax.data.prepare import prepare
    from mobilevit_jax.data.sampler import SamplerConfig
    from mobilevit_jax.models.config import ModelConfig
    from mobilevit_jax.tasks import create_task

    start_jax()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "images"
        for number, data in enumerate(files):
            folder = source / "train" / f"class_{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jpg").write_bytes(data)
        prepare("image_folder", data_dir=scratch, source=source)
        experiment = Experiment(
            epochs=-(-options.steps * options.train_batch // len(files)),
            model=ModelConfig(options.train),
            data=DataConfig("image_folder", data_dir=scratch, validation=None),
            sampler=SamplerConfig(
                batch_size=options.train_batch,
                base_size=options.size,
                sizes=(options.size,),
                reference_devices=1,
            ),
        )
        with TrainProgress(options.steps, epochs=experiment.epochs) as progress:
            report = measure(experiment, create_task(experiment), options.steps, progress)
    return {
        "loader, images/s": report.loader,
        "steps alone, images/s": report.expected,
        "run, images/s": report.run,
        "wait for data": report.data_wait,
    }


def show(results: Results) -> str:
    """Returns all rows as Markdown."""
    parts = []
    for key, row in results.rows.items():
        kind, _, detail = key.partition(" ")
        if kind == "readers":
            parts.append(_readers_table(int(detail), row))
        elif kind == "stages":
            whole = row["all of it, into a batch"]
            lines = [[name, value, f"{value / whole:.1%}"] for name, value in row.items()]
            parts.append(markdown(["one image, one thread", "microseconds", "share"], lines))
        else:
            lines = [[*row.values()][:3] + [f"{row['wait for data']:.2%}"]]
            parts.append(f"Training {detail}:\n\n" + markdown(list(row), lines))
    return "\n\n".join(parts)


def _readers_table(threads: int, row: dict[str, list[float]]) -> str:
    columns = [f"{threads} thread{'s' * (threads > 1)}", "images/s", "images/s per core"]
    pairs = {"ours / this": OURS, "ours alone / this": OURS_ALONE}
    pairs = {name: ours for name, ours in pairs.items() if ours in row}
    lines = []
    for reader, speeds in row.items():
        middle = statistics.median(speeds)
        ratios = [
            statistics.median(a / b for a, b in zip(row[ours], speeds, strict=True))
            for ours in pairs.values()
        ]
        lines.append([reader, middle, middle / threads, *ratios])
    return markdown([*columns, *pairs], lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", nargs="?", type=Path, help="JPEGs; drawn without one")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--size", type=int, default=256, help="of a crop in pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--limit", type=int, default=128, help="files, at most")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn, at least a batch")
    parser.add_argument("--train", help="a model, such as mobilevit_xxs, to train on the files")
    parser.add_argument("--train-batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="of that training")
    parser.add_argument("--output", type=Path, help="JSON; goes on from what it holds")
    parser.add_argument("--tiny", action="store_true", help="seconds, ours and Pillow alone")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.tiny:
        options.readers, options.threads = [OURS, OURS_ALONE, PILLOW], [1]
        options.size, options.batch, options.limit = 64, 4, 4
        options.rounds, options.seconds = 1, 0.05
        options.train_batch, options.steps = 4, 2
    return options


def check(options: argparse.Namespace) -> None:
    """Refuses what cannot be measured, before anything is.

    Raises:
        ConfigurationError: Names the option.
    """
    cores = len(os.sched_getaffinity(0))
    if not all(1 <= threads <= cores for threads in options.threads):
        raise ConfigurationError(f"--threads must be from 1 to {cores}, the cores there are")
    for name in ("size", "batch", "limit", "rounds", "train_batch", "steps"):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"--{name.replace('_', '-')} must be at least 1")
    if not options.seconds > 0:
        raise ConfigurationError("--seconds must be above 0")
    for reader in options.readers:
        check_installed(reader)


def main() -> None:
    """Measures what is missing in the output file, and prints all of it."""
    options = parse()
    with plain_errors():
        if options.worker:
            worker(json.loads(options.worker))
            return
        check(options)
        files = read_files(options.directory, options.limit)
        names = ("size", "batch", "limit", "rounds", "seconds", "train_batch", "steps")
        settings = {name: getattr(options, name) for name in names}
        settings |= {"readers": options.readers, "directory": str(options.directory)}
        about = surroundings(PACKAGES, max(options.threads)) | _describe(files)
        results = Results(options.output, settings, about)
        for threads in options.threads:
            compare(options, threads, results)
        work: dict[str, Callable[[], Any]] = {
            "stages": functools.partial(stages, files, options.size, options.seconds)
        }
        if options.train:
            work[f"training {options.train}"] = functools.partial(training, options, files)
        keep_memory_of_steps()
        for key, measure in work.items():
            if key not in results.rows:
                say(f"{key} ...")
                results.add(key, measure())
        print(show(results))


def _describe(files: list[bytes]) -> dict[str, Any]:
    """Returns what the speed of decoding depends on."""
    headers = [read_jpeg_header(data) for data in files]
    return {
        "files": len(files),
        "median_bytes": statistics.median(map(len, files)),
        "median_pixels": statistics.median(h.width * h.height for h in headers),
    }


if __name__ == "__main__":
    main()
