"""MobileViT in three sizes (Mehta & Rastegari, ICLR 2022)."""

from mobilevit_jax.models.backbones.mobilevit.huggingface import FORM
from mobilevit_jax.models.backbones.mobilevit.names import NAMES, recognise, same_tensors
from mobilevit_jax.models.backbones.mobilevit.network import MobileViT, MobileViTBlock, check
from mobilevit_jax.models.backbones.mobilevit.variants import (
    ACCURACIES,
    VARIANTS,
    Variant,
    published,
)
from mobilevit_jax.models.model import Family

__all__ = ["FAMILY", "VARIANTS", "MobileViT", "MobileViTBlock", "Variant"]

FAMILY = Family(
    name="mobilevit",
    module=MobileViT,
    variants={f"mobilevit_{size}": variant for size, variant in VARIANTS.items()},
    defaults=lambda variant: {"dropout": variant.dropout},
    check=check,
    names=NAMES,
    published=published,
    same_tensors=same_tensors,
    recognise=recognise,
    huggingface=FORM,
    timm={"crop_pct": 0.9},
    accuracies=ACCURACIES,
)
