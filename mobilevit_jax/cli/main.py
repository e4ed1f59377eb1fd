"""The command `mobilevit`: finds the sub-command, and turns errors into one line and a status.

Exit status: 0 done; 2 bad usage or configuration; 3 stopped by a signal, saved, run the same
command again (only `train` and `sweep` return it); 1 anything else, an interrupt that saved nothing
included.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import mobilevit_jax
from mobilevit_jax.errors import ExitStatus, MobileViTError, exit_at_once, unknown_name, visible

COMMANDS: dict[str, str] = {
    "train": "train, evaluate and checkpoint the experiment of a Python file",
    "sweep": "train all rows of a study, such as an ablation of the paper",
    "report": "write a page of runs and studies, their numbers beside the paper's",
    "evaluate": "measure the accuracy of weights on a data set",
    "predict": "name what images show",
    "convert": "write weights for transformers, CVNets, timm or this package",
    "prepare": "store a data set in the form that training reads",
    "models": "list the models with their parameters and multiply-adds",
    "compile": "say whether an experiment fits a TPU, by the TPU's compiler and without a TPU",
    "benchmark": "measure the speed of the loader, of the step and of the whole run",
}


def console() -> NoReturn:
    """Runs the command of `sys.argv` and ends the process with its exit status."""
    leave(main())


def leave(status: int) -> NoReturn:
    """Ends the process with an exit status, whatever is still going on in it."""
    compiling = sys.modules.get("mobilevit_jax.training.compile")
    if compiling is not None and compiling.still_compiling():
        # A signal came while XLA was compiling, and the interpreter would wait for it.
        exit_at_once(status)
    sys.exit(status)


_HELP = """usage: mobilevit COMMAND [OPTION...]

MobileViT in JAX: prepare data, train, evaluate, predict.

commands:
{}

options:
  --help     show this text; after a command, the options of that command
  --version  show the version
  --debug    show the traceback of an error"""


def help_text() -> str:
    """Returns what `mobilevit --help` prints."""
    width = max(map(len, COMMANDS))
    return _HELP.format("\n".join(f"  {name:<{width}}  {does}" for name, does in COMMANDS.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `mobilevit ARGV` and returns its exit status.

    Args:
        argv: The arguments after the program's name; `sys.argv[1:]` by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = _take_debug(arguments)
    return guarded(lambda: _dispatch(arguments), debug=debug)


def guarded(command: Callable[[], int], *, debug: bool = False) -> int:
    """Runs a command and returns its exit status; an error becomes one line and a status.

    Args:
        command: Returns the status.
        debug: Whether the traceback of an error is shown instead.
    """
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader, such as `head`, went away: no error of ours. What is still buffered would
        # raise again when the interpreter closes stdout, so stdout is pointed at nothing.
        _discard_stdout()
        return ExitStatus.FAILED
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exception(error)
        else:
            print(f"mobilevit: error: {visible(describe(error))}", file=sys.stderr)
        return ExitStatus.of(error)


def describe(error: BaseException) -> str:
    """Puts an exception in one line that a user can act upon."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    message = " ".join(str(error).split())
    if isinstance(error, MobileViTError):
        return message
    if isinstance(error, OSError) and error.strerror:
        where = f": {os.fspath(error.filename)}" if isinstance(error.filename, str) else ""
        return f"{error.strerror}{where}"
    name = type(error).__name__
    # Notes that say what was being done; JAX's are about its tracebacks.
    doing = [note for note in getattr(error, "__notes__", ()) if note.startswith("while ")]
    said = " ".join([f"{name}: {message}" if message else name, *doing])
    return f"{said} (--debug shows the traceback)"


def _take_debug(arguments: list[str]) -> bool:
    """Removes every `--debug` before a `--` from the arguments, and says whether there was one."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    found = len(options) < end
    arguments[:end] = options
    return found


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return ExitStatus.DONE
    command = arguments[0]
    if command in ("-V", "--version"):
        print(f"mobilevit {mobilevit_jax.__version__}")
        return ExitStatus.DONE
    if command not in COMMANDS:
        kind = "option" if command.startswith("-") else "command"
        allowed = ("--help", "--version", "--debug") if kind == "option" else COMMANDS
        raise unknown_name(kind, command, allowed)
    module = importlib.import_module(f"mobilevit_jax.cli.commands.{command}")
    return module.main(arguments[1:])


def _discard_stdout() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
