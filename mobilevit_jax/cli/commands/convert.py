"""`mobilevit convert`: weights from any source into the form that another program reads."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from mobilevit_jax.cli.console import say
from mobilevit_jax.cli.options import read
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.cli.weights import Selection, SelectionOptions
from mobilevit_jax.convert.files import SUFFIXES
from mobilevit_jax.errors import ConfigurationError, ExitStatus
from mobilevit_jax.models.registry import head_of
from mobilevit_jax.pretrained import Pretrained

Layout = Literal["huggingface", "cvnets", "torchvision", "timm", "native"]


@dataclass(frozen=True)
class Arguments:
    """Write weights for transformers, CVNets, torchvision, timm or this package.

    A destination that ends in .safetensors, .pt, .pth or .bin becomes a file of tensors (the last
    three need PyTorch), any other a directory with configuration, weights and image processor.

    Attributes:
        source: Work directory, directory with config.json, weight file or hub id.
        destination: File or directory to write.
        layout: Whose names and files: transformers' (MobileViTForImageClassification and such),
            CVNets' or torchvision's (a file), timm's (a directory for
            `timm.create_model("local-dir:...")`), or this package's own, which holds every model.
        overwrite: Replace what is there.
        selection: Which of the source's weights.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DESTINATION")]
    layout: Layout = "huggingface"
    overwrite: bool = False
    selection: Selection = SelectionOptions()


def main(argv: list[str]) -> int:
    """Runs `mobilevit convert` and returns its exit status."""
    arguments = read(Arguments, "convert", argv)
    _check_destination(arguments)
    start_jax()
    convert(arguments)
    return ExitStatus.DONE


def _check_destination(arguments: Arguments) -> None:
    """Refuses, before anything is loaded, what would overwrite or has no such form."""
    destination, is_file = arguments.destination, _is_file(arguments.destination)
    reader = {"cvnets": "CVNets", "torchvision": "torchvision"}.get(arguments.layout)
    if reader and not is_file:
        raise ConfigurationError(
            f"{reader} reads a file, not a directory; name {destination}.pt or "
            f"{destination}.safetensors"
        )
    if arguments.layout == "native" and is_file:
        raise ConfigurationError(
            "the native layout is a directory: it needs its configuration beside the tensors; "
            f"name {destination.with_suffix('')}"
        )
    if is_file and destination.suffix != ".safetensors" and not importlib.util.find_spec("torch"):
        raise ConfigurationError(
            f"{destination} is written by PyTorch, which is not installed; install torch, or name "
            f"{destination.with_suffix('.safetensors')}"
        )
    if destination.is_dir() if is_file else destination.is_file():
        kind = "directory" if is_file else "file"
        raise ConfigurationError(f"{destination} is a {kind}; choose another destination")
    taken = destination if is_file else destination / "config.json"
    if taken.exists() and not arguments.overwrite:
        raise ConfigurationError(f"{taken} exists; choose another destination, or --overwrite it")


def _is_file(destination: Path) -> bool:
    return destination.suffix.lower() in SUFFIXES


def convert(arguments: Arguments) -> None:
    """Loads the source and writes the destination.

    Raises:
        ConfigurationError: If the layout cannot express the model; what it lacks is named.
    """
    import jax

    from mobilevit_jax.saving import save_pretrained, save_weights

    loaded = arguments.selection.load(arguments.source)
    destination, layout = arguments.destination, arguments.layout
    destination.parent.mkdir(parents=True, exist_ok=True)
    saved = destination, loaded.model, loaded.variables, loaded.processor
    if _is_file(destination):
        save_weights(*saved, layout=layout)
    else:
        save_pretrained(*saved, class_names=_names(loaded), layout=layout)
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(loaded.variables["params"]))
    say(
        f"{loaded.model_name}, {loaded.model.num_classes} classes, {parameters:,} parameters "
        f"({loaded.description}) written to {destination} in the layout {layout}"
    )


def _names(loaded: Pretrained) -> tuple[str, ...]:
    """Names the outputs that a run has beyond the classes of its data set."""
    first = head_of(loaded.model).first_named
    names, count = loaded.class_names, loaded.model.num_classes - first
    return names + tuple(f"LABEL_{index + first}" for index in range(len(names), count))
