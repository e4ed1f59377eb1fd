"""`%mobilevit` in Jupyter and Colab: `%load_ext mobilevit_jax.cli.notebook`, then any command.

The command runs in the notebook's own process, since a TPU belongs to one process at a time; what
it prints appears under the cell. Variables of the notebook are written as `{name}`.
"""

import contextlib
import shlex
import sys
from typing import Any

from mobilevit_jax.allocator import keep_memory_of_steps
from mobilevit_jax.cli.main import main


def load_ipython_extension(ipython: Any) -> None:
    """Adds `%mobilevit` to a session of IPython; `%load_ext` calls this."""
    keep_memory_of_steps()  # cells before the first command may start JAX
    ipython.register_magic_function(run, "line", "mobilevit")


def run(line: str) -> None:
    """Runs `mobilevit LINE`: `%mobilevit train experiments/quickstart.py --epochs 3`.

    Args:
        line: The arguments, quoted as in a shell.

    Raises:
        UsageError: Of IPython, so that a cell whose command fails is an error, and stops "run all".
    """
    from IPython.core.error import UsageError

    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"%mobilevit {line}: {error}") from None
    # A notebook colours stderr as if progress were an alarm.
    with contextlib.redirect_stderr(sys.stdout):
        try:
            status = main(words)
        except SystemExit as ended:  # --help, and what tyro refuses
            status = ended.code
    if status:
        command = words[0] if words else ""
        raise UsageError(f"%mobilevit {command} ended with status {status}; see what it said above")
