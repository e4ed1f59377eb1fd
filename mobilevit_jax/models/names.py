"""Weight names in other implementations: what the tables of backbones and heads are made of.

The tables stand with the backbone or head that they are of; `convert` puts them together and reads
them in both directions.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from mobilevit_jax.errors import DataError

Kind = Literal["block", "conv", "dense", "norm", "batch_norm"]
Shape = tuple[int, ...]


class Row(NamedTuple):
    """A module of ours and its counterpart in another implementation.

    The same path is written twice, with fields in braces where numbers and names vary: `stage` (1
    to 5), `block`, `layer` (of a transformer), `unit` (a convolution of an inverted residual),
    `extra` and `level` (of a detector), `branch` (of a pyramid). Names of others have two more ways
    to count, `index` (stage - 1) and `last` (transformer layers of the stage), and `kernel` (side
    of the blocks' convolutions).

    Attributes:
        ours: Our path, such as "backbone/layer_{stage}/block_{block}/{unit}".
        theirs: Their name; several names share one tensor of ours, cut along its outputs.
        kind: What the module holds: a convolution with norm ("block") or without ("conv"), a
            linear layer or convolution with bias ("dense"), a norm without running statistics or
            with them ("batch_norm").
    """

    ours: str
    theirs: str | tuple[str, ...]
    kind: Kind = "block"


def apart(ours: str, conv: str, norm: str) -> tuple[Row, Row]:
    """Returns the rows of a block whose convolution and norm stand in no module of theirs."""
    return Row(f"{ours}/conv", conv, "conv"), Row(f"{ours}/norm", norm, "batch_norm")


class HeadNames(NamedTuple):
    """A head's tensors in one implementation, and how that names what is below the head.

    Attributes:
        rows: Of two that fit, the first is taken.
        prefixes: What may stand before every name of the backbone; the first is written. {family}
            in it is the backbone's.
        title: As messages call the implementation, if it is a version of its own.
        channel_order: Of the images that its published weights were trained on, if another.
        assumed: Options that leave no trace in tensors, as its published weights have them, where
            they are not the defaults.
        unnamed: Returns the options of a model whose tensors have no name.
    """

    rows: tuple[Row, ...]
    prefixes: tuple[str, ...] = ("",)
    title: str | None = None
    channel_order: Literal["bgr", "rgb"] | None = None
    assumed: Mapping[str, Any] = {}
    unnamed: Callable[[Any], list[str]] = lambda model: []


class BackboneNames(NamedTuple):
    """A backbone's tensors in one implementation.

    Attributes:
        rows: Of two that fit, the first is taken.
        proof: Part of a path that some tensor must have: other networks of the same libraries
            share convolutions, but not this.
        refused: Returns the options of a backbone that there is no place for.
        unnamed: Returns those whose tensors have no name of their own, so that none can be read.
        values: Returns {field: value} for a stage's number (0 for none) beyond those of our path.
        heads: Names of heads on it, by the head's name, where they are not those of the head.
        title: As messages call the implementation, if it is a version of its own.
        channel_order: Of the images that its published weights were trained on, if another.
        assumed: Options that leave no trace in tensors, as its published weights have them, where
            they are not the defaults.
        processing: Fields of the image processor that its published weights take, where they are
            not the processor's own.
        mark: A name that such a network has once, by which it is found in whatever it is part of;
            the first convolution's kernel if empty.
    """

    rows: tuple[Row, ...]
    proof: str
    refused: Callable[[Any], list[str]] = lambda backbone: []
    unnamed: Callable[[Any], list[str]] = lambda backbone: []
    values: Callable[[Any, int], dict[str, Any]] = lambda backbone, stage: {}
    heads: Mapping[str, tuple[HeadNames, ...]] = {}
    title: str | None = None
    channel_order: Literal["bgr", "rgb"] | None = None
    assumed: Mapping[str, Any] = {}
    processing: Mapping[str, Any] = {}
    mark: str = ""


class Tensors(dict[str, Shape]):
    """Shapes of a state dict in PyTorch's order of axes, under our paths without collection.

    A path that is not there is an error of the data.
    """

    def __missing__(self, path: str) -> Shape:
        raise DataError(f"cannot tell the model's size: the tensors of {path} are missing")

    def outputs(self, path: str) -> int:
        """Returns the output channels of a convolution or linear layer."""
        shape = self[path]
        if len(shape) not in (2, 4):
            raise DataError(f"the tensor of {path} has shape {shape}, not that of a layer's kernel")
        return shape[0]

    def count(self, start: str) -> int:
        """Returns the number of modules that begin with `start`, numbered from 0 on."""
        numbers = [path[len(start) :].partition("/")[0] for path in self if path.startswith(start)]
        return max(map(int, numbers), default=-1) + 1


def whole_ratio(wide: int, narrow: int, field: str) -> int:
    """Returns how many times as wide a layer is.

    Raises:
        DataError: If that is no whole number; `field` is what it would be.
    """
    if narrow < 1 or wide < 1 or wide % narrow:
        raise DataError(
            f"the tensors' {field} would be {wide} / {narrow}; only whole ones are known"
        )
    return wide // narrow
