"""The faults of `soak.py`: when to strike a run, how, and what to damage afterwards."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXPERIMENT = Path(__file__).with_name("soak_experiment.py")
_PATIENCE = 3600.0  # seconds; most of a start goes into tracing, on a busy machine minutes
_EXIT_STOPPED = 3


@dataclass
class Place:
    """Where a run and what it needs lie, and the command that starts it."""

    root: Path
    name: str
    options: tuple[str, ...] = ()
    boundaries: frozenset[int] = frozenset()
    starts: int = 0
    damaged: Path | None = None

    @property
    def workdir(self) -> Path:
        """The work directory."""
        return self.root / self.name

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.workdir / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Its rows."""
        return self.workdir / "metrics.jsonl"

    @property
    def newest(self) -> Path | None:
        """Its newest checkpoint."""
        return max(self.saved(), key=lambda path: int(path.name), default=None)

    def saved(self) -> list[Path]:
        """Returns the checkpoints that are finished."""
        return [path for path in self.checkpoints.glob("*") if path.name.isdigit()]

    def files_to_damage(self) -> list[Path]:
        """Returns the files of the newest checkpoint, if there is an older one to go back to."""
        newest = self.newest
        if newest is None or newest == self.damaged or len(self.saved()) < 3:
            return []
        self.damaged = newest
        return sorted(path for path in newest.rglob("*") if path.is_file())

    def start(self, suffix: str = "") -> "Child":
        """Gives the command again; its output goes to a file of its own."""
        self.starts += 1
        log = self.root / f"{self.name}-{self.starts:02}{suffix}.log"
        command = [sys.executable, "-m", "mobilevit_jax", "train", str(EXPERIMENT), *self.options]
        environment = os.environ | {
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "TFDS_DATA_DIR": str(self.root / "data"),
        }
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [*command, "--workdir", str(self.workdir)],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return Child(process, log)


@dataclass
class Child:
    """A process that trains."""

    process: subprocess.Popen[bytes]
    log: Path
    began: float = field(default_factory=time.monotonic)

    def rows(self) -> list[tuple[int, str]]:
        """Returns step and split of each row that it has written so far."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        found = re.findall(r"^epoch \d+/\d+ step (\d+) (\w+) .*\n", text, re.MULTILINE)
        return [(int(step), split) for step, split in found]

    def until(self, reached: Callable[[], Any]) -> bool:
        """Waits until something holds; returns whether it did before the process ended."""
        while not reached():
            if self.process.poll() is not None:
                return False
            if time.monotonic() - self.began > _PATIENCE:
                self.process.kill()
                raise SystemExit(f"not there after {_PATIENCE:.0f} s; see {self.log}")
            time.sleep(0.01)
        return True

    def live(self, seconds: float) -> None:
        """Lets it go on for so long."""
        wake = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= wake)

    def wait(self) -> int:
        """Waits for its end; returns the exit status."""
        self.until(lambda: False)
        return self.process.wait()


# When to strike: each waits for its moment, and returns False if the run ended before it came.
Moment = Callable[[Place, Child, random.Random], bool]


def while_starting(place: Place, child: Child, rng: random.Random) -> bool:
    """Before the first step: imports, data, restoring, compiling."""
    child.live(rng.uniform(0.1, 15))
    return child.process.poll() is None


def while_training(place: Place, child: Child, rng: random.Random) -> bool:
    """Within some seconds of the first row."""
    if child.until(child.rows):
        child.live(rng.uniform(0, 5))
    return child.process.poll() is None


def while_evaluating(place: Place, child: Child, rng: random.Random) -> bool:
    """After the last row of an epoch, before that of its evaluation."""
    after = rng.randrange(1, 4)

    def evaluating() -> bool:
        rows = child.rows()
        ends = [row for row in rows if row[0] in place.boundaries and row[1] == "train"]
        return len(ends) >= after and rows[-1] == ends[-1]

    if child.until(evaluating):
        child.live(rng.uniform(0, 0.1))
    return child.process.poll() is None


def while_saving(place: Place, child: Child, rng: random.Random) -> bool:
    """While Orbax writes a checkpoint under another name."""
    if child.until(child.rows):
        child.live(rng.uniform(0, 3))
    if child.until(lambda: any(place.checkpoints.glob("*tmp*"))):
        child.live(rng.uniform(0, 0.05))
    return child.process.poll() is None


# What to do then: each returns the exit statuses that it may lead to.
Strike = Callable[[Place, Child, random.Random], set[int]]


def kill(place: Place, child: Child, rng: random.Random) -> set[int]:
    """No handler can run."""
    child.process.send_signal(signal.SIGKILL)
    return {-signal.SIGKILL}


def terminate(place: Place, child: Child, rng: random.Random) -> set[int]:
    """As a preemption does: it saves first."""
    child.process.send_signal(rng.choice([signal.SIGTERM, signal.SIGINT]))
    return {_EXIT_STOPPED}


def terminate_early(place: Place, child: Child, rng: random.Random) -> set[int]:
    """Nothing is there to save yet; while Python imports, nobody listens to the signal either."""
    child.process.send_signal(signal.SIGTERM)
    return {_EXIT_STOPPED, -signal.SIGTERM}


def terminate_twice(place: Place, child: Child, rng: random.Random) -> set[int]:
    """Does not wait for it to save."""
    child.process.send_signal(signal.SIGTERM)
    child.live(rng.uniform(0, 0.3))
    if child.process.poll() is None:
        child.process.send_signal(signal.SIGTERM)
    return {_EXIT_STOPPED, -signal.SIGTERM}


def start_another(place: Place, child: Child, rng: random.Random) -> set[int]:
    """A second run in the same directory is refused; then the first is killed."""
    child.process.send_signal(signal.SIGSTOP)  # or it may have ended by the time
    second = dataclasses.replace(place).start(suffix="-second")
    status = second.wait()
    kill(place, child, rng)
    if status != 2:
        raise SystemExit(f"a second run ended with {status}, not 2; see {second.log}")
    return {-signal.SIGKILL}


# What to damage after a kill: each returns False if there is nothing to damage so.
Damage = Callable[[Place, random.Random], bool]


def nothing(place: Place, rng: random.Random) -> bool:
    """Leaves the disk as the kill left it."""
    return True


def truncate_checkpoint(place: Place, rng: random.Random) -> bool:
    """Cuts the largest file of the newest checkpoint in half."""
    files = place.files_to_damage()
    if files:
        largest = max(files, key=lambda path: path.stat().st_size)
        os.truncate(largest, largest.stat().st_size // 2)
    return bool(files)


def halve_checkpoint(place: Place, rng: random.Random) -> bool:
    """Deletes half of the files of the newest checkpoint."""
    files = place.files_to_damage()
    for path in rng.sample(files, len(files) // 2):
        path.unlink()
    return bool(files)


def cut_metrics(place: Place, rng: random.Random) -> bool:
    """Cuts a line that was written after the newest checkpoint, or begins another one."""
    lines = place.metrics.read_bytes().splitlines(keepends=True) if place.metrics.exists() else []
    if not lines:
        return False
    saved = int(place.newest.name) if place.newest else 0
    last = lines[-1]
    cut = last[: rng.randrange(1, len(last))]
    # A row is on the disk before its checkpoint is: no kill can cut an earlier one.
    keep = lines[:-1] if last.endswith(b"\n") and json.loads(last)["step"] > saved else lines
    place.metrics.write_bytes(b"".join(keep) + cut)
    return True


def leave_temporary_files(place: Place, rng: random.Random) -> bool:
    """Leaves what processes killed earlier could have left."""
    if place.newest is None:
        return False
    begun = place.checkpoints / f"{int(place.newest.name) + 1}.orbax-checkpoint-tmp"
    shutil.copytree(place.newest, begun, dirs_exist_ok=True)
    os.truncate(next(path for path in begun.rglob("*") if path.is_file()), 0)
    for name in (".metrics.jsonl.1.tmp", ".experiment.json.1.tmp", ".timing.json.1.tmp"):
        (place.workdir / name).write_text('{"step": 1')
    return True


def cut_compiled(place: Place, rng: random.Random) -> bool:
    """Cuts an entry of the compilation cache, as JAX leaves it when it is killed meanwhile."""
    entries = sorted((place.root / "cache").rglob("*-cache"))
    if not entries:
        return False
    entry = max(entries, key=lambda path: path.stat().st_size)
    os.truncate(entry, entry.stat().st_size // 2)
    entry.with_name(entry.name.removesuffix("-cache") + "-atime").unlink(missing_ok=True)
    return True


@dataclass(frozen=True)
class Fault:
    """When, what, and what else; not before there are so many checkpoints."""

    name: str
    moment: Moment
    strike: Strike = kill
    damage: Damage = nothing
    saved: int = 0


FAULTS = (
    Fault("SIGKILL while starting", while_starting),
    Fault("SIGKILL in training", while_training),
    Fault("SIGKILL during an evaluation", while_evaluating),
    Fault("SIGKILL while a checkpoint is written", while_saving),
    Fault("SIGTERM or SIGINT in training", while_training, terminate),
    Fault("SIGTERM or SIGINT during an evaluation", while_evaluating, terminate),
    Fault("SIGTERM while starting", while_starting, terminate_early),
    Fault("SIGTERM twice", while_training, terminate_twice),
    Fault("a second run at once, SIGKILL", while_training, start_another),
    Fault("newest checkpoint truncated", while_training, kill, truncate_checkpoint, 3),
    Fault("newest checkpoint half deleted", while_saving, kill, halve_checkpoint, 3),
    Fault("metrics.jsonl cut in a line", while_training, kill, cut_metrics),
    Fault("temporary files left behind", while_saving, kill, leave_temporary_files, 1),
    Fault("compilation cache cut short", while_training, kill, cut_compiled),
)
