"""`mobilevit models`: parameters, multiply-adds and feature shapes."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import tyro

from mobilevit_jax.analysis.counts import Stage, stages
from mobilevit_jax.cli.console import print_table
from mobilevit_jax.cli.options import called, read
from mobilevit_jax.errors import ConfigurationError, ExitStatus
from mobilevit_jax.models.registry import create_model, head_of, list_models

# Stages whose maps other networks take.
_SHOWN = ("layer_3", "layer_4", "layer_5")


class Counted(NamedTuple):
    """A model's numbers and parts for images of `size` x `size` pixels."""

    size: int
    parameters: int
    macs: int
    stages: list[Stage]


@dataclass(frozen=True)
class Arguments:
    """List the models; with a name, the stages of that one.

    Attributes:
        name: A model, or a pattern such as "*xs".
        size: Image height and width in pixels; if not given, what each was published for: 256, 320
            for detectors, 512 for segmentation.
        num_classes: Classes, with the background for detectors and segmentation models; if not
            given, those of the published models.
        json: Print JSON, for machines.
    """

    name: Annotated[str, tyro.conf.Positional, called("[MODEL]")] = "*"
    size: int | None = None
    num_classes: int | None = None
    json: bool = False


def main(argv: list[str]) -> int:
    """Runs `mobilevit models` and returns its exit status."""
    arguments = read(Arguments, "models", argv)
    if arguments.size is not None and arguments.size < 1:
        raise ConfigurationError(f"--size must be at least 1 pixel; got {arguments.size}")
    options: dict[str, Any] = (
        {} if arguments.num_classes is None else {"num_classes": arguments.num_classes}
    )
    counted = {}
    for name in list_models(arguments.name) or [arguments.name]:
        model = create_model(name, **options)
        size = arguments.size or head_of(model).input_size
        parts = stages(model, size)
        total = sum(part.parameters for part in parts), sum(part.macs for part in parts)
        counted[name] = Counted(size, *total, parts)
    if arguments.json:
        print(json.dumps({name: _as_json(counts) for name, counts in counted.items()}, indent=2))
    elif len(counted) == 1:
        _print_stages(*next(iter(counted.items())))
    else:
        _print_models(counted)
    return ExitStatus.DONE


def _as_json(counts: Counted) -> dict[str, Any]:
    return {**counts._asdict(), "stages": [dataclasses.asdict(stage) for stage in counts.stages]}


def _print_models(counted: dict[str, Counted]) -> None:
    rows = [
        [
            name,
            str(counts.size),
            f"{counts.parameters:,}",
            f"{counts.macs / 1e6:,.1f}",
            *(_shape(stage) for stage in counts.stages if stage.name in _SHOWN),
        ]
        for name, counts in counted.items()
    ]
    headings = ["model", "size", "parameters", "M MACs", *_SHOWN]
    print_table(headings, rows, title="MACs are multiply-adds for one image of size x size pixels")


def _print_stages(name: str, counts: Counted) -> None:
    rows = [
        [stage.name, _shape(stage), f"{stage.parameters:,}", f"{stage.macs / 1e6:,.1f}"]
        for stage in counts.stages
    ]
    rows.append(["total", "", f"{counts.parameters:,}", f"{counts.macs / 1e6:,.1f}"])
    title = f"{name}, images of {counts.size}x{counts.size}; MACs are multiply-adds"
    print_table(["stage", "output", "parameters", "M MACs"], rows, title=title)


def _shape(stage: Stage) -> str:
    return "x".join(map(str, stage.shape))
