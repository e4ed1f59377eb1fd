"""timm's `config.json`, which holds the image processing too.

timm knows the published sizes by name and nothing else of a network: patch sizes, fusion and kernel
size are inside its tables, out of reach of a configuration.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mobilevit_jax.convert.config_fields import (
    checked,
    class_count,
    created,
    mapping,
    ordered_labels,
)
from mobilevit_jax.convert.layouts import table_of
from mobilevit_jax.errors import ConfigurationError, DataError, nearest, quoted
from mobilevit_jax.models.heads.classifier import HEAD, Classifier
from mobilevit_jax.models.model import Family
from mobilevit_jax.models.problem_types import assumed_problem_type, unsaid
from mobilevit_jax.models.registry import (
    create_model,
    families,
    family_of,
    head_of,
    kind_of,
    model_name,
    option_names,
    options_of,
)
from mobilevit_jax.processing import ImageProcessor

_INTERPOLATIONS = {"bilinear": "pillow_bilinear", "bicubic": "pillow_bicubic"}
# What timm assumes where a file is silent, unless a family says otherwise.
_DEFAULTS: dict[str, Any] = {
    "input_size": (3, 256, 256),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
}
# Arguments of timm's constructor that change nothing here, with the value that they must have.
_ARGUMENTS: dict[str, Any] = {"in_chans": 3, "global_pool": "avg", "output_stride": 32}
# Fields of a file for which the same holds.
_FIXED: dict[str, Any] = {"global_pool": "avg", "in_chans": 3, "label_offset": 0}
# Sides of images in pixels are less.
_LONGEST = 2**31


def timm_processor(family: Family) -> ImageProcessor:
    """Returns the processor of timm's published weights of a family."""
    return _processor({}, {}, family)


def to_timm(
    model: Any, class_names: Sequence[str] | None, processor: ImageProcessor
) -> dict[str, Any]:
    """Returns timm's form, for `timm.create_model("local-dir:...", pretrained=True)`.

    timm's channels are R, G, B: the stem of a model for B, G, R has to be turned round with it.
    OpenCV's interpolation is written as Pillow's bilinear with an entry, `resample_library`, that
    timm leaves alone, as in `ImageProcessor.to_dict`.

    Args:
        model: The model.
        class_names: In the order of the logits, if known.
        processor: Its image processor.

    Raises:
        ConfigurationError: If timm cannot express the model or the processor, every reason named,
            or if there are more or fewer names than classes.
    """
    family = check_timm(model, _beyond_timm_processing(processor))
    table: Any = table_of("timm", model)
    names = class_count(class_names, model.num_classes)
    height, width = processor.crop_size
    order = -1 if processor.do_flip_channel_order else 1
    config: dict[str, Any] = {
        "architecture": model_name(model),
        "num_classes": model.num_classes,
        "num_features": _pooled_width(model),
        "global_pool": "avg",
    }
    if names:
        config["label_names"] = names
    if processor.resample == "bilinear":
        config["resample_library"] = "opencv"
    config["pretrained_cfg"] = {
        **_defaults(family),
        "custom_load": False,
        "input_size": (3, height, width),
        "fixed_input_size": False,
        "interpolation": processor.resample.removeprefix("pillow_"),
        "crop_pct": _crop_fraction(height, _short_side(processor)),
        "mean": (processor.mean or _DEFAULTS["mean"])[::order],
        "std": (processor.std or _DEFAULTS["std"])[::order],
        "num_classes": model.num_classes,
        "pool_size": (math.ceil(height / 32), math.ceil(width / 32)),
        "first_conv": table.first_names[0].removesuffix(".weight"),
        "classifier": table.name_path(("classifier", "kernel"), model.backbone)[0].removesuffix(
            ".weight"
        ),
    }
    return json.loads(json.dumps(config))


def from_timm(config: Mapping[str, Any]) -> tuple[Classifier, tuple[str, ...], ImageProcessor]:
    """Builds the model that a `config.json` of timm describes.

    Returns:
        (model, class names, processor); the names are empty if nobody named the classes.

    Raises:
        DataError: If it is another network, or one with arguments that ours does not do.
    """
    # Without pretrained_cfg in files from before timm 0.9.
    stored = {**config, **mapping("pretrained_cfg", config.get("pretrained_cfg"))}
    name = checked("architecture", stored.get("architecture"), "").split(".")[0]
    known = {variant: family for family in _families() for variant in family.variants}
    if name not in known:
        raise DataError(
            f"describes timm's {name!r}{nearest(name, known)}; only {', '.join(known)} are read"
        )
    family = known[name]
    arguments = dict(mapping("model_args", config.get("model_args")))
    arguments.setdefault("global_pool", config.get("global_pool") or "avg")
    count = config.get("num_classes", arguments.pop("num_classes", stored.get("num_classes", 1000)))
    arguments.pop("num_classes", None)
    options: dict[str, Any] = {"num_classes": checked("num_classes", count, 1000)}
    if "drop_rate" in arguments:
        options["classifier_dropout"] = checked("drop_rate", arguments.pop("drop_rate"), 0.0)
    for key, value in arguments.items():
        if key not in _ARGUMENTS or value != _ARGUMENTS[key]:
            raise DataError(f"model_args {key}={value!r} is not supported")
    for key, value in _FIXED.items():
        if stored.get(key) not in (None, value):
            raise DataError(f"{key}={quoted(stored[key])} is not supported, only {value!r}")
    labels = stored.get("label_names")
    names = ordered_labels("label_names", labels, options["num_classes"]) if labels else ()
    options["problem_type"] = assumed_problem_type(options["num_classes"])
    options["variant"] = family.variants[name]
    return created(HEAD, family, options), names, _processor(stored, config, family)


def _families() -> list[Family]:
    return [family for family in families().values() if family.timm is not None]


def _defaults(family: Family) -> dict[str, Any]:
    return {**_DEFAULTS, **(family.timm or {})}


def _pooled_width(model: Any) -> int:
    """Returns how many numbers an image's pooled features are."""
    *_, (_, channels) = model.backbone.stages.values()
    return getattr(model.backbone, "exp_channels", channels)


def check_timm(model: Any, reasons: Sequence[str] = ()) -> Family:
    """Returns the family of a model, once it is sure that timm has such a model.

    Args:
        model: The model.
        reasons: What else is in the way.

    Raises:
        ConfigurationError: If it has not, every reason named.
    """
    family = family_of(model)
    if family is None or head_of(model) is not HEAD or family.timm is None:
        reasons = [f"a model of the type {kind_of(model)}", *reasons]
    else:
        reasons = [*_beyond_timm(model, family), *reasons]
    if family is None or reasons:
        raise ConfigurationError(
            f"timm's format cannot express {'; '.join(reasons)}; save with layout='native'"
        )
    return family


def _beyond_timm(model: Any, family: Family) -> list[str]:
    name = model_name(model)
    published = options_of(create_model(name or next(iter(family.variants))))
    found = options_of(model)
    # What is dropped only matters in training.
    fields = [field for field in option_names(family.module) if not field.endswith("dropout")]
    reasons = [f"{field}={found[field]}" for field in fields if found[field] != published[field]]
    reasons += unsaid(model)
    return reasons if name else ["widths or depths of no published size", *reasons]


def _beyond_timm_processing(processor: ImageProcessor) -> list[str]:
    reasons = [
        f"{flag}=False"
        for flag in ("do_resize", "do_center_crop", "do_rescale")
        if not getattr(processor, flag)
    ]
    if processor.do_pad:
        reasons.append("do_pad=True")
    if not isinstance(processor.size, int):
        reasons.append(f"size={processor.size} (only the short side's length)")
    if processor.crop_size[0] != processor.crop_size[1]:
        reasons.append(f"crop_size={processor.crop_size} (only squares)")
    if not math.isclose(processor.rescale_factor, 1 / 255, rel_tol=1e-6):
        reasons.append(f"rescale_factor={processor.rescale_factor} (only 1/255)")
    return reasons


def _short_side(processor: ImageProcessor) -> int:
    return processor.size if isinstance(processor.size, int) else min(processor.size)


def _crop_fraction(crop: int, resized: int) -> float:
    """Returns the fraction from which timm, rounding down, computes just this resized length."""
    fraction = crop / resized
    while math.floor(crop / fraction) < resized:
        fraction = math.nextafter(fraction, 0.0)
    return fraction


def _processor(
    stored: Mapping[str, Any], config: Mapping[str, Any], family: Family
) -> ImageProcessor:
    """Reads the image processing of a `pretrained_cfg`.

    What it says of tests alone (`test_input_size`, `test_crop_pct`) goes before the sizes of
    training, as in timm's own evaluation, whose numbers are the published ones.
    """
    fields = {
        name: checked(name, stored.get(name, default), default)
        for name, default in _defaults(family).items()
    }
    for name in ("input_size", "crop_pct"):
        if (other := stored.get(f"test_{name}")) is not None:
            fields[name] = checked(f"test_{name}", other, fields[name])
    channels, height, width = fields["input_size"]
    if channels != 3 or height != width or not 1 <= height < _LONGEST:
        raise DataError(f"input_size={fields['input_size']} is not supported, only (3, n, n)")
    if fields["crop_mode"] != "center":
        raise DataError(f"crop_mode={fields['crop_mode']!r} is not supported, only 'center'")
    if fields["interpolation"] not in _INTERPOLATIONS:
        raise DataError(f"interpolation={fields['interpolation']!r} is not supported")
    if fields["crop_pct"] <= 0:
        raise DataError(f"crop_pct must be positive, not {fields['crop_pct']}")
    if not 1 <= height / fields["crop_pct"] < _LONGEST:
        raise DataError(
            f"crop_pct={fields['crop_pct']} is not supported: images to crop {height} pixels from "
            f"would be {height / fields['crop_pct']:.3g} long"
        )
    resample: Any = _INTERPOLATIONS[fields["interpolation"]]
    if resample == "pillow_bilinear" and config.get("resample_library") == "opencv":
        resample = "bilinear"
    plain = all(fields[name] == _DEFAULTS[name] for name in ("mean", "std"))
    try:
        return ImageProcessor(
            size=math.floor(height / fields["crop_pct"]),
            crop_size=(height, width),
            do_flip_channel_order=False,
            resample=resample,
            mean=None if plain else fields["mean"],
            std=None if plain else fields["std"],
        )
    except ConfigurationError as error:
        raise DataError(str(error)) from error
