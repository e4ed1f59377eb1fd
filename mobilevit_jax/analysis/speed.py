"""How fast a model is here, and which share of what the machine can do: of a matmul and of a copy.

    from mobilevit_jax.analysis.speed import measure_model

    row = measure_model("mobilevit_s", work="train", size=256, batch=16)
    print(row.seconds.median, row.images_per_second, row.share_of_matmul)

`time_calls` times any function. `Setting` and `compile_program`, of `programs`, are the parts of
which `measure_model` is made, for those who compile several settings before they run the first.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mobilevit_jax.analysis import memory
from mobilevit_jax.analysis.memory import Device
from mobilevit_jax.analysis.programs import (
    Account,
    Program,
    Setting,
    check_memory,
    compile_program,
)
from mobilevit_jax.errors import ConfigurationError

ROUNDS = 5
ROUND_SECONDS = 0.3
# Sides of the matrices and bytes of the array that ceilings are measured with: beyond what caches
# and the starting of work make of them, and below what a small machine has.
_SIDE = {"cpu": 2048}
_COPIED = {"cpu": 256 * 2**20}
_ACCELERATOR_SIDE, _ACCELERATOR_COPIED = 8192, 2**30


@dataclass(frozen=True)
class Seconds:
    """Seconds of one call, measured over several rounds.

    Attributes:
        rounds: Of each round: the mean of its calls.
    """

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Slowest minus fastest round, as a share of the median."""
        return (max(self.rounds) - min(self.rounds)) / self.median


@dataclass(frozen=True)
class Ceilings:
    """What devices did at best, all of them together; each the fastest of several rounds.

    Attributes:
        dtype: Of the matrices.
        operations_per_second: Of one product of two large square matrices, a multiply-add counted
            as two, at JAX's default precision, as the models compute.
        bytes_per_second: Of one large array that is read, negated and written in its place, bytes
            read and written both counted.
    """

    dtype: str
    operations_per_second: float
    bytes_per_second: float


@dataclass(frozen=True, kw_only=True)
class Row(Account):
    """What was measured of a setting, beside what `Account` tells of its program.

    Attributes:
        setting: What it is.
        devices: How many it ran on.
        seconds: Of a call; of a forward pass its latency, of a training step the time between two
            while the next is queued, as training does.
        images_per_second: The batch divided by the median.
        peak_bytes: Most memory held while it ran: of the first device where that counts and no
            earlier work had reached as much, else resident memory of the process, JAX's own
            libraries included; None where neither can be told.
        peak_of: "device" or "process".
        bytes_before: The same just before its inputs were made.
        held_bytes: The difference: what the work itself held at most, inputs included.
        multiply_adds: Of a call; see `Setting.multiply_adds`.
        operations_per_second: Twice those, divided by the median.
        share_of_matmul: Of the ceiling's operations/s.
        bytes_per_second: Bytes accessed, divided by the median; None where XLA counts none.
        share_of_copy: Of the ceiling's bytes/s. XLA counts what each operation touches, so what
            comes from a cache can lift this above 1.
    """

    setting: Setting
    devices: int
    seconds: Seconds
    images_per_second: float
    peak_bytes: int | None
    peak_of: str
    bytes_before: int | None
    held_bytes: int | None
    multiply_adds: int
    operations_per_second: float
    share_of_matmul: float
    bytes_per_second: float | None
    share_of_copy: float | None

    def as_json(self) -> dict[str, Any]:
        """Returns the fields as JSON can hold them, the setting's beside the others."""
        fields = dataclasses.asdict(self)
        setting = fields.pop("setting") | {"size": self.setting.side}
        setting["options"] = {name: str(value) for name, value in self.setting.options.items()}
        seconds = {
            "median": self.seconds.median,
            "spread": self.seconds.spread,
            "rounds": list(self.seconds.rounds),
        }
        return {**setting, **fields, "seconds": seconds}


def measure_model(
    model: str,
    *,
    work: str = "forward",
    size: int | None = None,
    batch: int = 1,
    dtype: str = "float32",
    options: Mapping[str, Any] | None = None,
    rounds: int = ROUNDS,
    ceilings: Ceilings | None = None,
) -> Row:
    """Measures one setting of a model.

    Args:
        model: One of `list_models()`.
        work, size, batch, dtype, options: See `Setting`.
        rounds: How many rounds of calls the median is taken of.
        ceilings: What `measure_ceilings` gave in this process; measured first if None.

    Raises:
        ConfigurationError: If an argument is wrong, or the work needs more memory than there is.
    """
    setting = Setting(model, work, size, batch, dtype, options or {})
    program = compile_program(setting)
    if ceilings is None:
        ceilings = measure_ceilings(dtype, program.devices)
    return measure(program, ceilings, rounds=rounds)


def measure(program: Program, ceilings: Ceilings, *, rounds: int = ROUNDS) -> Row:
    """Runs a compiled program and puts its numbers together.

    Args:
        program: From `compile_program`.
        ceilings: Of the same devices and type.
        rounds: How many rounds of calls the median is taken of.

    Raises:
        ConfigurationError: If it needs more memory than there is by now, or there are no rounds.
    """
    check_memory(program)
    setting = program.setting
    with memory.peak(program.devices[0]) as peak:
        call = program.start()
        seconds = time_calls(call, rounds=rounds, queued=setting.work == "train")
        del call
    operations = 2 * setting.multiply_adds / seconds.median
    account = {part.name: getattr(program, part.name) for part in dataclasses.fields(Account)}
    accessed = program.bytes_accessed
    bytes_per_second = None if accessed is None else accessed / seconds.median
    return Row(
        setting=setting,
        devices=len(program.devices),
        seconds=seconds,
        images_per_second=setting.batch / seconds.median,
        peak_bytes=peak.most,
        peak_of=peak.of,
        bytes_before=peak.before,
        held_bytes=peak.held,
        multiply_adds=setting.multiply_adds,
        operations_per_second=operations,
        share_of_matmul=operations / ceilings.operations_per_second,
        bytes_per_second=bytes_per_second,
        share_of_copy=bytes_per_second and bytes_per_second / ceilings.bytes_per_second,
        **account,
    )


def time_calls(
    call: Callable[[], Any],
    *,
    rounds: int = ROUNDS,
    round_seconds: float | None = None,
    queued: bool = False,
    wait: Callable[[Any], Any] = jax.block_until_ready,
) -> Seconds:
    """Times a function that was compiled already, after calling it twice.

    Args:
        call: The function; what it returns is waited for.
        rounds: How many, at least 1.
        round_seconds: How long a round lasts at least, by default `ROUND_SECONDS`; it has one call
            at least.
        queued: Whether each call is made before the one before it has been waited for, as a
            training loop does; else each is waited for, which gives latency.
        wait: Waits for what the function returns.

    Raises:
        ConfigurationError: If there are no rounds.
    """
    if rounds < 1:
        raise ConfigurationError(f"rounds must be at least 1; got {rounds}")
    least = ROUND_SECONDS if round_seconds is None else round_seconds
    for _ in range(2):  # the second finds memory and threads as later ones do
        wait(call())
    return Seconds(tuple(_round(call, least, queued, wait) for _ in range(rounds)))


def _round(
    call: Callable[[], Any], least: float, queued: bool, wait: Callable[[Any], Any]
) -> float:
    """Returns the mean seconds of a call."""
    calls = 0
    start = time.perf_counter()
    before: Any = None
    while not calls or time.perf_counter() - start < least:
        result = call()
        wait(before if queued else result)
        before = result
        calls += 1
    wait(before)
    return (time.perf_counter() - start) / calls


def measure_ceilings(
    dtype: str = "float32",
    devices: Sequence[Device] | None = None,
    *,
    rounds: int = ROUNDS,
    side: int | None = None,
    copied_bytes: int | None = None,
) -> Ceilings:
    """Measures what devices can do, all at the same time.

    Args:
        dtype: Of the matrices.
        devices: Which; by default the first.
        rounds: How many rounds the best is taken of.
        side: Of the matrices; by default 2048 on CPUs, 8192 elsewhere.
        copied_bytes: Of the array on each device; by default 256 MiB on CPUs, 1 GiB elsewhere.

    Raises:
        ConfigurationError: If there is not the memory for it, or there are no rounds.
    """
    devices = tuple(devices or jax.local_devices()[:1])
    platform = devices[0].platform
    side = side or _SIDE.get(platform, _ACCELERATOR_SIDE)
    copied = copied_bytes or _COPIED.get(platform, _ACCELERATOR_COPIED)
    shared = len(devices) if platform == "cpu" else 1  # of one memory
    needed = shared * (3 * side**2 * jnp.dtype(dtype).itemsize + copied)
    memory.check(needed, memory.available(devices[0]), "measuring the machine's ceilings")

    multiply = jax.jit(lambda a: a @ a)
    matrices = [_ones((side, side), dtype, device) for device in devices]
    matmul = time_calls(lambda: [multiply(matrix) for matrix in matrices], rounds=rounds)

    # In place, since the pages of a new array would cost more than the copy.
    negate = jax.jit(lambda a: -a, donate_argnums=0)
    arrays = [_ones((copied // 4,), "float32", device) for device in devices]

    def copy() -> list[jax.Array]:
        arrays[:] = [negate(array) for array in arrays]
        return arrays

    copies = time_calls(copy, rounds=rounds)
    return Ceilings(
        dtype=dtype,
        operations_per_second=len(devices) * 2 * side**3 / min(matmul.rounds),
        bytes_per_second=len(devices) * 2 * 4 * (copied // 4) / min(copies.rounds),
    )


def _ones(shape: tuple[int, ...], dtype: str, device: Device) -> jax.Array:
    return jax.device_put(jnp.ones(shape, jnp.dtype(dtype)), device)
