"""`mobilevit benchmark`: of models by their names, or of an experiment's file."""

import importlib
import itertools
import os


def main(argv: list[str]) -> int:
    """Runs `mobilevit benchmark` and returns its exit status."""
    form = "experiment" if names_a_file(argv) else "models"
    return importlib.import_module(f"mobilevit_jax.cli.commands.benchmark_{form}").main(argv)


def names_a_file(argv: list[str]) -> bool:
    """Returns whether an experiment is meant: a word ends with .py, or a path is named first."""
    first = itertools.takewhile(lambda word: not word.startswith("-"), argv)
    files = (word for word in argv if word.endswith(".py") and not word.startswith("-"))
    return any(files) or any(os.sep in word for word in first)
