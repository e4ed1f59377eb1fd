"""What the benchmarks share: what a number depends on, results that survive, tables, processes."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilevit_jax.base.atomic import replacing
from mobilevit_jax.errors import ConfigurationError, MobileViTError

_ANSWER = "> "  # begins a line that a worker tells its parent; libraries print others


def surroundings(packages: Sequence[str], cores: int) -> dict[str, Any]:
    """Returns what numbers depend on: machine, versions, date, command.

    Args:
        packages: Distributions whose versions matter; those that are not installed are left out.
        cores: CPU cores that were used.
    """
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        text = Path("/proc/cpuinfo").read_text()
        model = text.split("model name", 1)[1].split("\n", 1)[0].lstrip("\t :")
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "machine": f"{model}, {cores} cores used",
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
    }


class Results:
    """Rows of numbers, each written to a JSON file as soon as it is there.

    Attributes:
        rows: {key: row}; those of an earlier, interrupted run with the same settings included.
    """

    def __init__(
        self, path: Path | None, settings: Mapping[str, Any], about: Mapping[str, Any]
    ) -> None:
        """Reads what an earlier run has left.

        Args:
            path: The JSON file; None keeps nothing.
            settings: What rows must have been made with, as JSON holds it.
            about: What else is written, such as `surroundings`.

        Raises:
            ConfigurationError: If the file holds something else.
        """
        self._path, self._settings, self._about = path, dict(settings), dict(about)
        self.rows: dict[str, Any] = {}
        if path is None or not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            same, rows = found["settings"] == self._settings, found["rows"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{path} holds no results of this benchmark") from error
        if not same:
            raise ConfigurationError(
                f"{path} holds results made with other settings ({found['settings']}); name "
                "another --output, or remove it"
            )
        self.rows = rows

    def add(self, key: str, row: Any) -> None:
        """Adds a row and writes the file, whole or not at all."""
        self.rows[key] = row
        if self._path is not None:
            whole = {**self._about, "settings": self._settings, "rows": self.rows}
            with replacing(self._path) as unfinished:
                unfinished.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table; floats have three significant digits."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[_cell(value) for value in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


class Worker:
    """A process of its own that answers in JSON whenever it is told to work."""

    def __init__(
        self,
        script: str,
        task: Mapping[str, Any],
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        """Starts `python script --worker TASK`.

        Args:
            script: The file; its `--worker` calls `serve`.
            task: What the process is to do.
            environment: Variables that differ from this process's; None removes one.
        """
        variables = {**os.environ, **(environment or {})}
        self._process = subprocess.Popen(
            [sys.executable, script, "--worker", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: value for name, value in variables.items() if value is not None},
            text=True,
        )

    def ask(self, order: Any = None) -> Any:
        """Sends an order and waits for the answer.

        Raises:
            ConfigurationError: If the process has ended instead; it has said why on stderr.
        """
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(order), file=self._process.stdin, flush=True)
        for line in self._process.stdout or ():
            if line.startswith(_ANSWER):
                answer = json.loads(line[len(_ANSWER) :])
                if isinstance(answer, dict) and "error" in answer:
                    raise ConfigurationError(answer["error"])
                return answer
        raise ConfigurationError(
            f"a process of the benchmark has ended, status {self._process.wait()}; its own output "
            "above says why"
        )

    def close(self) -> None:
        """Ends the process."""
        with self._process as process:  # which closes its pipes
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()


def serve(answer: Callable[[Any], Any]) -> None:
    """Answers the orders that `Worker.ask` sends, until there are no more."""
    for line in sys.stdin:
        try:
            result = answer(json.loads(line))
        except MobileViTError as error:
            result = {"error": str(error)}
        print(_ANSWER + json.dumps(result), flush=True)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Ends the program with one line, instead of a traceback, for what a user can mend."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit("interrupted; what was measured is kept if --output was given") from None
    except MobileViTError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ConfigurationError) else 1) from None
    except OSError as error:
        raise SystemExit(f"error: {error.strerror or error}: {error.filename}") from None


def say(message: str) -> None:
    """Prints a line of progress on stderr."""
    sys.stderr.write(message + "\n")  # at once, since several threads may say something
    sys.stderr.flush()
