"""Times our models against PyTorch's, doing the same work in the same run.

    pip install torch==2.13.0 && pip install -e '.[parity,runtimes]'
    python benchmarks/against_pytorch.py --output benchmarks/results/cpu.json

Every contender has a process of its own, which builds its model and compiles it; then they take
turns, one working while the others sleep, for several rounds. A ratio is the other's time over ours
in the same round, and the median over the rounds is reported, with the least and the largest: above
1, ours is faster. All are held to the same cores, and compute on the first GPU if there is one
(`gpu.sh`). The contenders: for MobileViT a plain port to Flax (`plain_flax.py`); transformers'
MobileViT or MobileViTv2, or torchvision's MobileNetV2 or ResNet (which has to be installed then),
eager, eager with channels-last tensors, `torch.compile`, and that with channels-last; for SSDLite,
which transformers does not have, torch modules that compute the same on transformers' backbone; and
for inference in float32 on a CPU, onnxruntime and OpenVINO on the graph that `torch.onnx` makes of
the same model. All have the same weights, and must give the same outputs before anything is timed
(`equal_weights.py`).

Rows are written as soon as they are there; the same command again goes on with what is missing.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from comparison_tables import memory_table, table
from contenders import (
    CONTENDERS,
    IN_JAX,
    ONNXRUNTIME,
    OPENVINO,
    OURS,
    OUTPUTS,
    PLAIN,
    RUNTIMES,
    Call,
    Work,
    differing,
    entrants,
    outputs_of,
    prepare,
)
from reporting import Results, Worker, plain_errors, say, serve, surroundings
from requirements import check

from mobilevit_jax.errors import ConfigurationError, DataError

SIZES = ("xxs", "xs", "s")
OTHERS = (
    *(f"mobilevitv2_{width}" for width in ("050", "075", "100", "125", "150", "175", "200")),
    *("mobilenetv2_100", "resnet18", "resnet34", "resnet50", "resnet101"),
)
PACKAGES = (
    *("mobilevit_jax", "jax", "jaxlib", "flax", "torch", "transformers", "torchvision"),
    *(ONNXRUNTIME, OPENVINO.lower()),
)
PART = {"forward": ("1", "8"), "train": ("16",), "first": ("16",)}
_CPU = "CPU"
# Of an output, as a share of the largest: bfloat16 has 8 bits, TF32 on a GPU 11.
_TOLERANCE = {"float32": 1e-2, "bfloat16": 0.3}


def work_of(options: argparse.Namespace) -> list[Work]:
    """Returns what is to be timed, the quick things first."""
    found = []
    for dtype, kind in itertools.product(options.dtypes, options.kinds):
        batches = options.batches or [int(batch) for batch in PART[kind]]
        found += [
            Work(kind, f"mobilevit_{model}" if model in SIZES else model, batch, size, dtype)
            for size, model, batch in itertools.product(options.sizes, options.models, batches)
        ]
        if kind == "forward" and options.downstream:
            found += [
                Work(kind, "ssdlite_mobilevit_s", 1, 320, dtype),
                Work(kind, "deeplabv3_mobilevit_s", 1, 512, dtype),
            ]
    return found


def worker(task: dict[str, Any]) -> None:
    """What a process does: write the weights, or a contender's work again and again."""
    os.sched_setaffinity(0, task["cores"])
    work, directory = Work(**task["work"]), Path(task["directory"])
    if "contenders" in task:
        serve(lambda _: _write_weights(work, directory, set(task["contenders"])))
        return
    contender = task["contender"]
    _import(contender, len(task["cores"]))
    before = _resident_bytes("VmRSS")

    @functools.cache
    def first() -> tuple[Call, float]:
        start = time.perf_counter()
        call = prepare(contender, work, directory)
        found = call()
        taken = time.perf_counter() - start
        if found is not None:
            _check_outputs(contender, found, work, directory)
        return call, taken

    @functools.cache
    def settled() -> Call:
        call, _ = first()
        for _ in range(10):  # torch.compile goes on at the second call
            call()
        if contender in IN_JAX:
            from mobilevit_jax.allocator import return_freed_memory

            return_freed_memory()  # as the trainer does after ten steps
            call()
        return call

    def answer(seconds: float | None) -> dict[str, Any]:
        if seconds is None:
            return {"seconds": first()[1], "device": _device(contender)}
        call = settled()
        measured = {"seconds": _median(call, seconds)}
        measured["peak_bytes"] = _peak(contender)(call, before)
        return measured

    serve(answer)


def _write_weights(work: Work, directory: Path, contenders: set[str]) -> None:
    import equal_weights

    runtimes, others = contenders & set(RUNTIMES), contenders - set(IN_JAX)
    equal_weights.write(work, directory, bool(others), bool(runtimes), PLAIN in contenders)


def _check_outputs(contender: str, found: Any, work: Work, directory: Path) -> None:
    """Raises DataError if a contender does not compute what the others do."""
    arrays = outputs_of(found, channels_first=contender not in IN_JAX)
    with np.load(directory / OUTPUTS) as expected:
        problem = differing(arrays, list(expected.values()), _TOLERANCE[work.dtype])
    if problem:
        raise DataError(f"{contender} does not compute the same: {problem}")


def _import(contender: str, threads: int) -> None:
    """Loads the libraries, whose time and memory are not the work's."""
    if contender in RUNTIMES:
        importlib.import_module(contender.lower())
        return
    if contender in IN_JAX:
        from mobilevit_jax.allocator import keep_memory_of_steps

        keep_memory_of_steps()  # as all our commands do
        import jax

        import mobilevit_jax.analysis.programs  # noqa: F401 (all that a step is made of)

        jax.devices()
        return
    import torch
    import torch_models  # noqa: F401

    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32, which is JAX's default on a GPU


def _device(contender: str) -> str:
    if contender in RUNTIMES:
        return _CPU
    return _our_device() if contender in IN_JAX else _torch_device()


def _peak(contender: str) -> Callable[[Call, int], int]:
    if contender in RUNTIMES:
        return _process_peak
    return _our_peak if contender in IN_JAX else _torch_peak


def _our_device() -> str:
    """Returns `_CPU`, or the GPU's name."""
    import jax

    device = jax.devices()[0]
    return _CPU if device.platform == "cpu" else device.device_kind


def _torch_device() -> str:
    """Returns `_CPU`, or the GPU's name."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else _CPU


def _median(call: Call, seconds: float) -> float:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _our_peak(call: Call, before: int) -> int:
    """Returns the most memory that is held: on a GPU ever since the start, compiling included."""
    import jax

    statistics_ = jax.local_devices()[0].memory_stats()
    return statistics_["peak_bytes_in_use"] if statistics_ else _process_peak(call, before)


def _torch_peak(call: Call, before: int) -> int:
    """Returns the most memory that is held during a call; a GPU's is free for the next one then."""
    from torch import cuda

    if not cuda.is_available():
        return _process_peak(call, before)
    cuda.reset_peak_memory_stats()
    call()
    peak = cuda.max_memory_allocated()
    cuda.empty_cache()
    return peak


def _process_peak(call: Call, before: int) -> int:
    """Returns the most memory of the process during a call, without what the libraries hold."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    call()
    return _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def compare(work: Work, options: argparse.Namespace) -> dict[str, Any]:
    """Times all contenders of a work; returns its row of the results."""
    names = [name for name in entrants(work) if name in options.contenders]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    first: dict[str, float] = {}
    peak: dict[str, int] = {}
    devices: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        shared = {
            "work": dataclasses.asdict(work),
            "cores": options.cores,
            "directory": stack.enter_context(tempfile.TemporaryDirectory()),
        }
        _prepare_weights(shared | {"contenders": names}, _environment(len(options.cores), ""))
        for name in names:
            task = shared | {"contender": name}
            scratch = stack.enter_context(tempfile.TemporaryDirectory())
            workers[name] = Worker(__file__, task, _environment(len(options.cores), scratch))
            stack.callback(workers[name].close)
            answer = workers[name].ask()  # before the next one starts
            first[name], devices[name] = answer["seconds"], answer["device"]
        _check_devices(devices)
        for _ in range(0 if work.kind == "first" else options.rounds):
            for name, one in workers.items():
                answer = one.ask(options.seconds)
                seconds[name].append(answer["seconds"])
                peak[name] = max(peak.get(name, 0), answer["peak_bytes"])
    if work.kind == "first":
        seconds = {name: [value] for name, value in first.items()}
    return {
        "work": dataclasses.asdict(work),
        "device": devices[OURS],
        "seconds": seconds,
        "first_seconds": first,
        "peak_bytes": peak,
    }


def _prepare_weights(task: dict[str, Any], environment: Mapping[str, str | None]) -> None:
    """Has the weights written and compared, by a process that does not stay."""
    one = Worker(__file__, task, environment)
    try:
        one.ask()
    finally:
        one.close()


def _check_devices(devices: dict[str, str]) -> None:
    """Raises ConfigurationError if some contenders compute on a GPU and others do not."""
    if len({device == _CPU for device in devices.values()}) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ConfigurationError(
            f"the contenders do not compute on the same device: {where}; for a GPU install the "
            "extra 'cuda' and a CUDA build of torch, for the CPU set CUDA_VISIBLE_DEVICES=''"
        )


def _environment(threads: int, scratch: str) -> dict[str, str | None]:
    """Returns the variables of a contender's process that differ from this one's."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        # Nothing compiled before may help: first steps are timed too.
        "TORCHINDUCTOR_CACHE_DIR": scratch,
        "JAX_COMPILATION_CACHE_DIR": None,
        # One device each.
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
        # Several processes share the GPU, of which JAX would take three quarters each.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_FLAGS": " ".join(flag for flag in flags if "device_count" not in flag),
    }


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=tuple(PART), default=list(PART))
    parser.add_argument("--models", nargs="+", choices=SIZES + OTHERS, default=list(SIZES))
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 8, training 16")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--no-downstream", dest="downstream", action="store_false", help="leave SSDLite, DeepLabv3"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="a turn, at least one call")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="JSON; goes on from what it holds")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    available = sorted(os.sched_getaffinity(0))
    if not 1 <= options.threads <= len(available):
        parser.error(f"--threads must be from 1 to {len(available)}, the cores there are")
    if min(options.rounds, *options.sizes, *(options.batches or [1])) < 1 or options.seconds < 0:
        parser.error("--rounds, --sizes and --batches must be at least 1, --seconds not below 0")
    if OURS not in options.contenders:
        parser.error(f"--contenders must have {OURS!r}, which the others are compared with")
    options.cores = available[: options.threads]
    return options


def main() -> None:
    """Measures what is missing in the output file, and prints all of it."""
    options = parse()
    with plain_errors():
        if options.worker:
            worker(json.loads(options.worker))
            return
        check(options)
        # What a row does not tell itself; files from before weights were equal do not go on.
        settings = {"threads": options.threads, "seconds": options.seconds, "weights": "equal"}
        results = Results(options.output, settings, surroundings(PACKAGES, options.threads))
        for work in work_of(options):
            if str(work) not in results.rows:
                say(f"{work} ...")
                row = compare(work, options)
                results.add(str(work), row)
                say(table([row]))
        rows = list(results.rows.values())
        print(table(rows) + "\n\n" + memory_table(rows))


if __name__ == "__main__":
    main()
