"""The classifiers side by side, as in the paper's Figures 6 and 7: cost, accuracy, latency here."""

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mobilevit_jax.analysis.counts import stages
from mobilevit_jax.analysis.programs import Setting, check_memory, compile_program
from mobilevit_jax.analysis.speed import ROUNDS, time_calls
from mobilevit_jax.errors import unknown_name
from mobilevit_jax.models.model import Family
from mobilevit_jax.models.registry import create_model, families, head_of


@dataclass(frozen=True)
class Network:
    """One classifier of 1000 classes.

    Attributes:
        name: One of `list_models()`.
        family: Of its backbone.
        options: Of `create_model`, beside the name.
        size: Height and width in pixels of the images that `macs` and `milliseconds` are of.
        parameters: Trainable numbers.
        macs: True multiply-adds of one image.
        top1: As published, a fraction of ImageNet-1k's validation images; None if not known.
        source: Where that figure stands; None if there is none.
        milliseconds: Latency of one image on this machine; None if not measured.
    """

    name: str
    family: str
    options: Mapping[str, Any]
    size: int
    parameters: int
    macs: int
    top1: float | None
    source: str | None
    milliseconds: float | None = None

    @property
    def label(self) -> str:
        """The name, and the options if there are any."""
        return with_options(self.name, self.options)


def with_options(name: str, options: Mapping[str, Any]) -> str:
    """Returns a name with options behind it, such as "resnet50, stem=cvnets"."""
    return ", ".join([name, *(f"{option}={value}" for option, value in options.items())])


def networks(pattern: str = "*", size: int | None = None) -> list[Network]:
    """Counts classifiers, and looks up what has been published of them.

    Args:
        pattern: Of their names, as a shell has it.
        size: Height and width of the images; 256 if None.

    Raises:
        ConfigurationError: If no classifier is called so.
    """
    found = [
        _counted(family, name, size, **known)
        for family in families().values()
        for name in fnmatch.filter(family.variants, pattern)
        for known in _published(family, name)
    ]
    if not found:
        every = [name for family in families().values() for name in family.variants]
        raise unknown_name("classifier", pattern, every)
    return found


def _published(family: Family, name: str) -> Iterator[dict[str, Any]]:
    """Yields options, top-1 and source of each network of a name, of the plain one first."""
    known = [figure for figure in family.accuracies if figure.variant == name]
    if all(figure.options for figure in known):
        yield {"options": {}, "top1": None, "source": None}
    for figure in known:
        yield {"options": figure.options, "top1": figure.top1, "source": figure.source}


def _counted(
    family: Family, name: str, size: int | None, options: Mapping[str, Any], **published: Any
) -> Network:
    model = create_model(name, **options)
    size = size or head_of(model).input_size
    parts = stages(model, size)
    parameters, macs = sum(part.parameters for part in parts), sum(part.macs for part in parts)
    return Network(name, family.name, options, size, parameters, macs, **published)


def timed(network: Network, *, rounds: int = ROUNDS) -> Network:
    """Returns a network with its latency on the first device: the median of rounds of calls.

    Raises:
        ConfigurationError: If it needs more memory than there is, or there are no rounds.
    """
    program = compile_program(Setting(network.name, size=network.size, options=network.options))
    check_memory(program)
    seconds = time_calls(program.start(), rounds=rounds)
    return dataclasses.replace(network, milliseconds=1e3 * seconds.median)
