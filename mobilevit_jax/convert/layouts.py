"""Which implementation and which kind of model a state dict comes from, told by its names."""

import re
from collections.abc import Iterable

from mobilevit_jax.convert.cvnets import (
    CVNETS,
    CVNETS_DEEPLABV3,
    CVNETS_LATER_DEEPLABV3,
    CVNETS_SSDLITE,
)
from mobilevit_jax.convert.huggingface import HUGGINGFACE, HUGGINGFACE_DEEPLABV3
from mobilevit_jax.convert.names import Layout
from mobilevit_jax.convert.timm import TIMM
from mobilevit_jax.errors import DataError

# Of two of one name and kind, the first is written.
TABLES: tuple[Layout, ...] = (
    HUGGINGFACE,
    HUGGINGFACE_DEEPLABV3,
    CVNETS,
    CVNETS_SSDLITE,
    CVNETS_DEEPLABV3,
    CVNETS_LATER_DEEPLABV3,
    TIMM,
)
LAYOUTS: tuple[str, ...] = tuple(dict.fromkeys(table.name for table in TABLES))

# Networks that resemble ours: a pattern that one of their names has, and what they are.
_RELATIVES: tuple[tuple[str, str], ...] = (
    (
        r"mobilevitv2\.|.*\.pre_norm_attn\.|.*\.transformer\.\d+\.attn\.qkv_proj\.",
        "MobileViTv2, which has another attention and is not supported; use MobileViT (v1) weights",
    ),
    (
        r"(params|batch_stats)/",
        "this package's own arrays; name the directory that config.json and they are in",
    ),
)


def table_of(layout: str, kind: str) -> Layout | None:
    """Returns the table of a layout for a kind of model, None if it has no such models."""
    return next((table for table in TABLES if (table.name, table.kind) == (layout, kind)), None)


def detect(names: Iterable[str]) -> tuple[Layout, str]:
    """Returns the table that most of the names are of, and which of its prefixes they have.

    Raises:
        DataError: As `mobilevit_jax.convert.detect_layout`.
    """
    names = [name for name in names if not is_counter(name)]
    if not names:
        raise DataError("the state dict is empty")
    for pattern, what in _RELATIVES:
        if any(re.match(pattern, name) for name in names):
            raise DataError(f"the tensors are those of {what}")
    best, most = None, len(names) // 2
    for table in TABLES:
        for prefix in table.prefixes:
            found = [table.find_path(name, prefix) for name in names]
            paths = ["/".join(hit[0]) for hit in found if hit]
            # Other networks of the same libraries share convolutions, but not transformers.
            if len(paths) > most and any("/transformer_" in path for path in paths):
                best, most = (table, prefix), len(paths)
    if best is None:
        shown = ", ".join(names[:2])
        titles = dict.fromkeys(table.title for table in TABLES)
        raise DataError(
            f"the tensors are not those of a MobileViT in the naming of {', '.join(titles)}; they "
            f"are called {shown}{', ...' if len(names) > 2 else ''}"
        )
    return best


def is_counter(name: str) -> bool:
    """Whether a name is PyTorch's count of batches, which plays no part in the model."""
    return name.endswith("num_batches_tracked")
