"""The engine that reads tables of weight names in both directions.

The rows stand with the backbones and heads that they are of (`models.names`); a `Layout` joins
those of one implementation. Nothing here knows what a tensor holds.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mobilevit_jax.models.model import Family, Head, Model
from mobilevit_jax.models.names import BackboneNames, HeadNames, Kind, Row

Path = tuple[str, ...]

# What modules of a kind hold: our leaf and theirs, where {conv} and {norm} are the layout's words.
_LEAVES: dict[Kind, tuple[tuple[str, str], ...]] = {
    "block": (
        ("conv/kernel", "{conv}.weight"),
        ("norm/scale", "{norm}.weight"),
        ("norm/bias", "{norm}.bias"),
        ("norm/mean", "{norm}.running_mean"),
        ("norm/var", "{norm}.running_var"),
    ),
    "conv": (("kernel", "weight"),),
    "dense": (("kernel", "weight"), ("bias", "bias")),
    "norm": (("scale", "weight"), ("bias", "bias")),
    "batch_norm": (
        *(("scale", "weight"), ("bias", "bias")),
        *(("mean", "running_mean"), ("var", "running_var")),
    ),
}
_NUMBER = r"\d+"
# Fields that are not just any number.
_FIELDS = {
    "stage": r"[1-5]",
    "index": r"[0-4]",
    "unit": r"expand_1x1|conv_3x3|reduce_1x1",
    "extra": r"64|128|256",
    "level": r"[0-4]",
    "branch": r"[0-3]",
}


@dataclass(frozen=True, eq=False)
class Layout:
    """The naming of one kind of model in one implementation.

    Attributes:
        name: As `to_state_dict` takes it.
        title: As messages call it.
        family: Of the backbones.
        head: Of the models.
        below: Names of everything below the head.
        above: Names of the head.
        words: What it calls the convolution and the batch norm of a convolution block.
        channel_order: Of the images that its published weights were trained on.
    """

    name: str
    title: str
    family: Family
    head: Head
    below: BackboneNames
    above: HeadNames
    words: tuple[str, str]
    channel_order: Literal["bgr", "rgb"]

    @property
    def kind(self) -> str:
        """What messages call the models."""
        return f"{self.head.prefix}{self.family.name}"

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What may stand before every name of the backbone; the first is written."""
        return tuple(prefix.format(family=self.family.name) for prefix in self.above.prefixes)

    @property
    def first_names(self) -> tuple[str, ...]:
        """What the first convolution's kernel may be called, which every network has."""
        return tuple(_pairs(self, prefix)[0].theirs[0] for prefix in self.prefixes)

    @property
    def marks(self) -> tuple[str, ...]:
        """Names of which every network has one, once."""
        if not self.below.mark:
            return self.first_names
        return tuple(f"{prefix}{self.below.mark}" for prefix in self.prefixes)

    def is_of_head(self, name: str, prefix: str) -> bool:
        """Whether a name is one of the head's."""
        found = self.find_path(name, prefix)
        modules = {row.ours.partition("/")[0] for row in self.above.rows}
        return found is not None and found[0][0] in modules

    def cannot_express(self, model: Model) -> list[str]:
        """Returns the options of a model that these names have no place for."""
        return self.below.refused(model.backbone) + self.cannot_name(model)

    def cannot_name(self, model: Model) -> list[str]:
        """Returns the options whose tensors have no name of their own, so that none can be read."""
        return self.below.unnamed(model.backbone) + self.above.unnamed(model)

    def name_path(self, path: Path, backbone: Any, prefix: str = "") -> tuple[str, ...]:
        """Returns the names of one of our tensors: one, or several that it is cut into.

        Args:
            path: Without the collection, such as ("backbone", "conv_1", "conv", "kernel").
            backbone: The backbone of its model.
            prefix: One of `prefixes`.

        Raises:
            ValueError: If the layout has no name for it.
        """
        joined = "/".join(path)
        for pair in _pairs(self, prefix):
            if match := _pattern(pair.ours).fullmatch(joined):
                values: dict[str, object] = dict(match.groupdict())
                stage = int(values.get("stage") or 0)  # type: ignore[call-overload]
                values |= {"index": stage - 1, **self.below.values(backbone, stage)}
                return tuple(template.format_map(values) for template in pair.theirs)
        raise ValueError(f"{joined} has no name in {self.title}")

    def find_path(self, name: str, prefix: str = "") -> tuple[Path, int] | None:
        """Returns the path without collection that a name stands for, and which cut of it.

        None if the layout has no such name.
        """
        plain, patterns = _readers(self, prefix)
        if name in plain:
            return plain[name]
        for pattern, ours, part in patterns:
            if match := pattern.fullmatch(name):
                values = match.groupdict()
                if "index" in values:
                    values["stage"] = str(int(values["index"]) + 1)
                return tuple(ours.format_map(values).split("/")), part
        return None


class _Pair(NamedTuple):
    """A row for one leaf: templates."""

    ours: str
    theirs: tuple[str, ...]


@functools.cache
def _pairs(layout: Layout, prefix: str) -> tuple[_Pair, ...]:
    rows = [(row, prefix) for row in layout.below.rows] + [(row, "") for row in layout.above.rows]
    return tuple(pair for row, start in rows for pair in _expand(row, start, layout.words))


def _expand(row: Row, prefix: str, words: tuple[str, str]) -> Iterator[_Pair]:
    modules = (row.theirs,) if isinstance(row.theirs, str) else row.theirs
    for our_leaf, their_leaf in _LEAVES[row.kind]:
        leaf = their_leaf.format(conv=words[0], norm=words[1])
        ours = f"{row.ours}/{our_leaf}"
        theirs = tuple(f"{prefix}{module}.{leaf}" for module in modules)
        yield _Pair(ours, theirs)


_Plain = dict[str, tuple[Path, int]]


@functools.cache
def _readers(
    layout: Layout, prefix: str
) -> tuple[_Plain, tuple[tuple[re.Pattern[str], str, int], ...]]:
    """Returns what reads names: those without fields at once, the others by their patterns."""
    plain: _Plain = {}
    patterns = []
    for pair in _pairs(layout, prefix):
        for part, theirs in enumerate(pair.theirs):
            if "{" in theirs:
                patterns.append((_pattern(theirs), pair.ours, part))
            else:
                plain[theirs] = tuple(pair.ours.split("/")), part
    return plain, tuple(patterns)


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    """Turns "a.{stage}.b" into a pattern with a group for each field, equal where repeated."""
    seen: set[str] = set()
    pieces = []
    for position, piece in enumerate(re.split(r"\{(\w+)\}", template)):
        if position % 2 == 0:
            pieces.append(re.escape(piece))
        elif piece in seen:
            pieces.append(f"(?P={piece})")
        else:
            seen.add(piece)
            pieces.append(f"(?P<{piece}>{_FIELDS.get(piece, _NUMBER)})")
    return re.compile("".join(pieces))
