"""What our training step makes of a TPU, and what a plain port does, by the TPU's compiler.

    python benchmarks/tpu_program.py --models xxs --batch 128 --size 256 --target v5e-8

Both are compiled for the same slice, which need not be there; `pip install 'mobilevit-jax[tpu]'`
brings the compiler. Nothing is run. Compiling takes minutes to half an hour a program.
"""

import argparse
import collections
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reporting import Results, markdown, plain_errors, say, surroundings

from mobilevit_jax.errors import ConfigurationError

PACKAGES = ("mobilevit_jax", "jax", "jaxlib", "flax", "optax", "libtpu")
CONTENDERS = ("ours", "plain port")

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_ARRAY = re.compile(
    r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::((?:[A-Z]\([^)]*\)|\(\d[^)]*\))*))?[^}]*\})?"
)
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
_TILE = re.compile(r"T\((\d+)(?:,(\d+))?\)")
# Operations that write nothing, or what another line counts.
_SILENT = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"}
_SILENT |= {"copy-done", "slice-done", "all-reduce-done", "async-done"}
_SILENT |= {"partition-id", "replica-id"}


def padded_bytes(shape: str) -> int:
    """Returns the bytes that arrays take on a TPU, where the two minor axes come in tiles.

    Args:
        shape: As the compiler writes it, "bf16[32,16]{1,0:T(8,128)(2,1)}", or several in brackets.
    """
    return sum(_padded(*found) for found in _ARRAY.findall(shape))


def _padded(kind: str, sides: str, order: str, tiles: str) -> int:
    if kind not in _BYTES:
        return 0  # a token, which holds nothing
    lengths = [int(side) for side in sides.split(",") if side]
    tile = _TILE.search(tiles or "")
    if tile and order:
        minor = [int(axis) for axis in order.split(",")]
        wanted = [int(side) for side in tile.groups() if side]
        for axis, side in zip(minor, reversed(wanted), strict=False):
            lengths[axis] = -(-lengths[axis] // side) * side
    return _BYTES[kind] * math.prod(lengths)


def written(text: str) -> Iterator[tuple[str, int]]:
    """Yields (kind, bytes) of what each operation of a program's entry writes, padding included.

    What it keeps in the chip's small memory, marked S(1), is not written. An operation that starts
    a move between the memories ("copy-start") is no copy, and has (to, from, context) as its shape.
    """
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("ENTRY"):
            break
    for line in lines:
        if line.startswith("}"):
            return
        found = _INSTRUCTION.match(line)
        if found and found[3] not in _SILENT:
            arrays = _ARRAY.findall(found[2])
            results = arrays[:1] if found[3].endswith("-start") else arrays
            yield found[3], sum(_padded(*array) for array in results if "S(" not in array[3])


def account(compiled: Any) -> dict[str, float]:
    """Returns what the compiler tells of a program on one device."""
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    operations = list(written(compiled.as_text()))
    by_kind: dict[str, int] = collections.Counter()
    for kind, size in operations:
        by_kind[kind] += size
    return {
        "accessed": costs["bytes accessed"],
        "temporary": memory.temp_size_in_bytes,
        "transcendentals": costs.get("transcendentals", 0.0),
        "flops": costs["flops"],
        "copies": sum(kind == "copy" for kind, _ in operations),
        "copied": by_kind["copy"],
        "written": sum(by_kind.values()),
        "by_kind": dict(collections.Counter(by_kind).most_common(12)),
    }


def lowered_ours(model: str, size: int, batch: int) -> Any:
    """Returns the training step of the package, lowered as `mobilevit train` does."""
    import jax

    from mobilevit_jax.analysis.tpu_programs import described
    from mobilevit_jax.config import Experiment
    from mobilevit_jax.data.sampler import SamplerConfig
    from mobilevit_jax.models.config import ModelConfig
    from mobilevit_jax.tasks import create_task
    from mobilevit_jax.training import parallel
    from mobilevit_jax.training.compile import lower
    from mobilevit_jax.training.schedule import warmup_cosine
    from mobilevit_jax.training.setup import abstract_state, begin

    devices = parallel.device_count()
    sampler = SamplerConfig(
        batch_size=batch * devices, base_size=size, sizes=(size,), reference_devices=devices
    )
    experiment = Experiment(
        model=ModelConfig(f"mobilevit_{model}", dtype="bfloat16"), sampler=sampler
    )
    info = described(experiment, [str(index) for index in range(1000)], 1281167)
    task = create_task(experiment, info)
    rate = warmup_cosine(experiment.schedule, task.steps_of_epochs)
    _, step = begin(experiment, task, rate)
    (scale,) = task.table
    rows = parallel.abstract_shard(task.zero_batch(scale))
    assert jax.tree.leaves(rows)[0].shape[:2] == (devices, batch)
    return lower(step, abstract_state(experiment, task, rate), rows)


def lowered_plain(model: str, size: int, batch: int) -> Any:
    """Returns the plain port's training step, lowered for the same devices."""
    import jax
    import jax.numpy as jnp
    from plain_flax import MobileViT, training_step

    from mobilevit_jax.training import parallel
    from mobilevit_jax.training.compile import lower

    devices = parallel.device_count()
    net = MobileViT(model, dtype=jnp.bfloat16)
    begin, step = training_step(net)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    state = jax.eval_shape(lambda x: begin(net.init(jax.random.key(0), x)), image)
    rows = {
        "image": jax.ShapeDtypeStruct((devices, batch, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((devices, batch), jnp.int32),
    }
    return lower(parallel.pmap_train(step), state, rows)


def measure(contender: str, model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compiles one program and returns its account."""
    from mobilevit_jax.analysis.chips import target_named
    from mobilevit_jax.analysis.tpu_programs import topology_of

    lowered_by = lowered_ours if contender == "ours" else lowered_plain
    with topology_of(target_named(options.target)):
        lowered = lowered_by(model, options.size, options.batch)
        start = time.perf_counter()
        compiled = lowered.compile()
        seconds = time.perf_counter() - start
    if options.text:
        options.text.mkdir(parents=True, exist_ok=True)
        name = f"{contender.replace(' ', '_')}_{model}_{options.size}_{options.batch}.txt"
        (options.text / name).write_text(compiled.as_text(), encoding="utf-8")
    return {"compile_seconds": seconds, **account(compiled)}


def show(rows: dict[str, Any]) -> str:
    """Returns the tables as Markdown, ours over the plain port's where both are there."""
    lines = []
    units = (
        *(("bytes accessed, GB", "accessed", 1e9), ("temporary memory, GB", "temporary", 1e9)),
        *(("transcendentals, G", "transcendentals", 1e9), ("multiply-adds x 2, G", "flops", 1e9)),
        *(("copies", "copies", 1), ("copied, GB", "copied", 1e9), ("written, GB", "written", 1e9)),
        ("compiled in, s", "compile_seconds", 1),
    )
    for what, by_contender in rows.items():
        both = [by_contender.get(name) for name in CONTENDERS]
        for label, key, unit in units:
            cells = [row[key] / unit if row else "-" for row in both]
            ratio = cells[0] / cells[1] if all(both) and cells[1] else "-"
            lines.append([what, label, *cells, ratio])
    tables = [markdown(["step", "", *CONTENDERS, "ours / plain"], lines)]
    kinds = [
        [what, name, kind, size / 1e9]
        for what, by_contender in rows.items()
        for name, row in by_contender.items()
        for kind, size in row["by_kind"].items()
    ]
    tables.append(markdown(["step", "program", "operation", "written, GB"], kinds))
    return "\n\n".join(tables)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=("xxs", "xs", "s"), default=["xxs", "s"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=128, help="images a device")
    parser.add_argument("--target", default="v5e-8")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--output", type=Path, help="JSON; an interrupted run goes on from it")
    parser.add_argument("--text", type=Path, help="directory for the optimised programs")
    return parser.parse_args(argv)


def main() -> None:
    """Compiles what is missing, and prints the tables."""
    options = parse()
    with plain_errors():
        if min(options.size, options.batch) < 1:
            raise ConfigurationError("--size and --batch must be at least 1")
        import os

        os.environ["JAX_PLATFORMS"] = "cpu"
        settings = {"size": options.size, "batch": options.batch, "target": options.target}
        results = Results(options.output, settings, surroundings(PACKAGES, os.cpu_count() or 1))
        rows: dict[str, Any] = {}
        for model in options.models:
            for contender in options.contenders:
                key = f"{model} {contender}"
                if key not in results.rows:
                    say(f"compiling {key}, {options.batch} images a device at {options.size} ...")
                    results.add(key, measure(contender, model, options))
                what = f"{model}, {options.size}, {options.batch} a device"
                rows.setdefault(what, {})[contender] = results.rows[key]
        print(show(rows))


if __name__ == "__main__":
    main()
