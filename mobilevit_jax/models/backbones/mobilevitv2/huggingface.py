"""MobileViTv2's fields in transformers' `config.json`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mobilevit_jax.errors import DataError
from mobilevit_jax.models.backbones.mobilevitv2.network import PATCH, MobileViTv2
from mobilevit_jax.models.backbones.mobilevitv2.variants import BASE_DIMS, Variant, scaled
from mobilevit_jax.models.huggingface_form import HuggingFaceForm, ImageSize, whole

_WIDEST = 100  # nobody's network is near


def _width(variant: Variant) -> float | None:
    """Returns the multiplier that makes a variant's channels, None if there is none."""
    likely = variant.channels[5] / 512
    for width in (likely, *(number / 1000 for number in range(1, 4001))):
        if scaled(width).channels == variant.channels:
            return width
    return None


def _base_dims(variant: Variant, width: float) -> tuple[int, ...]:
    """Returns what the multiplier makes the units' widths of."""
    if scaled(width).dims == variant.dims:
        return BASE_DIMS
    return tuple(round(dim / width) for dim in variant.dims)


def _fields(backbone: MobileViTv2) -> dict[str, Any]:
    variant = backbone.variant
    width = _width(variant) or 0.0  # `_beyond` has seen to it
    return {
        "width_multiplier": width,
        "base_attn_unit_dims": _base_dims(variant, width),
        "n_attn_blocks": variant.depths,
        "ffn_multiplier": variant.ffn_multiplier,
        "expand_ratio": float(variant.expansion),
        "output_stride": backbone.output_stride,
        "attn_dropout": backbone.attention_dropout,
        "ffn_dropout": backbone.ffn_dropout,
    }


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    width = fields["width_multiplier"]
    if not 0 < width < _WIDEST:
        raise DataError(f"width_multiplier must be above 0 and below {_WIDEST}, not {width}")
    variant = replace(
        scaled(width, fields["base_attn_unit_dims"]),
        expansion=whole("expand_ratio", fields["expand_ratio"]),
        depths=fields["n_attn_blocks"],
        ffn_multiplier=fields["ffn_multiplier"],
    )
    return {
        "variant": variant,
        "implementation": "transformers",
        "output_stride": fields["output_stride"],
        "attention_dropout": fields["attn_dropout"],
        "ffn_dropout": fields["ffn_dropout"],
    }


def _beyond(backbone: MobileViTv2, image_size: ImageSize | None) -> list[str]:
    variant, reasons = backbone.variant, []
    width = _width(variant)
    if width is None:
        reasons.append(f"channels={variant.channels} (only those of a width multiplier)")
    elif scaled(width, _base_dims(variant, width)).dims != variant.dims:
        reasons.append(f"dims={variant.dims} (only multiples of 8)")
    if backbone.implementation == "transformers":
        return reasons
    if backbone.output_stride != 32:
        reasons.append(
            f'implementation="cvnets" at output_stride={backbone.output_stride} (it does not '
            'dilate the blocks; implementation="transformers" does as it does)'
        )
    elif image_size is not None and _has_odd_maps(backbone, image_size):
        reasons.append(
            f'implementation="cvnets" for images of {image_size} pixels (it does not enlarge maps '
            'with an odd side; take multiples of 64, or implementation="transformers")'
        )
    return reasons


def _has_odd_maps(backbone: MobileViTv2, image_size: ImageSize) -> bool:
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    strides = [stride for name, (stride, _) in backbone.stages.items() if name >= "layer_3"]
    return any(-(-side // stride) % PATCH for side in (height, width) for stride in strides)


FORM = HuggingFaceForm(
    model_type="mobilevitv2",
    classes="MobileViTV2",
    defaults={
        "num_channels": 3,
        "patch_size": PATCH,
        "expand_ratio": 2.0,
        "hidden_act": "swish",
        "conv_kernel_size": 3,
        "output_stride": 32,
        "layer_norm_eps": 1e-5,
        "n_attn_blocks": (2, 4, 3),
        "base_attn_unit_dims": BASE_DIMS,
        "width_multiplier": 1.0,
        "ffn_multiplier": 2,
        "attn_dropout": 0.0,
        "ffn_dropout": 0.0,
    },
    segmentation={
        "classifier_dropout_prob": 0.1,
        "aspp_out_channels": 512,
        "atrous_rates": (6, 12, 18),
        "aspp_dropout_prob": 0.1,
    },
    fixed={
        "num_channels": (3,),
        "hidden_act": ("swish", "silu"),
        "conv_kernel_size": (3,),
        "patch_size": (PATCH,),
    },
    fields=_fields,
    options=_options,
    beyond=_beyond,
)
