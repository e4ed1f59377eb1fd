"""A run's work directory: what experiment it is of, and the files in it."""

import contextlib
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from mobilevit_jax.base.atomic import write_json as write_json
from mobilevit_jax.base.json_dataclasses import differences, from_dict, to_dict
from mobilevit_jax.base.run_files import CHECKPOINTS, EXPERIMENT, METRICS
from mobilevit_jax.errors import ConfigurationError, DataError, check_local
from mobilevit_jax.training.settings import TrainingSettings

S = TypeVar("S", bound=TrainingSettings)

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"),
    *("opencv-python-headless", "mobilevit-jax"),
)
# What may differ between the starts of one run: where the data are, and how they are read.
_MACHINE = ("data.data_dir", "loader.")


def open_workdir(
    workdir: Path,
    settings: TrainingSettings,
    class_names: tuple[str, ...],
    examples: int | None = None,
) -> None:
    """Makes the directory, or checks that it belongs to the same experiment.

    Args:
        workdir: The directory.
        settings: Of the run; all of it is written, and compared.
        class_names: Of the data set, kept for prediction.
        examples: Number of training examples, on which the plan of a run depends.

    Raises:
        ConfigurationError: If the directory holds another experiment, whose fields are listed, or
            the data set has changed.
        OSError: If it cannot be made or written.
    """
    check_local(workdir, "the work directory")
    workdir.mkdir(parents=True, exist_ok=True)
    if not os.access(workdir, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"the work directory {workdir} may not be written; choose another with --workdir"
        )
    record = check_same(workdir, settings)
    if record is not None:
        _check_data(record, class_names, examples, workdir)
        return
    if saved_steps(workdir):
        raise ConfigurationError(
            f"{workdir} holds checkpoints but no {EXPERIMENT}; choose another --workdir"
        )
    begun = {
        "experiment": to_dict(settings),
        "class_names": list(class_names),
        "examples": examples,
        "versions": versions(),
        "commit": _commit(),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(workdir / EXPERIMENT, begun)


def saved_steps(workdir: Path) -> list[int]:
    """Returns the steps of the checkpoints, sorted, without opening them."""
    # What a killed save leaves there has another name.
    names = [path.name for path in workdir.glob(f"{CHECKPOINTS}/*")]
    return sorted(int(name) for name in names if name.isdecimal())


def is_started(workdir: Path) -> bool:
    """Whether a run has left anything there that another experiment would destroy."""
    metrics = workdir / METRICS
    return bool(saved_steps(workdir)) or (metrics.exists() and metrics.stat().st_size > 0)


def check_same(workdir: Path, settings: TrainingSettings) -> dict[str, Any] | None:
    """Refuses a directory that another experiment was started in; any other will do.

    Returns:
        The record of the same experiment, None if none was started there.

    Raises:
        ConfigurationError: Lists the fields that differ.
        DataError: If its record cannot be read.
    """
    if not ((workdir / EXPERIMENT).exists() and is_started(workdir)):
        return None
    record = read_record(workdir)
    # Through the dataclasses, so that a field younger than the directory has its default.
    before = to_dict(_parse(record, workdir, type(settings)))
    changed = [d for d in differences(before, to_dict(settings)) if not d.startswith(_MACHINE)]
    if changed:
        raise ConfigurationError(
            f"{workdir} belongs to another experiment ({'; '.join(changed)}); "
            "choose another --workdir, or remove it to start anew"
        )
    return record


def read_record(workdir: Path) -> dict[str, Any]:
    """Returns what `experiment.json` holds, as `open_workdir` has written it.

    Raises:
        DataError: If the file is missing or cannot be read.
    """
    path = workdir / EXPERIMENT
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record["experiment"], dict):
            raise TypeError("'experiment' is not an object")
    except FileNotFoundError as error:
        raise DataError(f"{workdir} is not a work directory: it has no {EXPERIMENT}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); was it edited?") from error
    return record


def read_settings(workdir: Path, kind: type[S]) -> tuple[S, tuple[str, ...]]:
    """Returns the settings of a work directory's run and the class names of its data set.

    Raises:
        DataError: If the directory has none, or they cannot be read.
    """
    record = read_record(workdir)
    return _parse(record, workdir, kind), tuple(record.get("class_names", ()))


def _parse(record: dict[str, Any], workdir: Path, kind: type[S]) -> S:
    try:
        return from_dict(kind, record["experiment"])
    except (ConfigurationError, TypeError) as error:
        raise DataError(f"{workdir / EXPERIMENT}: {error}") from error


def _check_data(
    record: dict[str, Any], class_names: tuple[str, ...], examples: int | None, workdir: Path
) -> None:
    before, now = record.get("examples"), examples
    if tuple(record.get("class_names", ())) != class_names:
        before, now = "other class names", "these"
    if before != now:
        raise ConfigurationError(
            f"the data set has changed since {workdir} was begun (training examples: {before} -> "
            f"{now}); choose another --workdir"
        )


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a run depends on, by name."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _commit() -> str | None:
    """Returns the commit of the checkout that this package runs from, "-dirty" if changed."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return run.stdout.strip()

    try:
        # Fails if the package is installed inside somebody else's checkout.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("describe", "--always", "--dirty", "--abbrev=40") or None
    except (OSError, subprocess.SubprocessError):
        return None
