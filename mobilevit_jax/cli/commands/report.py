"""`mobilevit report`: the tables and figures of runs and sweeps, in one page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mobilevit_jax.cli.console import count, say
from mobilevit_jax.cli.options import called, read, refusing
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.errors import ExitStatus


@dataclass(frozen=True)
class Arguments:
    """Write a page of runs and studies: our numbers beside the paper's, curves, sizes, times.

    index.html holds everything, pictures included, and opens without a network; tables.md and the
    pictures lie beside it. Nothing is trained or evaluated: what is missing is said to be.

    Attributes:
        runs: Work directories of mobilevit train, and directories of mobilevit sweep.
        output: Directory to write into; an earlier report in it is replaced.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, called("RUNS...")]
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("report")


def main(argv: list[str]) -> int:
    """Runs `mobilevit report` and returns its exit status.

    Raises:
        ConfigurationError: If a directory holds no run, or the report cannot be written.
        DataError: If the record of a sweep cannot be read.
    """
    arguments = read(Arguments, "report", argv)
    # Late, so that --help does not wait for JAX and matplotlib.
    import jax

    jax.config.update("jax_platforms", "cpu")  # accelerators are left to runs that still go on
    start_jax()
    from mobilevit_jax.studies import report

    collected = report.collect(arguments.runs)
    say(f"counting the models, for a report of {count(len(collected.entries), 'run')}")
    page = report.compose(collected)
    with refusing(f"the report {arguments.output} cannot be written", "--output"):
        index = report.write(page, arguments.output, say)
    for notice in page.notices:
        say(f"note: {notice}")
    say(f"written to {index}")
    return ExitStatus.DONE
