"""`mobilevit models`: parameters, multiply-adds and feature shapes."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from mobilevit_jax.analysis.counts import Stage, stages
from mobilevit_jax.cli.console import print_table
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models import create_model, list_models


@dataclass(frozen=True)
class Arguments:
    """List the models; with a name, the stages of that one.

    Attributes:
        name: A model, or a pattern such as "*xs".
        size: Image height and width in pixels.
        num_classes: Classes.
        json: Print JSON, for machines.
    """

    name: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]", help_behavior_hint="")
    ] = "*"
    size: int = 256
    num_classes: int = 1000
    json: bool = False


def main(argv: list[str]) -> int:
    """Runs `mobilevit models` and returns its exit status."""
    arguments = tyro.cli(
        Arguments, prog="mobilevit models", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    if arguments.size < 1:
        raise ConfigurationError(f"--size must be at least 1 pixel; got {arguments.size}")
    names = list_models(arguments.name) or [arguments.name]
    counted = {
        name: stages(create_model(name, num_classes=arguments.num_classes), arguments.size)
        for name in names
    }
    if arguments.json:
        print(json.dumps(_as_json(counted), indent=2))
    elif len(counted) == 1:
        _print_stages(*next(iter(counted.items())), arguments.size)
    else:
        _print_models(counted, arguments.size)
    return 0


def _as_json(counted: dict[str, list[Stage]]) -> dict[str, Any]:
    return {
        name: {
            "parameters": sum(stage.parameters for stage in parts),
            "macs": sum(stage.macs for stage in parts),
            "stages": [dataclasses.asdict(stage) for stage in parts],
        }
        for name, parts in counted.items()
    }


def _print_models(counted: dict[str, list[Stage]], size: int) -> None:
    rows = [
        [
            name,
            f"{sum(stage.parameters for stage in parts):,}",
            f"{sum(stage.macs for stage in parts) / 1e6:,.1f}",
            *("x".join(map(str, stage.shape)) for stage in parts if stage.name[:5] == "layer"),
        ]
        for name, parts in counted.items()
    ]
    headings = ["model", "parameters", "M MACs", *(f"layer_{i}" for i in range(1, 6))]
    print_table(headings, rows, title=f"Images of {size}x{size}; MACs are multiply-adds")


def _print_stages(name: str, parts: list[Stage], size: int) -> None:
    rows = [
        [
            stage.name,
            "x".join(map(str, stage.shape)),
            f"{stage.parameters:,}",
            f"{stage.macs / 1e6:,.1f}",
        ]
        for stage in parts
    ]
    total = sum(stage.parameters for stage in parts), sum(stage.macs for stage in parts) / 1e6
    rows.append(["total", "", f"{total[0]:,}", f"{total[1]:,.1f}"])
    title = f"{name}, images of {size}x{size}; MACs are multiply-adds"
    print_table(["stage", "output", "parameters", "M MACs"], rows, title=title)
