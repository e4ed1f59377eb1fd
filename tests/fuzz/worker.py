"""A process that reads damaged files under limits; prints what it saw as one JSON object.

Called as `worker.py TARGET CASES SEED DIRECTORY`. The limits: a case that takes longer than
`SECONDS` ends the process, one that asks for more than `ADDRESSES` bytes gets a MemoryError, and
one that keeps more than `MEMORY` bytes at once is reported, as is every exception but the
documented ones. The file that is being read lies in the directory, so that a crash leaves its cause
behind.
"""

import faulthandler
import json
import random
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.targets import TARGETS  # noqa: E402

SECONDS = 20
MEMORY = 2 * 2**30
ADDRESSES = 6 * 2**30
MOST_REPORTED = 5
# A message is one line that a terminal can show.
LONGEST_MESSAGE = 2000


def status(field: str) -> int:
    """Returns a number of bytes out of what Linux says about this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def forget_peak() -> None:
    """Makes VmHWM start again from what is in memory now."""
    Path("/proc/self/clear_refs").write_text("5")


def case(read: Any, path: Path) -> tuple[bool, str | None]:
    """Reads one file; returns whether it was refused, and what is wrong with how that went."""
    from mobilevit_jax.errors import ConfigurationError, DataError

    refused = False
    forget_peak()
    before = status("VmRSS")
    try:
        read(path)
    except (ConfigurationError, DataError) as error:
        refused, message = True, str(error)
        if not message or "\n" in message or len(message) > LONGEST_MESSAGE:
            return True, f"a message of {len(message)} characters: {message[:300]!r}"
    except BaseException:
        return True, traceback.format_exc()
    held = status("VmHWM") - before
    return refused, f"held {held / 2**20:.0f} MiB" if held > MEMORY else None


def main(name: str, cases: int, seed: int, directory: Path) -> None:
    """Reads so many damaged files and prints the report."""
    target = TARGETS[name]
    read, files = target.prepare(directory)
    for path in files:
        read(path)  # whole files are read, and what is loaded for the first time is not measured
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + ADDRESSES, resource.RLIM_INFINITY))
    originals = [path.read_bytes() for path in files]
    slowest, refused, problems = 0.0, 0, []
    for number in range(cases):
        rng = random.Random(f"{seed} {number}")
        choice = rng.randrange(len(files))
        path = files[choice]
        data = target.damage(originals[choice], rng, originals)
        path.write_bytes(data)
        start = time.perf_counter()
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        was_refused, problem = case(read, path)
        faulthandler.cancel_dump_traceback_later()
        refused += was_refused
        slowest = max(slowest, time.perf_counter() - start)
        path.write_bytes(originals[choice])
        if problem:
            kept = directory / f"case-{number}-{path.name}"
            kept.write_bytes(data)
            problems.append(f"{kept}: {problem}")
            if len(problems) == MOST_REPORTED:
                break
    print(json.dumps({"slowest": slowest, "refused": refused, "problems": problems}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
