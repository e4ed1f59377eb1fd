"""MobileViTv2 in seven widths (Mehta & Rastegari, TMLR 2023)."""

from mobilevit_jax.models.backbones.mobilevitv2.huggingface import FORM
from mobilevit_jax.models.backbones.mobilevitv2.names import NAMES, recognise
from mobilevit_jax.models.backbones.mobilevitv2.network import MobileViTv2, MobileViTv2Block, check
from mobilevit_jax.models.backbones.mobilevitv2.variants import (
    ACCURACIES,
    VARIANTS,
    Variant,
    published,
    scaled,
)
from mobilevit_jax.models.model import Family

__all__ = ["FAMILY", "VARIANTS", "MobileViTv2", "MobileViTv2Block", "Variant", "scaled"]

FAMILY = Family(
    name="mobilevitv2",
    module=MobileViTv2,
    variants={f"mobilevitv2_{size}": variant for size, variant in VARIANTS.items()},
    defaults=lambda variant: {},
    check=check,
    names=NAMES,
    published=published,
    same_tensors=lambda one, other: one == other,
    recognise=recognise,
    # CVNets v0.2, `imagenet/mobilevit_v2.yaml` and `pascal_voc/deeplabv3_mobilevitv2.yaml`.
    head_defaults={
        "classifier": {"classifier_dropout": 0.0},
        "deeplabv3": {
            "aspp_features": 512,
            "channel_dropout": True,
            "head_dropout": 0.0,
            "aux_width": 128,
            "align_corners": True,
        },
    },
    huggingface=FORM,
    timm={"crop_pct": 0.888},
    accuracies=ACCURACIES,
)
