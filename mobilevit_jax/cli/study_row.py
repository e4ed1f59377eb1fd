"""One run of a sweep in its own process, `python -m mobilevit_jax.cli.study_row`: order on stdin.

So a run that crashes or runs out of memory takes no other with it, and each starts with an empty
machine. The compilation cache on the disk is shared.
"""

import ctypes
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from mobilevit_jax.cli.commands import evaluate, train
from mobilevit_jax.cli.main import guarded, leave
from mobilevit_jax.cli.runtime import HostsOptions, start_jax
from mobilevit_jax.cli.weights import WeightsOptions
from mobilevit_jax.config import Experiment, from_dict, to_dict
from mobilevit_jax.errors import ExitStatus

_PR_SET_PDEATHSIG = 1  # from Linux's <sys/prctl.h>


@dataclass(frozen=True)
class Order:
    """What the process is to do.

    Attributes:
        experiment: To train; a finished one is not trained again.
        directory: Its work directory.
        sizes: Sides in pixels at which the final weights are evaluated afterwards.
        deterministic: As of `mobilevit train`.
        parent: The process that gave the order.
    """

    experiment: Experiment
    directory: str
    sizes: tuple[int, ...]
    deterministic: bool
    parent: int

    def as_json(self) -> str:
        """Returns what the process reads."""
        return json.dumps(to_dict(self))


def main() -> int:
    """Does what stdin orders; returns the exit status of `mobilevit train`."""
    order = from_dict(Order, json.load(sys.stdin))
    _end_with(order.parent)
    start_jax(deterministic=order.deterministic)
    directory = Path(order.directory)
    with HostsOptions().joined():
        status = train.run(order.experiment, directory)
    if status == ExitStatus.DONE and order.sizes:
        _evaluate(directory, order.sizes)
    return status


def _evaluate(directory: Path, sizes: tuple[int, ...]) -> None:
    choice = WeightsOptions(str(directory))
    loaded = choice.load()
    for size in sizes:
        evaluate.report(evaluate.Arguments(choice, size=size), loaded)


def _end_with(parent: int) -> None:
    """Has this process told to stop, and save, when the one that ordered it is killed."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before
        sys.exit(ExitStatus.STOPPED)


if __name__ == "__main__":
    leave(guarded(main))
