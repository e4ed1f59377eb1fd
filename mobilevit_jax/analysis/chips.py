"""TPUs by the names that people rent them under: how many chips, and what each of them has.

Peaks and memory are from Google's documentation, in copies seen on 2026-11-28: v5e, v5p and v6e
below https://docs.cloud.google.com/tpu/docs/, v4 as docs/tpu_gpu.md quotes it. Versions of those
pages differ by some percent (v5e: 800 or 819 GB/s). Its gigabytes are taken for GiB; what the
compiler itself refuses does not fit in any case. Nothing here was measured.
"""

import re
from dataclasses import dataclass

from mobilevit_jax.errors import ConfigurationError

_GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """What one chip has.

    Attributes:
        kind: "v5e"; the compiler's name of it as well.
        memory: Bytes of high-bandwidth memory.
        operations_per_second: Peak in bfloat16, a multiply-add counted as two.
        bytes_per_second: Peak of the memory.
        cores: What a name counts: cores, two a chip, for v4 and v5p; else chips.
        shapes: {chips: topology} of the slices.
        config: How the compiler calls the chip as JAX uses it, if not its default.
    """

    kind: str
    memory: int
    operations_per_second: float
    bytes_per_second: float
    cores: int
    shapes: dict[int, str]
    config: str | None = None


_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}
_SQUARES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"}
CHIPS = {
    chip.kind: chip
    for chip in (
        # A v4 has two cores, which JAX takes for one device.
        Chip("v4", 32 * _GIB, 275e12, 1200e9, 2, _CUBES, "megacore"),
        Chip("v5e", 16 * _GIB, 197e12, 819e9, 1, _SQUARES),
        Chip("v5p", 95 * _GIB, 459e12, 2765e9, 2, _CUBES),
        Chip("v6e", 32 * _GIB, 918e12, 1638e9, 1, _SQUARES),
    )
}


@dataclass(frozen=True)
class Target:
    """A slice to compile for.

    Attributes:
        name: As it was asked for, "v5e-8".
        chip: What each of its chips is.
        chips: How many there are.
    """

    name: str
    chip: Chip
    chips: int

    @property
    def topology(self) -> str:
        """The compiler's name of the slice, "v5e:2x4"."""
        return f"{self.chip.kind}:{self.chip.shapes[self.chips]}"

    @property
    def chips_per_host(self) -> tuple[int, int, int]:
        """How a host's chips lie: up to eight v5e or v6e have one host, else four chips have."""
        alone = self.chip.shapes is _SQUARES and self.chips <= 8
        rows, columns, *_ = map(int, self.chip.shapes[self.chips].split("x"))
        return (rows, columns, 1) if alone else (2, 2, 1)


def targets() -> list[str]:
    """Returns the names that `target_named` takes."""
    return [f"{c.kind}-{c.cores * count}" for c in CHIPS.values() for count in c.shapes]


def target_named(name: str) -> Target:
    """Returns the slice of a name such as "v5e-8" or, as Google writes it, "v5litepod-8".

    Raises:
        ConfigurationError: If there is none; lists those that there are.
    """
    parts = re.fullmatch(r"(\w+)-(\d+)", name.lower().replace("v5litepod", "v5e"))
    chip = CHIPS.get(parts[1]) if parts else None
    chips, odd = divmod(int(parts[2]), chip.cores) if parts and chip else (0, 1)
    if chip is None or odd or chips not in chip.shapes:
        raise ConfigurationError(f"unknown target {name!r}; known: {', '.join(targets())}")
    return Target(name, chip, chips)
