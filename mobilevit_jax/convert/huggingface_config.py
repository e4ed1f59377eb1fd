"""transformers' `config.json`, of classifiers and of DeepLabv3 segmentation models."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mobilevit_jax.convert.config_fields import (
    check_widths,
    checked,
    class_count,
    created,
    mapping,
    named_classes,
    placeholders,
)
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models.backbones.mobilevit import FAMILY, Variant
from mobilevit_jax.models.heads import classifier, deeplabv3
from mobilevit_jax.models.model import Model
from mobilevit_jax.models.problem_types import SINGLE_LABEL, assumed_problem_type, unsaid
from mobilevit_jax.models.registry import family_of, head_of, kind_of

# The format has no field for the depths: transformers' code has these numbers in it.
_DEPTHS = (2, 4, 3)
# What transformers' MobileViTConfig assumes for a field that a file does not have.
_DEFAULTS: dict[str, Any] = {
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
}
# Fields that only its segmentation models have a use for.
_SEGMENTATION_DEFAULTS: dict[str, Any] = {
    "aspp_out_channels": 256,
    "atrous_rates": (6, 12, 18),
    "aspp_dropout_prob": 0.1,
}
_CLASSIFIER, _BARE = "MobileViTForImageClassification", "MobileViTModel"
_SEGMENTATION = "MobileViTForSemanticSegmentation"


def to_huggingface(
    model: Any,
    class_names: Sequence[str] | None = None,
    *,
    image_size: int | tuple[int, int] = 256,
) -> dict[str, Any]:
    """Returns the form of `MobileViTForImageClassification` or `...ForSemanticSegmentation`.

    Segmentation models of transformers give logits at 1 / output_stride, and resize them
    afterwards (`post_process_semantic_segmentation`): `upsample` has no place in the file.

    Args:
        model: The model.
        class_names: In the order of the logits; transformers' placeholders, LABEL_0 and so on, if
            not given.
        image_size: What the weights were made for; the model itself takes any size.

    Raises:
        ConfigurationError: If the form cannot express the model, every reason named, or if there
            are more or fewer names than classes.
    """
    check_huggingface(model)
    names = class_count(class_names, model.num_classes)
    names = names or placeholders(model.num_classes)
    backbone = model.backbone
    variant = backbone.variant
    segmentation = head_of(model) is deeplabv3.HEAD
    config = {
        "architectures": [_SEGMENTATION if segmentation else _CLASSIFIER],
        "model_type": "mobilevit",
        **_DEFAULTS,
        "image_size": image_size,
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
        **_head(model),
        "dtype": "float32",
        "id2label": {str(index): name for index, name in enumerate(names)},
        # A name that stands twice, as two do in ImageNet, keeps the last: ids are what counts.
        "label2id": {name: index for index, name in enumerate(names)},
    }
    return json.loads(json.dumps(config))


def _head(model: Any) -> dict[str, Any]:
    """Returns the fields of a model's head."""
    if head_of(model) is deeplabv3.HEAD:
        return {
            "classifier_dropout_prob": model.head_dropout,
            "aspp_out_channels": model.aspp_features,
            "atrous_rates": model.aspp_rates,
            "aspp_dropout_prob": model.aspp_dropout,
            "semantic_loss_ignore_index": 255,
        }
    said = {"problem_type": model.problem_type} if unsaid(model) else {}
    return {"classifier_dropout_prob": model.classifier_dropout, **said}


def _beyond_huggingface(model: Any) -> list[str]:
    """Names what transformers' MobileViT cannot do."""
    head = head_of(model)
    if family_of(model) is not FAMILY or head not in (classifier.HEAD, deeplabv3.HEAD):
        return [f"a model of the type {kind_of(model)}"]
    backbone, reasons = model.backbone, []
    variant = backbone.variant
    if len(set(backbone.patch_sizes)) > 1:
        reasons.append(f"patch_sizes={backbone.patch_sizes} (it has one size for all stages)")
    if not backbone.fusion:
        reasons.append("fusion=False")
    if variant.depths != _DEPTHS:
        reasons.append(f"depths={variant.depths} (only {_DEPTHS})")
    hidden = [width * variant.expansion for width in variant.channels[:5]]
    if any(width % 8 for width in hidden):
        reasons.append(f"hidden widths of {hidden} in inverted residuals (only multiples of 8)")
    if head is classifier.HEAD and unsaid(model) and model.problem_type == SINGLE_LABEL:
        reasons.append("a softmax of one class (it takes the sigmoid)")
    if head is deeplabv3.HEAD:
        if model.aux_head:
            reasons.append("aux_head=True (from_pretrained(..., aux_head=False) leaves it out)")
        if model.align_corners:
            reasons.append("align_corners=True (it resizes logits without)")
    return reasons


def check_huggingface(model: Model) -> None:
    """Makes sure that transformers has such a model.

    Raises:
        ConfigurationError: If it has not, every reason named.
    """
    reasons = _beyond_huggingface(model)
    if reasons:
        raise ConfigurationError(
            f"transformers' format cannot express {'; '.join(reasons)}; save with layout='native'"
        )


def from_huggingface(config: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Builds the model that a `config.json` of transformers describes; widths may be any.

    Returns:
        (a classifier or `DeepLabV3`, class names). The names are empty where there are only
        transformers' placeholders. Segmentation models resize their logits to the image, as
        transformers does afterwards; `upsample=False` gives its logits.

    Raises:
        DataError: If it is another kind of model, or one that ours does not do, which is named.
    """
    segmentation = _is_segmentation(config)
    _check_absent(config)
    defaults = _DEFAULTS | (_SEGMENTATION_DEFAULTS if segmentation else {})
    fields = {
        name: checked(name, config.get(name, default), default)
        for name, default in defaults.items()
    }
    _check_fixed(fields)
    variant = _variant(fields)
    labels = config.get("id2label")
    num_classes = _number_of_classes(config, labels)
    options = {
        "variant": variant,
        "num_classes": num_classes,
        "patch_sizes": (fields["patch_size"],) * 3,
        "kernel_size": fields["conv_kernel_size"],
        "output_stride": fields["output_stride"],
        "dropout": fields["hidden_dropout_prob"],
        "attention_dropout": fields["attention_probs_dropout_prob"],
    }
    if segmentation:
        options |= {
            "head_dropout": fields["classifier_dropout_prob"],
            "aspp_features": fields["aspp_out_channels"],
            "aspp_rates": fields["atrous_rates"],
            "aspp_dropout": fields["aspp_dropout_prob"],
        }
        model = created(deeplabv3.HEAD, FAMILY, options)
    else:
        options["classifier_dropout"] = fields["classifier_dropout_prob"]
        options["problem_type"] = _problem_type(config, num_classes)
        model = created(classifier.HEAD, FAMILY, options)
    reasons = _beyond_huggingface(model)
    if reasons:
        raise DataError(f"transformers rounds these up, our model does not: {'; '.join(reasons)}")
    names = named_classes(labels, num_classes)
    if num_classes:
        _check_label2id(mapping("label2id", config.get("label2id")), names)
    return model, names


def _problem_type(config: Mapping[str, Any], num_classes: int) -> str:
    """Returns what the logits stand for, as transformers' pipeline takes them."""
    assumed = assumed_problem_type(num_classes)
    if (stated := config.get("problem_type")) is None:
        return assumed
    # Its sigmoid of one logit comes before what the file says of it.
    return assumed if stated == SINGLE_LABEL else checked("problem_type", stated, "")


def _check_absent(config: Mapping[str, Any]) -> None:
    """Refuses fields that change what the model computes and that ours does not follow."""
    fields = ["quantization_config", "pruned_heads"]
    if _is_segmentation(config):
        fields.append("problem_type")
    for name in fields:
        if config.get(name):
            raise DataError(f"{name}={config[name]!r:.80} is not supported; leave it out")


def _check_label2id(indices: Mapping[str, Any], names: Sequence[str]) -> None:
    """Makes sure that no class has two places.

    Other names are left over where only `id2label` was set, which is what transformers shows.
    """
    places: dict[str, list[str]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(str(place))
    for name, index in indices.items():
        # Some programs write the indices as texts.
        if str(index) not in places.get(name, [str(index)]):
            raise DataError(
                f"label2id says that {name!r:.80} is class {index!r:.20}, and id2label that it is "
                f"class {places[name][0]}; correct one of them"
            )


def _is_segmentation(config: Mapping[str, Any]) -> bool:
    """Tells segmentation models from classifiers, and refuses others."""
    kind = config.get("model_type")
    if kind == "mobilevitv2":
        raise DataError("describes a MobileViTv2, another architecture than MobileViT")
    if kind != "mobilevit":
        raise DataError(f"describes a model of the type {kind!r}, not 'mobilevit'")
    architectures = _architectures(config)
    for name in architectures:
        if name not in (_CLASSIFIER, _BARE, _SEGMENTATION):
            raise DataError(f"describes a {name}; only {_CLASSIFIER} and {_SEGMENTATION} are read")
    return _SEGMENTATION in architectures


def _architectures(config: Mapping[str, Any]) -> list[str]:
    found = config.get("architectures")
    if found is not None and not isinstance(found, list | tuple):
        raise DataError(f"architectures must be a list of names, not {found!r}")
    return [checked("architectures", name, "") for name in found or ()]


def _variant(fields: Mapping[str, Any]) -> Variant:
    neck = fields["neck_hidden_sizes"]
    variant = Variant(
        channels=neck[:6],
        dims=fields["hidden_sizes"],
        expansion=_whole("expand_ratio", fields["expand_ratio"]),
        exp_channels=neck[6],
        dropout=fields["hidden_dropout_prob"],
        depths=_DEPTHS,
        heads=fields["num_attention_heads"],
        ffn_multiplier=_whole("mlp_ratio", fields["mlp_ratio"]),
    )
    check_widths(variant)
    return variant


def _check_fixed(fields: Mapping[str, Any]) -> None:
    """Refuses values of fields that are not options of our model."""
    fixed = {"num_channels": (3,), "hidden_act": ("silu", "swish"), "qkv_bias": (True,)}
    for name, allowed in fixed.items():
        if fields[name] not in allowed:
            raise DataError(f"{name}={fields[name]!r} is not supported, only {allowed[0]!r}")
    if not math.isclose(fields["layer_norm_eps"], 1e-5, rel_tol=1e-6):
        raise DataError(f"layer_norm_eps={fields['layer_norm_eps']!r} is not supported, only 1e-05")


def _whole(name: str, value: float) -> int:
    if value != int(value):
        raise DataError(f"{name}={value!r} is not supported, only whole numbers")
    return int(value)


def _number_of_classes(config: Mapping[str, Any], labels: Any) -> int:
    if _BARE in _architectures(config):
        return 0
    if labels is not None and not isinstance(labels, Mapping | list):
        raise DataError(f"id2label must be a mapping from index to name, not {labels!r}")
    # transformers' PreTrainedConfig has two labels unless told otherwise.
    named = 2 if labels is None else len(labels)
    count = checked("num_labels", config.get("num_labels", named), 2)
    if labels is not None and named != count:
        raise DataError(f"num_labels={count}, but id2label names {named} classes")
    return count
