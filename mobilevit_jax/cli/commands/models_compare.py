"""`mobilevit models --compare`: the classifiers side by side, as a table, as JSON and as a plot."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobilevit_jax.analysis.networks import Network, networks, timed
from mobilevit_jax.base.atomic import write_json
from mobilevit_jax.cli.commands.benchmark_models import machine
from mobilevit_jax.cli.console import print_table, say
from mobilevit_jax.cli.options import check_output
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.errors import ConfigurationError

_TITLE = (
    "top-1 as published, % of ImageNet-1k's validation images; MACs are multiply-adds for one "
    "image of size x size pixels"
)


def compare(
    pattern: str,
    size: int | None,
    *,
    latency: bool,
    as_json: bool,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Counts, measures if asked for, and shows; see `models.Arguments`.

    Raises:
        ConfigurationError: If no classifier is called so, or no top-1 is known of those to draw.
        DataError: If a file to write is a directory.
        OSError: If one cannot be written.
    """
    if plot is not None and plot.suffix.lower() not in (".png", ".svg"):
        raise ConfigurationError(f"--plot {plot} must end with .png or .svg")
    if latency:
        start_jax()
    found = networks(pattern, size)
    for option, path in (("--output", output), ("--plot", plot)):
        if path is not None:
            check_output(path, option)
    if plot is not None:
        _draw(found, plot)
    numbers: dict[str, Any] = {}
    if latency:
        found = _measured(found)
        numbers["machine"] = machine()
    numbers["networks"] = [dataclasses.asdict(network) for network in found]
    if output is not None:
        write_json(output, numbers)
    if as_json:
        print(json.dumps(numbers, indent=2))
    else:
        _print(found)
    for path in (output, plot):
        if path is not None:
            say(f"written to {path}")


def _draw(found: Sequence[Network], path: Path) -> None:
    # Late, since only this needs matplotlib.
    from mobilevit_jax.analysis.plots_networks import accuracy_over_parameters

    accuracy_over_parameters(found, path)
    missing = [network.label for network in found if network.top1 is None]
    if missing:
        say(f"not drawn, since no top-1 is known: {', '.join(missing)}")


def _measured(found: Sequence[Network]) -> list[Network]:
    measured = []
    for number, network in enumerate(found, 1):
        say(f"measuring {network.label} ({number}/{len(found)})")
        measured.append(timed(network))
    return measured


def _print(found: Sequence[Network]) -> None:
    """Prints the table, and the sources below it by their numbers."""
    sources = list(dict.fromkeys(network.source for network in found if network.source))
    measured = found[0].milliseconds is not None
    rows = [
        [
            network.label,
            str(network.size),
            f"{network.parameters:,}",
            f"{network.macs / 1e6:,.1f}",
            *([network.milliseconds] if measured else []),
            "" if network.top1 is None else f"{100 * network.top1:.2f}",
            f"[{1 + sources.index(network.source)}]" if network.source else "",
        ]
        for network in found
    ]
    headings = ["network", "size", "parameters", "M MACs", *(["ms"] if measured else [])]
    title = _TITLE + ("; ms: median latency of one image here" if measured else "")
    print_table([*headings, "top-1", "source"], rows, title=title)
    for number, source in enumerate(sources, 1):
        print(f"  [{number}] {source}")
