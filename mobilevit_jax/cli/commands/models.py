"""`mobilevit models`: parameters, multiply-adds and feature shapes; networks side by side."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
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
    """List the models; with a name, the stages of that one; classifiers side by side.

    Attributes:
        name: A model, or a pattern such as "*xs".
        size: Image height and width in pixels; if not given, what each was published for: 256, 320
            for `ssdlite_*`, 416 for `yolox_*`, 512 for segmentation.
        num_classes: Classes, with the background for `ssdlite_*` and segmentation models; if not
            given, those of the published models.
        json: Print JSON, for machines.
        compare: Set the classifiers side by side, with the top-1 accuracy on ImageNet-1k that has
            been published of them, and its source.
        latency: Measure how long each takes for one image here, which is minutes for all of them.
        output: Write the comparison into this JSON file.
        plot: Draw top-1 over parameters into this file, a PNG or an SVG.
    """

    name: Annotated[str, tyro.conf.Positional, called("[MODEL]")] = "*"
    size: int | None = None
    num_classes: int | None = None
    json: bool = False
    compare: bool = False
    latency: bool = False
    output: Annotated[Path | None, called("FILE")] = None
    plot: Annotated[Path | None, called("FILE")] = None


def main(argv: list[str]) -> int:
    """Runs `mobilevit models` and returns its exit status."""
    arguments = read(Arguments, "models", argv)
    if arguments.size is not None and arguments.size < 1:
        raise ConfigurationError(f"--size must be at least 1 pixel; got {arguments.size}")
    if arguments.compare:
        return _compare(arguments)
    for option in ("latency", "output", "plot"):
        if getattr(arguments, option):
            raise ConfigurationError(f"--{option} goes with --compare; give that too")
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


def _compare(arguments: Arguments) -> int:
    # Late, since listing the models needs nothing of what measures them.
    from mobilevit_jax.cli.commands.models_compare import compare

    if arguments.num_classes is not None:
        raise ConfigurationError(
            "--compare is of classifiers of 1000 classes; leave out --num-classes"
        )
    compare(
        arguments.name,
        arguments.size,
        latency=arguments.latency,
        as_json=arguments.json,
        output=arguments.output,
        plot=arguments.plot,
    )
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
