"""The tables of `against_pytorch.py`: ratios within a round, times, memory."""

import statistics
from typing import Any

from contenders import CONTENDERS, FUSED, OURS, Work
from reporting import markdown


def ratios(row: dict[str, Any], other: str) -> list[float]:
    """Returns the other's time over ours in each round, ascending."""
    pairs = zip(row["seconds"][other], row["seconds"][OURS], strict=True)
    return sorted(theirs / own for theirs, own in pairs)


def _ratio(row: dict[str, Any], other: str) -> str:
    """Returns the median over the rounds, and the least and the largest."""
    if other not in row["seconds"]:
        return ""
    found = ratios(row, other)
    spread = f" ({found[0]:.2f} to {found[-1]:.2f})" if len(found) > 1 else ""
    return f"{statistics.median(found):.2f}{spread}"


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the results as a Markdown table."""
    names = [name for name in CONTENDERS if any(name in row["seconds"] for row in rows)]
    others = [name for name in names if name not in (OURS, FUSED)]
    columns = [
        "work",
        *(f"{name}, ms" for name in names),
        *(f"{name} / ours" for name in others),
    ]
    lines = []
    for row in rows:
        own = {name: statistics.median(values) for name, values in row["seconds"].items()}
        times = [f"{own[name] * 1e3:.1f}" if name in own else "" for name in names]
        lines.append([Work(**row["work"]), *times, *(_ratio(row, name) for name in others)])
    return markdown(columns, lines)


def memory_table(rows: list[dict[str, Any]]) -> str:
    """Returns peak memory as a Markdown table."""
    rows = [row for row in rows if row["peak_bytes"]]
    names = [name for name in CONTENDERS if any(name in row["peak_bytes"] for row in rows)]
    lines = []
    for row in rows:
        peak = row["peak_bytes"]
        cells = [f"{peak[name] / 1e6:.0f}" if name in peak else "" for name in names]
        lines.append([Work(**row["work"]), *cells])
    return markdown(["work", *(f"{name}, MB" for name in names)], lines)
