"""MobileViT's fields in transformers' `config.json`."""

from collections.abc import Mapping
from typing import Any

from mobilevit_jax.models.backbones.mobilevit.network import MobileViT
from mobilevit_jax.models.backbones.mobilevit.variants import Variant
from mobilevit_jax.models.huggingface_form import (
    HuggingFaceForm,
    ImageSize,
    rounded_widths,
    whole,
)

# The format has no field for the depths: transformers' code has these numbers in it.
_DEPTHS = (2, 4, 3)


def _fields(backbone: MobileViT) -> dict[str, Any]:
    variant = backbone.variant
    return {
        "patch_size": backbone.patch_sizes[0],
        "hidden_sizes": variant.dims,
        "neck_hidden_sizes": (*variant.channels, variant.exp_channels),
        "num_attention_heads": variant.heads,
        "mlp_ratio": float(variant.ffn_multiplier),
        "expand_ratio": float(variant.expansion),
        "conv_kernel_size": backbone.kernel_size,
        "output_stride": backbone.output_stride,
        "hidden_dropout_prob": backbone.dropout,
        "attention_probs_dropout_prob": backbone.attention_dropout,
    }


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    neck = fields["neck_hidden_sizes"]
    variant = Variant(
        channels=neck[:6],
        dims=fields["hidden_sizes"],
        expansion=whole("expand_ratio", fields["expand_ratio"]),
        exp_channels=neck[6],
        dropout=fields["hidden_dropout_prob"],
        depths=_DEPTHS,
        heads=fields["num_attention_heads"],
        ffn_multiplier=whole("mlp_ratio", fields["mlp_ratio"]),
    )
    return {
        "variant": variant,
        "patch_sizes": (fields["patch_size"],) * 3,
        "kernel_size": fields["conv_kernel_size"],
        "output_stride": fields["output_stride"],
        "dropout": fields["hidden_dropout_prob"],
        "attention_dropout": fields["attention_probs_dropout_prob"],
    }


def _beyond(backbone: MobileViT, image_size: ImageSize | None) -> list[str]:
    variant, reasons = backbone.variant, []
    if len(set(backbone.patch_sizes)) > 1:
        reasons.append(f"patch_sizes={backbone.patch_sizes} (it has one size for all stages)")
    if not backbone.fusion:
        reasons.append("fusion=False")
    if variant.depths != _DEPTHS:
        reasons.append(f"depths={variant.depths} (only {_DEPTHS})")
    return reasons + rounded_widths(variant.channels, variant.expansion)


FORM = HuggingFaceForm(
    model_type="mobilevit",
    classes="MobileViT",
    defaults={
        "num_channels": 3,
        "patch_size": 2,
        "hidden_sizes": (144, 192, 240),
        "neck_hidden_sizes": (16, 32, 64, 96, 128, 160, 640),
        "num_attention_heads": 4,
        "mlp_ratio": 2.0,
        "expand_ratio": 4.0,
        "hidden_act": "silu",
        "conv_kernel_size": 3,
        "output_stride": 32,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.1,
        "layer_norm_eps": 1e-5,
        "qkv_bias": True,
    },
    segmentation={
        "aspp_out_channels": 256,
        "atrous_rates": (6, 12, 18),
        "aspp_dropout_prob": 0.1,
    },
    fixed={"num_channels": (3,), "hidden_act": ("silu", "swish"), "qkv_bias": (True,)},
    fields=_fields,
    options=_options,
    beyond=_beyond,
)
