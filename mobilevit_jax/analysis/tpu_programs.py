"""What a run would be on a TPU, by the TPU's own compiler, which needs no TPU.

libtpu compiles for a topology that is not there. The steps are lowered as `mobilevit train` lowers
them, with every operation in its form for accelerators, so that what is said here is said of the
program that would run.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mobilevit_jax.analysis.chips import Chip, Target
from mobilevit_jax.data.stored import DatasetInfo
from mobilevit_jax.errors import ConfigurationError, shortened
from mobilevit_jax.tasks.base import DataTask
from mobilevit_jax.tasks.settings import TaskSettings
from mobilevit_jax.training import parallel
from mobilevit_jax.training.compile import in_thread, lower
from mobilevit_jax.training.schedule import warmup_cosine
from mobilevit_jax.training.setup import abstract_state, begin

# What the compiler says of a program that is larger than the memory.
_USED = re.compile(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm", re.IGNORECASE)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Compiled:
    """One step, as the compiler accounts for it; numbers are of one device.

    Attributes:
        step: "train" or "evaluate".
        size: "256x256".
        batch: Images over all devices.
        lower_seconds: Tracing and lowering, here.
        compile_seconds: The compiler's work, here.
        fits: Whether the device has the memory.
        memory: Bytes of arguments, results and what lives between; None where the compiler gave up
            without telling.
        temporary: Bytes of what lives during the step only, likewise.
        operations: Of a step, a multiply-add counted as two; None if it does not fit, as the next.
        accessed: Bytes read and written by the program's operations.
        bound_seconds: What the step takes at least: the larger of operations and bytes over the
            chip's peaks. Bytes that stay in the chip's own small memory are counted too, so that a
            step that is bound by bytes can be somewhat faster.
    """

    step: str
    size: str
    batch: int
    lower_seconds: float
    compile_seconds: float
    fits: bool
    memory: int | None
    temporary: int | None
    operations: float | None
    accessed: float | None
    bound_seconds: float | None


@contextlib.contextmanager
def topology_of(target: Target) -> Iterator[Sequence[Any]]:
    """Opens the compiler; what is mapped over devices in the block is mapped over the target's.

    Yields:
        The devices of the slice, which can be compiled for and not run on.

    Raises:
        ConfigurationError: If libtpu is not installed, or another process holds it.
    """
    # Nothing is asked of a metadata server, which only TPU machines have.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    options: dict[str, Any] = {"chips_per_host_bounds": target.chips_per_host}
    if target.chip.config:
        options["chip_config_name"] = target.chip.config
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=target.topology, **options
        )
    except Exception as error:  # jaxlib's own, of no common base
        raise _no_compiler(error) from error
    with parallel.mapped_over(found.devices):
        yield found.devices


def _no_compiler(error: Exception) -> ConfigurationError:
    text = str(error)
    if "lockfile" in text or "in use" in text or "ALREADY_EXISTS" in text:
        return ConfigurationError(
            "another process holds libtpu, which one at a time may load; wait for it, or set "
            "ALLOW_MULTIPLE_LIBTPU_LOAD=true"
        )
    return ConfigurationError(
        f"there is no TPU compiler here ({shortened(text)}); install it with "
        "pip install 'mobilevit-jax[tpu]', which needs Linux on x86-64"
    )


def compile_steps(
    settings: TaskSettings, task: DataTask, chip: Chip, say: Callable[[str], None]
) -> Iterator[Compiled]:
    """Compiles the training step of every scale, the largest images first, then the evaluation.

    Args:
        settings: The experiment.
        task: From `tasks.create_task`, in the block of `topology_of`.
        chip: What the target's devices are.
        say: Told what is being compiled, which may take minutes.

    Yields:
        What the compiler says of each step, when it is done.
    """
    learning_rate = warmup_cosine(settings.schedule, task.steps_of_epochs)
    _, step = begin(settings, task, learning_rate)
    state = abstract_state(settings, task, learning_rate)
    for scale in sorted(task.table, key=lambda scale: -scale.height * scale.width):
        say(f"compiling the training step at {scale.name}, batch {scale.batch_size}")
        batch = parallel.abstract_shard(task.zero_batch(scale))
        yield _compile("train", scale.name, scale.batch_size, step, (state, batch), chip)
    evaluator = task.evaluator
    rows = parallel.device_count() * -(-settings.evaluation.batch_size // parallel.device_count())
    height, width = evaluator.size
    say(f"compiling the evaluation step at {height}x{width}, batch {rows}")
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    arguments = variables, parallel.abstract_shard(evaluator.zero_batch(rows))
    yield _compile("evaluate", f"{height}x{width}", rows, evaluator.step, arguments, chip)


def _compile(
    step: str, size: str, batch: int, function: Any, arguments: tuple[Any, ...], chip: Chip
) -> Compiled:
    start = time.perf_counter()
    lowered = in_thread(lambda: lower(function, *arguments))
    middle = time.perf_counter()
    try:
        compiled = in_thread(lowered.compile)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds = middle - start, time.perf_counter() - middle
        used = _used(str(error))
        return Compiled(step, size, batch, *seconds, False, used, None, None, None, None)
    seconds = middle - start, time.perf_counter() - middle
    told, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    memory = (
        told.argument_size_in_bytes
        + told.output_size_in_bytes
        - told.alias_size_in_bytes
        + told.temp_size_in_bytes
        + told.generated_code_size_in_bytes
    )
    operations, accessed = costs["flops"], costs["bytes accessed"]
    bound = max(operations / chip.operations_per_second, accessed / chip.bytes_per_second)
    fits = memory <= chip.memory
    temporary = told.temp_size_in_bytes
    return Compiled(
        step, size, batch, *seconds, fits, memory, temporary, operations, accessed, bound
    )


def _used(message: str) -> int | None:
    """Returns the bytes that a program would have needed, from the compiler's refusal."""
    found = _USED.search(message)
    return int(float(found[1]) * _UNITS[found[2].upper()]) if found else None


def described(settings: TaskSettings, names: Sequence[str], examples: int) -> DatasetInfo:
    """Describes a data set that is not here, for `tasks.create_task`.

    Args:
        settings: The experiment, which names it.
        names: Its classes, without a background.
        examples: Of the training split; the schedule's table depends on it, and nothing else.
    """
    data = settings.data
    splits = {split: examples for split in (data.train, data.validation, data.test) if split}
    return DatasetInfo(data.dataset, Path(), splits, tuple(names))
