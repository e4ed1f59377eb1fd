"""Kills a small training again and again, and compares its end with that of one left alone.

    python tools/soak.py [--kills 20] [--epochs 25] [--seed 0] [--directory DIR] [--deterministic]

A fault is a kill at a random moment (of the start, of training, of an evaluation, of a checkpoint
being written), half of them with damage to what is on the disk. After each, the same command is
given again. Nothing is lost if every start goes on, and the last checkpoint and the metrics are
bit for bit those of the run that nobody disturbed. It takes some minutes.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak_faults import FAULTS, Fault, Place  # beside this file, which is run as a script


@dataclass
class Tally:
    """What became of the faults."""

    injected: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)
    pending: list[str] = field(default_factory=list)  # no row was written since

    def inject(self, fault: Fault) -> None:
        """Counts a fault."""
        self.injected[fault.name] += 1
        self.pending.append(fault.name)

    def withdraw(self, fault: Fault | None) -> None:
        """Takes the last one back: the run was at its end, or there was nothing to damage."""
        if fault is not None:
            self.injected[fault.name] -= 1
            self.pending.remove(fault.name)

    def settle(self) -> None:
        """Counts the pending ones as survived: the run goes on."""
        self.survived.update(self.pending)
        self.pending.clear()

    @property
    def lost(self) -> Counter[str]:
        """Those that were not survived."""
        return self.injected - self.survived


def disturb(place: Place, faults: list[Fault], tally: Tally, rng: random.Random) -> None:
    """Runs to the end through faults, taken from the list as they happen; fills the tally.

    Raises:
        SystemExit: If a start failed.
    """
    while True:
        child = place.start()
        fault = faults[0] if faults else None
        expected, struck = {0}, 0.0
        if fault is not None and fault.saved:
            child.until(lambda least=fault.saved: len(place.saved()) >= least)
        if fault is not None and fault.moment(place, child, rng):
            if child.rows():
                tally.settle()
            tally.inject(fault)
            struck = time.monotonic()
            expected |= fault.strike(place, child, rng)  # 0 if it was at its end
        status = child.wait()
        if status not in expected:
            raise SystemExit(f"status {status}, expected {sorted(expected)}; see {child.log}")
        if status == 0:
            tally.withdraw(fault if struck else None)
            tally.settle()
            return
        if fault is None or not fault.damage(place, rng):
            tally.withdraw(fault)
            continue
        faults.pop(0)
        rows = child.rows()
        at = f"step {rows[-1][0]}" if rows else "start"
        took = f"status {status} after {time.monotonic() - struck:.1f} s"
        print(f"{tally.injected.total():3}  {at:<9} {fault.name}: {took}", flush=True)


def differences(expected: Place, actual: Place) -> list[str]:
    """Compares two finished runs: every array of the last checkpoint, bit for bit, and all rows."""
    from flax import traverse_util

    from mobilevit_jax.training.checkpoint import Checkpoints

    def read(place: Place) -> tuple[dict[Any, Any], list[Any], list[dict[str, Any]]]:
        with Checkpoints.reader(place.checkpoints) as checkpoints:
            step = checkpoints.latest()
            assert step is not None
            arrays = checkpoints.restore(step, checkpoints.structure(step))
            kept = [("steps", checkpoints.steps()), ("best", checkpoints.best())]
        lines = place.metrics.read_text(encoding="utf-8").splitlines()
        clock = ("_seconds", "_per_second", "_bytes")
        rows = [
            {name: value for name, value in json.loads(line).items() if not name.endswith(clock)}
            for line in lines
        ]
        return traverse_util.flatten_dict(arrays), kept, rows

    (arrays, kept, rows), (arrays2, kept2, rows2) = read(expected), read(actual)
    found = [f"checkpoints: {a} and {b}" for a, b in zip(kept, kept2, strict=True) if a != b]
    for path in sorted(arrays.keys() | arrays2.keys(), key=str):
        one, two = arrays.get(path), arrays2.get(path)
        if one is None or two is None or one.dtype != two.dtype or one.tobytes() != two.tobytes():
            found.append(f"checkpoint: {'/'.join(map(str, path))}")
    if rows != rows2:
        pairs = [pair for pair in zip(rows, rows2, strict=False) if pair[0] != pair[1]]
        found.append(f"metrics.jsonl: {len(rows)} and {len(rows2)} rows, {pairs[:1]}")
    print(f"compared: {len(arrays)} arrays of the last checkpoint, {len(rows)} rows", flush=True)
    return found


def soak(root: Path, kills: int, seed: int, options: tuple[str, ...]) -> int:
    """Does it all in a directory; returns how many faults were lost."""
    rng, began = random.Random(seed), time.monotonic()
    alone = Place(root, "undisturbed", options)
    status = alone.start().wait()
    if status != 0:
        raise SystemExit(f"the undisturbed run ended with {status}; see {root}/undisturbed-01.log")
    rows = [json.loads(line) for line in alone.metrics.read_text().splitlines()]
    boundaries = frozenset(row["step"] for row in rows if row["split"] == "validation")
    print(
        f"undisturbed: {max(boundaries)} steps, {len(boundaries)} epochs, {len(rows)} rows, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )
    order = [
        fault for _ in range(-(-kills // len(FAULTS))) for fault in rng.sample(FAULTS, len(FAULTS))
    ]
    faults, tally, wrong, rounds = order[:kills], Tally(), [], 0
    try:
        while faults:
            rounds += 1
            place = Place(root, f"disturbed{rounds}", options, boundaries)
            disturb(place, faults, tally, rng)
            wrong += differences(alone, place)
    except SystemExit as error:
        wrong.append(str(error))
    print(f"\n{'fault':<42} injected  survived  lost")
    for name in [fault.name for fault in FAULTS] + ["all"]:
        counts = [
            c.total() if name == "all" else c[name]
            for c in (tally.injected, tally.survived, tally.lost)
        ]
        print(f"{name:<42} {counts[0]:8}  {counts[1]:8}  {counts[2]:4}")
    for line in wrong:
        print(f"LOST: {line}")
    print(
        f"{rounds} runs through faults; their end is {'NOT ' if wrong else ''}that of the "
        f"undisturbed one; {time.monotonic() - began:.0f} s in all"
    )
    return tally.lost.total() + len(wrong)


def main() -> int:
    """Reads the options; keeps the directory if something was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="faults to inject")
    parser.add_argument("--epochs", type=int, default=25, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the order")
    parser.add_argument("--directory", type=Path, help="where to work, kept; else a temporary one")
    parser.add_argument("--deterministic", action="store_true", help="needed on a GPU")
    arguments = parser.parse_args()
    root = arguments.directory or Path(tempfile.mkdtemp(prefix="soak-"))
    root.mkdir(parents=True, exist_ok=True)
    options = ("--epochs", str(arguments.epochs))
    options += ("--deterministic",) if arguments.deterministic else ()
    lost = soak(root.absolute(), arguments.kills, arguments.seed, options)
    if lost:
        print(f"what is left is in {root}")
    elif arguments.directory is None:
        shutil.rmtree(root)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
