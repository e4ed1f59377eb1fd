"""What the commands show: results on stdout, progress on stderr, plain where there is no terminal.

Progress goes to stderr so that `mobilevit predict --json > file` and pipes get results alone.
"""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Self, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mobilevit_jax.errors import count as count
from mobilevit_jax.errors import visible

# Without a terminal there is no width to fit: rich would fold tables at 80 columns, and cut names.
_PLAIN_WIDTH = 2**16

# Steps of a multi-scale run differ in length, so the time left is estimated over many of them.
_SPEED_WINDOW_SECONDS = 120.0


def make_console(stream: TextIO) -> Console:
    """Returns a console on a stream: coloured on a terminal, plain text elsewhere.

    What is printed is printed as it is: names may have brackets, which rich would take for markup.
    Only `TextColumn` of a progress bar has to be told so itself.
    """
    terminal = stream.isatty()
    return Console(
        file=stream,
        highlight=False,
        markup=False,
        width=None if terminal else _PLAIN_WIDTH,
        emoji=False,
        # A notebook is no terminal, though it sets $FORCE_COLOR, and rich would show each line
        # there as a block of HTML.
        force_terminal=terminal,
        force_jupyter=False,
    )


def say(message: str) -> None:
    """Prints one line for the reader, on stderr."""
    make_console(sys.stderr).print(visible(message), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Prints a table on stdout: the first column to the left, the others to the right.

    Args:
        columns: Headings, which are the commands' own words and may have line breaks.
        rows: One sequence of cells a row; floats are shown with four significant digits.
        title: Shown above the table if not empty.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for index, heading in enumerate(columns):
        # Names may be longer than a terminal is wide; numbers are not broken.
        justify = "right" if index else "left"
        table.add_column(heading, justify=justify, no_wrap=index > 0, overflow="fold")
    for row in rows:
        table.add_row(*[_cell(value) for value in row])
    console = make_console(sys.stdout)
    if title:  # a table would fold its title at its own width
        console.print(visible(title), soft_wrap=True)
    console.print(table)


class TrainProgress:
    """Shows how far training is: a live bar on a terminal, elsewhere one line a log row.

    Use it as a context manager; `update` after a step, `log` when a row of metrics is written.
    Steps and epochs are those of the whole run; it is shown on stderr if no stream is given.
    """

    def __init__(self, total_steps: int, *, epochs: int, stream: TextIO | None = None) -> None:
        self._console = make_console(stream or sys.stderr)
        self._live = self._console.is_terminal
        self._epochs = epochs
        self._fields = {"epoch": 0, "loss": "-", "speed": "-"}
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} images/s"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not self._live,
            expand=True,
            transient=True,
            speed_estimate_period=_SPEED_WINDOW_SECONDS,
        )
        self._task = self._progress.add_task("train", total=total_steps, **self._fields)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def update(
        self,
        step: int,
        *,
        epoch: int,
        loss: float | None = None,
        images_per_second: float | None = None,
    ) -> None:
        """Moves the bar; what is None keeps its last value, so that no step waits for a device.

        Args:
            step: Steps done.
            epoch: The epoch that the step belongs to, counted from 1.
            loss: The latest loss that the host knows.
            images_per_second: The latest speed that was measured.
        """
        self._fields["epoch"] = epoch
        if loss is not None:
            self._fields["loss"] = f"{loss:.4f}"
        if images_per_second is not None:
            self._fields["speed"] = f"{images_per_second:.0f}"
        self._progress.update(self._task, completed=step, **self._fields)

    def begin(self, first_step: int) -> None:
        """Starts the clock of the time left, at the step that the run goes on from."""
        self._progress.reset(self._task, completed=first_step, **self._fields)

    def say(self, message: str) -> None:
        """Prints one line, above the bar where there is one."""
        self._console.print(visible(message), soft_wrap=True)

    def log(self, row: Mapping[str, object]) -> None:
        """Prints one line for a row of metrics, above the bar where there is one."""
        # On a terminal a long row is folded between words, elsewhere it stays one line.
        soft_wrap = not self._live
        self._console.print(format_row(row, self._epochs), soft_wrap=soft_wrap)


def format_row(row: Mapping[str, object], epochs: int) -> str:
    """Puts a row of metrics.jsonl in one line: `epoch 3/40 step 120 train  loss 1.235 ...`.

    Seconds and the norm of the gradient are left to the file, so that a row fits a terminal.
    """
    parts = [f"epoch {row['epoch']}/{epochs} step {row['step']} {row['split']}"]
    for name, value in row.items():
        if name in ("epoch", "step", "split", "gradient_norm") or name.endswith("_seconds"):
            continue
        if name.endswith("_per_second"):
            parts.append(f"{value:,.0f} {name.removesuffix('_per_second')}/s")
        else:
            parts.append(f"{'lr' if name == 'learning_rate' else name} {_cell(value)}")
    return "  ".join(parts)


def _cell(value: object) -> str:
    if not isinstance(value, float) or not math.isfinite(value):
        return visible(str(value))
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
