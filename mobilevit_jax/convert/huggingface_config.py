"""transformers' `config.json`, of classifiers and of DeepLabv3 segmentation models."""

import functools
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
from mobilevit_jax.errors import ConfigurationError, DataError, quoted
from mobilevit_jax.models.heads import classifier, deeplabv3
from mobilevit_jax.models.huggingface_form import HuggingFaceForm, ImageSize
from mobilevit_jax.models.model import Family, Model
from mobilevit_jax.models.problem_types import SINGLE_LABEL, assumed_problem_type, unsaid
from mobilevit_jax.models.registry import families, family_of, head_of, kind_of

# What the names of classes go on with; the bare network is a classifier without its last layer.
_CLASSIFIER, _BARE, _SEGMENTATION = "ForImageClassification", "Model", "ForSemanticSegmentation"


@functools.cache
def _forms() -> dict[str, tuple[Family, HuggingFaceForm]]:
    """Returns {model_type: (family, form)}."""
    found = ((family, family.huggingface) for family in families().values())
    return {form.model_type: (family, form) for family, form in found if form}


def to_huggingface(
    model: Any,
    class_names: Sequence[str] | None = None,
    *,
    image_size: int | tuple[int, int] = 256,
) -> dict[str, Any]:
    """Returns the form of `MobileViTForImageClassification`, `...ForSemanticSegmentation` and such.

    Segmentation models of transformers give logits at 1 / output_stride, and resize them
    afterwards (`post_process_semantic_segmentation`): `upsample` has no place in the file.

    Args:
        model: The model.
        class_names: In the order of the logits; transformers' placeholders, LABEL_0 and so on, if
            not given.
        image_size: What the weights were made for; the model itself takes any size. Of networks
            whose answers transformers has for some sizes alone, others are refused.

    Raises:
        ConfigurationError: If the form cannot express the model, every reason named, or if there
            are more or fewer names than classes.
    """
    form = check_huggingface(model, image_size)
    names = class_count(class_names, model.num_classes)
    names = names or placeholders(model.num_classes)
    segmentation = head_of(model) is deeplabv3.HEAD
    config = {
        "architectures": [f"{form.classes}{_SEGMENTATION if segmentation else _CLASSIFIER}"],
        "model_type": form.model_type,
        **form.defaults,
        "image_size": image_size,
        **form.fields(model.backbone),
        **_head(model, form),
        "dtype": "float32",
        "id2label": {str(index): name for index, name in enumerate(names)},
        # A name that stands twice, as two do in ImageNet, keeps the last: ids are what counts.
        "label2id": {name: index for index, name in enumerate(names)},
    }
    return json.loads(json.dumps(config))


def _head(model: Any, form: HuggingFaceForm) -> dict[str, Any]:
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
    if "classifier_dropout_prob" in form.defaults:
        said["classifier_dropout_prob"] = model.classifier_dropout
    return said


def _beyond_huggingface(model: Any, form: HuggingFaceForm, size: ImageSize | None) -> list[str]:
    """Names what transformers' network cannot do."""
    head, reasons = head_of(model), form.beyond(model.backbone, size)
    if head is classifier.HEAD and unsaid(model) and model.problem_type == SINGLE_LABEL:
        reasons.append("a softmax of one class (it takes the sigmoid)")
    if head is deeplabv3.HEAD:
        if model.aux_head:
            reasons.append("aux_head=True (from_pretrained(..., aux_head=False) leaves it out)")
        if model.align_corners:
            reasons.append("align_corners=True (it resizes logits without)")
    return reasons


def check_huggingface(model: Model, image_size: ImageSize | None = None) -> HuggingFaceForm:
    """Returns the form of a model, once it is sure that transformers has such a model.

    Args:
        model: The model.
        image_size: Of the images that it is for, if known.

    Raises:
        ConfigurationError: If it has not, every reason named.
    """
    family = family_of(model)
    form = family.huggingface if family else None
    if form is None or head_of(model) not in (classifier.HEAD, deeplabv3.HEAD):
        reasons = [f"a model of the type {kind_of(model)}"]
    else:
        reasons = _beyond_huggingface(model, form, image_size)
    if form is None or reasons:
        raise ConfigurationError(
            f"transformers' format cannot express {'; '.join(reasons)}; save with layout='native'"
        )
    return form


def from_huggingface(config: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Builds the model that a `config.json` of transformers describes; widths may be any.

    Returns:
        (a classifier or `DeepLabV3`, class names). The names are empty where there are only
        transformers' placeholders. Segmentation models resize their logits to the image, as
        transformers does afterwards; `upsample=False` gives its logits.

    Raises:
        DataError: If it is another kind of model, or one that ours does not do, which is named.
    """
    family, form = _form_of(config)
    segmentation = f"{form.classes}{_SEGMENTATION}" in _architectures(config)
    _check_absent(config, segmentation)
    defaults = {**form.defaults, **(form.segmentation if segmentation else {})}
    fields = {
        name: checked(name, config.get(name, default), default)
        for name, default in defaults.items()
    }
    _check_fixed(fields, form)
    labels = config.get("id2label")
    num_classes = _number_of_classes(config, labels, f"{form.classes}{_BARE}")
    options = {"num_classes": num_classes, **form.options(fields)}
    check_widths(options["variant"])
    if segmentation:
        options |= {
            "head_dropout": fields["classifier_dropout_prob"],
            "aspp_features": fields["aspp_out_channels"],
            "aspp_rates": fields["atrous_rates"],
            "aspp_dropout": fields["aspp_dropout_prob"],
            "align_corners": False,
        }
        model = created(deeplabv3.HEAD, family, options)
    else:
        if "classifier_dropout_prob" in fields:
            options["classifier_dropout"] = fields["classifier_dropout_prob"]
        options["problem_type"] = _problem_type(config, num_classes)
        model = created(classifier.HEAD, family, options)
    reasons = _beyond_huggingface(model, form, None)
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


def _check_absent(config: Mapping[str, Any], segmentation: bool) -> None:
    """Refuses fields that change what the model computes and that ours does not follow."""
    fields = ["quantization_config", "pruned_heads"]
    if segmentation:
        fields.append("problem_type")
    for name in fields:
        if config.get(name):
            raise DataError(f"{name}={quoted(config[name])} is not supported; leave it out")


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
                f"label2id says that {quoted(name)} is class {quoted(index, 20)}, and id2label "
                f"that it is class {places[name][0]}; correct one of them"
            )


def _form_of(config: Mapping[str, Any]) -> tuple[Family, HuggingFaceForm]:
    """Tells which backbone is described, and refuses other models, and heads that are not read."""
    kind, known = config.get("model_type"), _forms()
    if not isinstance(kind, str) or kind not in known:
        names = " or ".join(map(repr, known))
        raise DataError(f"describes a model of the type {quoted(kind)}, not {names}")
    classes = known[kind][1].classes
    for name in _architectures(config):
        if name not in (f"{classes}{rest}" for rest in (_CLASSIFIER, _BARE, _SEGMENTATION)):
            raise DataError(
                f"describes a {name}; only {classes}{_CLASSIFIER} and {classes}{_SEGMENTATION} "
                f"are read for {kind!r}"
            )
    return known[kind]


def _architectures(config: Mapping[str, Any]) -> list[str]:
    found = config.get("architectures")
    if found is not None and not isinstance(found, list | tuple):
        raise DataError(f"architectures must be a list of names, not {found!r}")
    return [checked("architectures", name, "") for name in found or ()]


def _check_fixed(fields: Mapping[str, Any], form: HuggingFaceForm) -> None:
    """Refuses values of fields that are not options of our model."""
    for name, allowed in form.fixed.items():
        if fields[name] not in allowed:
            raise DataError(f"{name}={fields[name]!r} is not supported, only {allowed[0]!r}")
    if not math.isclose(fields["layer_norm_eps"], 1e-5, rel_tol=1e-6):
        raise DataError(f"layer_norm_eps={fields['layer_norm_eps']!r} is not supported, only 1e-05")


def _number_of_classes(config: Mapping[str, Any], labels: Any, bare: str) -> int:
    if bare in _architectures(config):
        return 0
    if labels is not None and not isinstance(labels, Mapping | list):
        raise DataError(f"id2label must be a mapping from index to name, not {labels!r}")
    # transformers' PreTrainedConfig has two labels unless told otherwise.
    named = 2 if labels is None else len(labels)
    count = checked("num_labels", config.get("num_labels", named), 2)
    if labels is not None and named != count:
        raise DataError(f"num_labels={count}, but id2label names {named} classes")
    return count
