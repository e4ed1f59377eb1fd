"""Which implementation a state dict comes from, told by its names."""

import re
from collections.abc import Iterable

from mobilevit_jax.convert.cvnets import CVNETS
from mobilevit_jax.convert.huggingface import HUGGINGFACE
from mobilevit_jax.convert.names import Layout
from mobilevit_jax.convert.timm import TIMM
from mobilevit_jax.errors import DataError

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (HUGGINGFACE, CVNETS, TIMM)}

# Networks that resemble ours: a pattern that one of their names has, and what they are.
_RELATIVES: tuple[tuple[str, str], ...] = (
    (
        r"mobilevitv2\.|.*\.pre_norm_attn\.|.*\.transformer\.\d+\.attn\.qkv_proj\.",
        "MobileViTv2, which has another attention and is not supported; use MobileViT (v1) weights",
    ),
    (
        r"ssd_heads\.|extra_layers\.",
        "an SSDLite detector, and only classifiers can be loaded so far",
    ),
    (
        r"seg_head\.|segmentation_head\.",
        "a DeepLabv3 segmentation model, and only classifiers can be loaded so far",
    ),
    (
        r"(params|batch_stats)/",
        "this package's own arrays; name the directory that config.json and they are in",
    ),
)


def detect(names: Iterable[str]) -> tuple[Layout, str]:
    """Returns the layout that most of the names are of, and which of its prefixes they have.

    Raises:
        DataError: As `mobilevit_jax.convert.detect_layout`.
    """
    names = [name for name in names if not is_counter(name)]
    if not names:
        raise DataError("the state dict is empty")
    for pattern, what in _RELATIVES:
        if any(re.match(pattern, name) for name in names):
            raise DataError(f"the tensors are those of {what}")
    for layout in LAYOUTS.values():
        for prefix in layout.prefixes:
            found = [layout.find_path(name, prefix) for name in names]
            paths = ["/".join(hit[0]) for hit in found if hit]
            # Other networks of the same libraries share convolutions, but not transformers.
            if 2 * len(paths) > len(names) and any("/transformer_" in path for path in paths):
                return layout, prefix
    shown = ", ".join(names[:2])
    raise DataError(
        f"the tensors are not those of a MobileViT in the naming of "
        f"{', '.join(layout.title for layout in LAYOUTS.values())}; they are called {shown}"
        f"{', ...' if len(names) > 2 else ''}"
    )


def is_counter(name: str) -> bool:
    """Whether a name is PyTorch's count of batches, which plays no part in the model."""
    return name.endswith("num_batches_tracked")
