"""Which implementation and which kind of model a state dict comes from, told by its names."""

import functools
import re
from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

from mobilevit_jax.convert.names import Layout
from mobilevit_jax.errors import DataError
from mobilevit_jax.models.model import Family, Head, Model
from mobilevit_jax.models.registry import all_heads, families, family_of, head_of


class _Implementation(NamedTuple):
    """What an implementation has in common for all its networks; see `Layout`."""

    title: str
    words: tuple[str, str]
    channel_order: Literal["bgr", "rgb"] = "bgr"


_IMPLEMENTATIONS = {
    "huggingface": _Implementation("Hugging Face transformers", ("convolution", "normalization")),
    # github.com/apple/ml-cvnets; later versions kept the names of classifiers and detectors.
    "cvnets": _Implementation("CVNets v0.1", ("conv", "norm")),
    # Before timm, which has its names for some networks.
    "torchvision": _Implementation("torchvision", ("0", "1"), "rgb"),
    "timm": _Implementation("timm", ("conv", "bn"), "rgb"),
}
LAYOUTS = tuple(_IMPLEMENTATIONS)


@functools.cache
def tables() -> tuple[Layout, ...]:
    """Returns all layouts; of two of one name and kind, the first is written."""
    return tuple(
        layout
        for name in LAYOUTS
        for family in families().values()
        for head in all_heads().values()
        for layout in _joined(name, family, head)
    )


def _joined(name: str, family: Family, head: Head) -> list[Layout]:
    if name not in family.names:
        return []
    about, below = _IMPLEMENTATIONS[name], family.names[name]
    return [
        Layout(
            name,
            above.title or below.title or about.title,
            family,
            head,
            below,
            above,
            about.words,
            above.channel_order or below.channel_order or about.channel_order,
        )
        for above in below.heads.get(head.name, head.names.get(name, ()))
    ]


# This package's own arrays have no layout of a state dict.
_OWN = re.compile(r"(params|batch_stats)/")


def table_of(layout: str, model: Model) -> Layout | None:
    """Returns the table of a layout for a kind of model, None if it has no such models."""
    wanted = layout, family_of(model), head_of(model)
    return next((t for t in tables() if (t.name, t.family, t.head) == wanted), None)


def detect(names: Iterable[str]) -> tuple[Layout, str]:
    """Returns the table that most of the names are of, and which of its prefixes they have.

    Raises:
        DataError: As `mobilevit_jax.convert.detect_layout`.
    """
    names = [name for name in names if not is_counter(name)]
    if not names:
        raise DataError("the state dict is empty")
    if any(map(_OWN.match, names)):
        raise DataError(
            "the tensors are those of this package's own arrays; name the directory that "
            "config.json and they are in"
        )
    best, most = None, len(names) // 2
    for table in tables():
        for prefix in table.prefixes:
            found = [table.find_path(name, prefix) for name in names]
            paths = ["/".join(hit[0]) for hit in found if hit]
            if len(paths) > most and any(table.below.proof in path for path in paths):
                best, most = (table, prefix), len(paths)
    if best is None:
        shown = ", ".join(names[:2])
        titles = dict.fromkeys(table.title for table in tables())
        raise DataError(
            f"the tensors are not those of a {' or '.join(families())} in the naming of "
            f"{', '.join(titles)}; they are called {shown}{', ...' if len(names) > 2 else ''}"
        )
    return best


def prefixes(names: Collection[str]) -> list[str]:
    """Returns what stands before the names of each network that a state dict holds.

    Each has one name that tells it, such as its first convolution's; the longest such end counts,
    as some layouts have prefixes of their own, unless nothing else stands beside those.
    """
    ends = sorted({end for table in tables() for end in table.marks}, key=len)
    found = {}
    for name in names:
        starts = [name.removesuffix(end) for end in ends if f".{name}".endswith(f".{end}")]
        if not starts:
            continue
        wrapped, start = starts[0], starts[-1]
        others = (other for other in names if other.startswith(start))
        alone = all(other.startswith(wrapped) for other in others)
        found[wrapped if alone else start] = None
    return list(found)


def is_counter(name: str) -> bool:
    """Whether a name is PyTorch's count of batches, which plays no part in the model."""
    return name.endswith("num_batches_tracked")
