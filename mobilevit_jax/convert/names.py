"""Tables of names, and the engine that reads them in both directions.

A row pairs a module of ours with one of another implementation: the same path written twice, with
fields in braces where numbers and names vary. Nothing here knows what a tensor holds.

Fields of our paths: `stage` (1 to 5), `block`, `layer` (of a transformer), `unit` (a convolution
of an inverted residual), `extra` and `level` (of a detector), `branch` (of a pyramid). Names of
others have two more ways to count, `index` (stage - 1) and `last` (transformer layers of the
stage), and `kernel` (side of the blocks' convolutions).
"""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mobilevit_jax.models.backbone import BackboneModel

Path = tuple[str, ...]
Kind = Literal["block", "conv", "dense", "norm"]

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
}
_FIELDS = {
    "stage": r"[1-5]",
    "index": r"[0-4]",
    "unit": r"expand_1x1|conv_3x3|reduce_1x1",
    "block": r"\d+",
    "layer": r"\d+",
    "last": r"\d+",
    "kernel": r"\d+",
    "extra": r"64|128|256",
    "level": r"[0-4]",
    "branch": r"[0-3]",
}


class Row(NamedTuple):
    """A module of ours and its counterpart.

    Attributes:
        ours: Our path, such as "backbone/layer_{stage}/block_{block}/{unit}".
        theirs: Their name; several names share one tensor of ours, cut along its outputs.
        kind: What the module holds; see `_LEAVES`. A convolution with bias is "dense".
    """

    ours: str
    theirs: str | tuple[str, ...]
    kind: Kind = "block"


@dataclass(frozen=True)
class Layout:
    """The naming of one kind of model in one implementation.

    Attributes:
        name: As `to_state_dict` takes it.
        title: As messages call it.
        encoder: Rows of everything below the head; of two that fit, the first is taken.
        head: Rows of the head.
        words: What it calls the convolution and the batch norm of a convolution block.
        kind: Which of `models.KINDS` the head is of.
        prefixes: What may stand before every name of `encoder`; the first is written.
        depths: The only numbers of transformer layers that its models have, None for any.
        fusion_required: Whether its models always have the fusion convolutions.
        min_expansion: The least expansion whose inverted residuals have an `expand_1x1`.
        min_kernel_size: The least for which the local convolution has a name of its own.
        channel_order: Of the images that its published weights were trained on.
        assumed: Options that leave no trace in tensors, as its published weights have them, where
            they are not the defaults.
    """

    name: str
    title: str
    encoder: tuple[Row, ...]
    head: tuple[Row, ...]
    words: tuple[str, str]
    kind: str = "mobilevit"
    prefixes: tuple[str, ...] = ("",)
    depths: tuple[int, int, int] | None = None
    fusion_required: bool = False
    min_expansion: int = 1
    min_kernel_size: int = 1
    channel_order: Literal["bgr", "rgb"] = "bgr"
    assumed: tuple[tuple[str, Any], ...] = ()

    def cannot_express(self, model: BackboneModel) -> list[str]:
        """Returns the options of a model that these names have no place for."""
        depths, found = self.depths, []
        if depths and model.variant.depths != depths:
            found.append(f"depths={model.variant.depths} (always {depths} there)")
        if self.fusion_required and not model.fusion:
            found.append("fusion=False")
        if model.variant.expansion < self.min_expansion:
            found.append(f"expansion={model.variant.expansion} (no expanding convolution there)")
        return found + self.cannot_name(model)

    def cannot_name(self, model: BackboneModel) -> list[str]:
        """Returns the options whose tensors have no name of their own, so that none can be read."""
        found = []
        if model.kernel_size < self.min_kernel_size:
            found.append(f"kernel_size={model.kernel_size} (two convolutions of one name there)")
        if getattr(model, "aux_head", False) and all(row.ours != "aux_conv" for row in self.head):
            found.append("aux_head=True (no auxiliary head there)")
        return found

    def name_path(
        self, path: Path, *, depths: Mapping[str, int], kernel_size: int, prefix: str = ""
    ) -> tuple[str, ...]:
        """Returns the names of one of our tensors: one, or several that it is cut into.

        Args:
            path: Without the collection, such as ("backbone", "conv_1", "conv", "kernel").
            depths: Transformer layers of "layer_3", "layer_4" and "layer_5".
            kernel_size: Side of the blocks' local and fusion convolutions.
            prefix: One of `prefixes`.

        Raises:
            ValueError: If the layout has no name for it.
        """
        joined = "/".join(path)
        for pair in _pairs(self, prefix):
            if match := pair.ours_pattern.fullmatch(joined):
                values: dict[str, object] = dict(match.groupdict())
                stage = int(values.get("stage") or 0)  # type: ignore[call-overload]
                values |= {
                    "index": stage - 1,
                    "last": depths.get(f"layer_{stage}"),
                    "kernel": kernel_size,
                }
                return tuple(template.format_map(values) for template in pair.theirs)
        raise ValueError(f"{joined} has no name in {self.title}")

    def find_path(self, name: str, prefix: str = "") -> tuple[Path, int] | None:
        """Returns the path without collection that a name stands for, and which cut of it.

        None if the layout has no such name.
        """
        for pair in _pairs(self, prefix):
            for part, pattern in enumerate(pair.theirs_patterns):
                if match := pattern.fullmatch(name):
                    values = match.groupdict()
                    if "index" in values:
                        values["stage"] = str(int(values["index"]) + 1)
                    return tuple(pair.ours.format_map(values).split("/")), part
        return None


class _Pair(NamedTuple):
    """A row for one leaf: templates, and the patterns that read them backwards."""

    ours: str
    ours_pattern: re.Pattern[str]
    theirs: tuple[str, ...]
    theirs_patterns: tuple[re.Pattern[str], ...]


@functools.cache
def _pairs(layout: Layout, prefix: str) -> tuple[_Pair, ...]:
    rows = [(row, prefix) for row in layout.encoder] + [(row, "") for row in layout.head]
    return tuple(pair for row, start in rows for pair in _expand(row, start, layout.words))


def _expand(row: Row, prefix: str, words: tuple[str, str]) -> Iterator[_Pair]:
    modules = (row.theirs,) if isinstance(row.theirs, str) else row.theirs
    for our_leaf, their_leaf in _LEAVES[row.kind]:
        leaf = their_leaf.format(conv=words[0], norm=words[1])
        ours = f"{row.ours}/{our_leaf}"
        theirs = tuple(f"{prefix}{module}.{leaf}" for module in modules)
        yield _Pair(ours, _pattern(ours), theirs, tuple(map(_pattern, theirs)))


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
            pieces.append(f"(?P<{piece}>{_FIELDS[piece]})")
    return re.compile("".join(pieces))
