"""Where the time of a forward pass or a training step goes: by part of the model and by operation.

    python benchmarks/profile_work.py mobilevit_xxs --work train --batch 16

XLA names each operation after the module that it came from, and JAX's profiler tells how long each
ran. Operations may run side by side, so that all of them can take longer than the step itself.
"""

import argparse
import collections
import json
import os
import re
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from reporting import markdown, plain_errors, say, surroundings

from mobilevit_jax.allocator import keep_memory_of_steps
from mobilevit_jax.errors import ConfigurationError, DataError

PACKAGES = ("mobilevit_jax", "jax", "jaxlib", "flax")
_REPEATS = 3

# What tells the stage of a model in a module's path, and the part of the stage.
_STAGE = re.compile(r"(layer_\d|conv_1x1_exp|conv_1|aspp|ssd_\w+|heads?|extras?|classifier)\b")
_PART = re.compile(
    r"(attention_norm|ffn_norm|final_norm|attention|ffn_expand|ffn_reduce|transformer"
    r"|expand_1x1|conv_3x3|reduce_1x1|local_conv|local_project|project|fusion)"
)
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\S+|\(.*?\)) ([a-z][\w\-]*)\(")
_NAME = re.compile(r'op_name="([^"]*)"')


class Operation(NamedTuple):
    """An operation of the compiled program.

    Attributes:
        name: XLA's name of it.
        kind: Such as "fusion" or "dot".
        shape: Of its result.
        path: The modules and the primitive that it came from.
    """

    name: str
    kind: str
    shape: str
    path: str

    @property
    def part(self) -> str:
        """The part of the model, "layer_3 attention"; "the rest" for loss and optimizer."""
        stage, parts = _STAGE.search(self.path), _PART.findall(self.path)
        names = [stage[1]] if stage else []
        return " ".join(names + parts[-1:]) or "the rest"

    @property
    def backward(self) -> bool:
        """Whether it belongs to the backward pass."""
        return "transpose(" in self.path or "/checkpoint/" in self.path


def operations(text: str) -> dict[str, Operation]:
    """Returns the operations of a compiled program by their names."""
    found = {}
    for line in text.splitlines():
        instruction, name = _INSTRUCTION.match(line), _NAME.search(line)
        if instruction:
            own, shape, kind = instruction.groups()
            found[own] = Operation(own, kind, shape, name[1] if name else "")
    return found


def trace(call: Any, directory: Path) -> dict[str, float]:
    """Returns milliseconds of a call by the names of events."""
    import jax

    with jax.profiler.trace(str(directory)):
        for _ in range(_REPEATS):
            jax.block_until_ready(call())
    (file,) = directory.rglob("*.xplane.pb")
    spent: dict[str, float] = collections.defaultdict(float)
    with warnings.catch_warnings():
        # Of a class of jaxlib's that Python 3.12 finds fault with; as an error it ends the process.
        warnings.filterwarnings("ignore", "builtin type event_stats has no __module__")
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                for event in line.events:
                    name = dict(event.stats).get("hlo_op", event.name)
                    spent[str(name)] += event.duration_ns / 1e6 / _REPEATS
    return spent


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Compiles, times and traces the work.

    Raises:
        ConfigurationError: If the work is unknown or needs more memory than there is.
        DataError: If the profiler has seen nothing.
    """
    import jax

    from mobilevit_jax.analysis.programs import Setting, compile_program
    from mobilevit_jax.cli.compilation_cache import use_compilation_cache

    use_compilation_cache()
    setting = Setting(options.model, options.work, options.size, options.batch, options.dtype)
    say(f"compiling {setting} ...")
    program = compile_program(setting)
    call = program.start()
    seconds = []
    for _ in range(2 + options.rounds):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    known = operations(program.text())
    with tempfile.TemporaryDirectory() as directory:
        spent = trace(call, Path(directory))
    rows = [
        {"ms": spent[name], "part": one.part, "backward": one.backward, **one._asdict()}
        for name, one in known.items()
        if name in spent
    ]
    if not rows:
        raise DataError(
            "the profiler has seen none of the program's operations; CUDA graphs hide them on a "
            "GPU, so set XLA_FLAGS=--xla_gpu_enable_command_buffer="
        )
    return {
        **surroundings(PACKAGES, len(os.sched_getaffinity(0))),
        "work": str(setting),
        "ms": 1e3 * statistics.median(seconds[2:]),
        "temporary_bytes": program.temporary_bytes,
        "operations": sorted(rows, key=lambda row: -row["ms"]),
    }


def show(found: dict[str, Any], top: int) -> str:
    """Returns the profile as Markdown."""
    total = sum(row["ms"] for row in found["operations"]) or 1.0
    head = (
        f"{found['work']}: {found['ms']:.0f} ms by the clock, all operations {total:.0f} ms "
        f"({found['machine']}, {found['date']})"
    )
    parts: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    for row in found["operations"]:
        parts[row["part"]][row["backward"]] += row["ms"]
    ordered = sorted(parts.items(), key=lambda item: -sum(item[1]))
    by_part = [
        [name, forward, backward, f"{(forward + backward) / total:.1%}"]
        for name, (forward, backward) in ordered[:top]
    ]
    single = [
        [
            row["ms"],
            row["kind"],
            f"`{row['shape'].lstrip('(').split('{')[0]}`",
            f"`{_short(row['path'])}`",
        ]
        for row in found["operations"][:top]
    ]
    return "\n\n".join(
        [
            head,
            markdown(["part", "forward, ms", "backward, ms", "share"], by_part),
            markdown(["ms", "kind", "result", "from"], single),
        ]
    )


def _short(path: str) -> str:
    """Returns the last part of a path, without what all paths have."""
    return "/".join(path.split("/")[-5:])


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="such as mobilevit_xxs")
    parser.add_argument("--work", choices=("forward", "train"), default="train")
    parser.add_argument("--size", type=int, help="default: what the model was published for")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="calls that are timed")
    parser.add_argument("--top", type=int, default=15, help="lines of each table")
    parser.add_argument("--output", type=Path, help="JSON with all operations")
    return parser.parse_args(argv)


def main() -> None:
    """Measures, and prints or writes what was found."""
    options = parse()
    with plain_errors():
        for name in ("batch", "rounds", "top"):
            if getattr(options, name) < 1:
                raise ConfigurationError(f"--{name} must be at least 1")
        keep_memory_of_steps()  # as all our commands do
        found = measure(options)
        print(show(found, options.top))
        if options.output:
            from mobilevit_jax.base.atomic import replacing

            with replacing(options.output) as unfinished:
                unfinished.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
