"""`mobilevit benchmark MODEL...`: forward passes and training steps against the machine's best."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mobilevit_jax.base.cores import usable_cores
from mobilevit_jax.cli.console import count, print_table, say
from mobilevit_jax.cli.options import called, check_output, read
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.errors import ConfigurationError, ExitStatus

if TYPE_CHECKING:
    from mobilevit_jax.analysis.programs import Program, Setting
    from mobilevit_jax.analysis.speed import Ceilings, Row

_CACHE = "jax_enable_compilation_cache"
# Eight narrow columns, which fit 80 characters.
_HEADINGS = (
    *("work, size\nx batch", "ms", "+/-", "images\n/s", "compile\ns", "held\nMB"),
    *("matmul", "copy"),
)


@dataclass(frozen=True)
class Arguments:
    """Measure models, or an experiment.

    `mobilevit benchmark MODEL...` measures models by their names (`mobilevit models` lists them) on
    drawn inputs: every combination of --work, --sizes, --batches and --dtypes.

    `mobilevit benchmark FILE.py` measures an experiment with its data: the loader alone, the step
    at each size, and both together; `mobilevit benchmark FILE.py --help` shows its options.

    The table of the first form: median of the rounds, how far the slowest is from the fastest,
    images/s, seconds of tracing and compiling (* if the persistent cache had the program), and the
    most memory held beyond what there was before, of the device, or on a CPU of the process; in
    brackets what XLA planned for the program, where no peak can be told. Then two shares of what
    the machine did at best in the same run: of the arithmetic/s of one large matrix product of the
    same dtype (a training step counts as three forward passes), and of the bytes/s of one large
    copy (by XLA's count of the bytes that operations touch, of which caches may serve some).

    Attributes:
        models: Names of models.
        work: "forward", one call at a time on one device; "train", training steps of the model's
            task with its loss, AdamW and the average of the weights, on all devices.
        sizes: Heights and widths of the images in pixels; if not given, what each model was
            published for: 256, 320 for detectors, 512 for segmentation.
        batches: Images of a call.
        dtypes: Types of the computation, "float32" or "bfloat16".
        rounds: Rounds of calls, 0.3 seconds each or one call.
        cold: Compile anew, whatever the persistent cache has.
        output: Write all numbers into this JSON file, anew after each row, so that an interrupted
            run leaves what it had.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, called("MODEL...")]
    work: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORK...")] = ("forward",)
    sizes: Annotated[tuple[int, ...], called("INT...")] = ()
    batches: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT...")] = (1, 8)
    dtypes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DTYPE...")] = ("float32",)
    rounds: int = 5
    cold: bool = False
    output: Annotated[Path | None, called("FILE")] = None


def main(argv: list[str]) -> int:
    """Runs `mobilevit benchmark MODEL...` and returns its exit status.

    Raises:
        ConfigurationError: If an option is wrong, or something needs more memory than there is.
        KeyboardInterrupt: If it was interrupted; what was measured has been shown and written.
    """
    arguments = read(Arguments, "benchmark", argv)
    _check(arguments)
    start_jax()
    settings = _settings(arguments)
    report = Report(arguments.output, len(settings), machine())
    try:
        with _cold() if arguments.cold else contextlib.nullcontext():
            _measure(settings, arguments.rounds, report)
    finally:
        report.show()
    return ExitStatus.DONE


@contextlib.contextmanager
def _cold() -> Iterator[None]:
    """Keeps the persistent compilation cache aside."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = getattr(jax.config, _CACHE)
    try:
        jax.config.update(_CACHE, False)
        compilation_cache.reset_cache()  # JAX asks once whether there is one
        yield
    finally:
        jax.config.update(_CACHE, before)
        compilation_cache.reset_cache()


def _check(arguments: Arguments) -> None:
    """Raises ConfigurationError for what no setting tells, before anything is set up."""
    if not arguments.models:
        raise ConfigurationError("name a model, such as mobilevit_s, or an experiment (FILE.py)")
    for name in ("work", "batches", "dtypes"):
        if not getattr(arguments, name):
            raise ConfigurationError(f"--{name} needs a value")
    for name in ("sizes", "batches"):
        for number in getattr(arguments, name):
            if number < 1:
                raise ConfigurationError(f"--{name} must be at least 1; got {number}")
    if arguments.rounds < 1:
        raise ConfigurationError(f"--rounds must be at least 1; got {arguments.rounds}")
    if arguments.output is not None:
        check_output(arguments.output)


def _settings(arguments: Arguments) -> list["Setting"]:
    """Returns every combination, each once, in the order of the table."""
    from mobilevit_jax.analysis.programs import Setting

    combinations = itertools.product(
        dict.fromkeys(arguments.models),
        dict.fromkeys(arguments.dtypes),
        dict.fromkeys(arguments.work),
        dict.fromkeys(arguments.sizes or (None,)),
        dict.fromkeys(arguments.batches),
    )
    try:
        return [
            Setting(model, work, size, batch, dtype)
            for model, dtype, work, size, batch in combinations
        ]
    except ConfigurationError as error:
        files = [f"{name}.py" for name in arguments.models if Path(f"{name}.py").is_file()]
        if files:
            hint = f"; for the experiment, name {files[0]}"
            raise ConfigurationError(f"{error}{hint}") from error
        raise


def _measure(settings: Sequence["Setting"], rounds: int, report: "Report") -> None:
    """Compiles everything, so that what does not fit is known before the start; then measures."""
    from mobilevit_jax.analysis.programs import compile_program
    from mobilevit_jax.analysis.speed import measure, measure_ceilings
    from mobilevit_jax.training.compile import in_thread

    programs: dict[int, Program] = {}
    # What needs the most memory comes first, so that an error comes early.
    largest = sorted(range(len(settings)), key=lambda index: _weight(settings[index]))
    for number, index in enumerate(largest, 1):
        say(f"compiling {settings[index]} ({number}/{len(settings)})")
        programs[index] = in_thread(lambda index=index: compile_program(settings[index]))
    ceilings: dict[tuple[str, int], Ceilings] = {}
    for index, setting in enumerate(settings):
        program = programs.pop(index)
        key = setting.dtype, len(program.devices)
        if key not in ceilings:
            say(f"measuring one large matrix product in {setting.dtype}, and one large copy")
            ceilings[key] = measure_ceilings(setting.dtype, program.devices, rounds=rounds)
        say(f"measuring {setting} ({index + 1}/{len(settings)})")
        report.add(measure(program, ceilings[key], rounds=rounds), ceilings[key])


def _weight(setting: "Setting") -> int:
    pixels = setting.batch * setting.side**2
    return -pixels * (10 if setting.work == "train" else 1)


@dataclass
class Report:
    """What was measured so far: a JSON file after every row, and tables at the end.

    Attributes:
        path: The JSON file, or None.
        planned: How many rows there will be.
        machine: What the numbers depend on besides the code.
        rows: Each with the ceilings that it is compared with.
        written: Whether there is a file.
    """

    path: Path | None
    planned: int
    machine: dict[str, Any]
    rows: list[tuple["Row", "Ceilings"]] = field(default_factory=list)
    written: bool = False

    def add(self, row: "Row", ceilings: "Ceilings") -> None:
        """Keeps a row, and writes the file anew."""
        self.rows.append((row, ceilings))
        milliseconds = 1e3 * row.seconds.median
        say(f"    {milliseconds:,.4g} ms, {row.images_per_second:,.4g} images/s")
        if self.path is None:
            return
        from mobilevit_jax.training.workdir import write_json

        rows = [row.as_json() | {"ceilings": asdict(best)} for row, best in self.rows]
        complete = len(rows) == self.planned
        write_json(self.path, {"machine": self.machine, "complete": complete, "rows": rows})
        self.written = True

    def show(self) -> None:
        """Prints a table for each model and dtype; nothing if there is no row."""
        tables = itertools.groupby(self.rows, lambda one: (one[0].setting.model, one[1].dtype))
        for (model, dtype), group in tables:
            rows = list(group)
            best = rows[0][1]
            title = (
                f"{model}, {dtype}: matmul {best.operations_per_second / 1e9:,.4g} GFLOP/s, "
                f"copy {best.bytes_per_second / 1e9:,.4g} GB/s"
            )
            print_table(_HEADINGS, [_cells(row) for row, _ in rows], title=title)
        if self.rows and len(self.rows) < self.planned:
            say(f"{count(len(self.rows), 'row')} of {self.planned} measured")
        if self.written:
            say(f"written to {self.path}")


def _cells(row: "Row") -> list[object]:
    setting, held = row.setting, _megabytes(row.held_bytes)
    if row.held_bytes is None and row.total_bytes is not None:
        held = f"({_megabytes(row.total_bytes)})"
    compiling = f"{row.lower_seconds + row.compile_seconds:.1f}"
    return [
        f"{setting.work:<7} {setting.side} x{setting.batch}",
        1e3 * row.seconds.median,
        f"{row.seconds.spread:.0%}",
        row.images_per_second,
        compiling + ("*" if row.from_cache else ""),
        held,
        f"{row.share_of_matmul:.1%}",
        "-" if row.share_of_copy is None else f"{row.share_of_copy:.0%}",
    ]


def _megabytes(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 1e6:,.0f}" if number >= 1e7 else f"{number / 1e6:.1f}"


def machine() -> dict[str, Any]:
    """Returns what the numbers depend on besides the code."""
    import jax

    from mobilevit_jax.training.workdir import versions

    device = jax.local_devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "cores": usable_cores(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "versions": versions(),
    }
