"""The fields of `preprocessor_config.json`, as transformers' classes of processors read them."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from mobilevit_jax.errors import ConfigurationError, quoted, unknown_name

Resample = Literal["bilinear", "pillow_bilinear", "pillow_bicubic"]
# The library of each, and the filter by Pillow's number, as the file format has them.
RESAMPLES: dict[Resample, tuple[str, int]] = {
    "bilinear": ("opencv", 2),
    "pillow_bilinear": ("pillow", 2),
    "pillow_bicubic": ("pillow", 3),
}
FLAGS = ("do_resize", "do_center_crop", "do_rescale", "do_flip_channel_order", "do_pad")
# The classes of transformers whose files these are, the second with mean and standard deviation;
# and what each assumes for a field that a file does not have.
PLAIN, NORMALISING = "MobileViTImageProcessor", "BitImageProcessor"
_ABSENT: dict[str, dict[str, Any]] = {
    PLAIN: {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 256, "width": 256},
        "resample": 3,
    },
    NORMALISING: {
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "resample": 3,
        # Which turns no channels round, and leaves the field alone.
        "do_flip_channel_order": False,
        "do_normalize": True,
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
    },
}
# What it has called them, behind the first word.
_ENDINGS = ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")


def read_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of an `ImageProcessor` that a file's contents ask for.

    Raises:
        ConfigurationError: If they ask for what that does not do.
    """
    config = {key: value for key, value in config.items() if value is not None}
    absent = _ABSENT[_check_followed(config)]
    # The name of the flag in files from before 2022's end.
    if "flip_channel_order" in config:
        config.setdefault("do_flip_channel_order", config["flip_channel_order"])
    config = {**absent, **config}
    if isinstance(config["size"], int) and config.get("default_to_square"):
        config["size"] = (config["size"], config["size"])
    known = (*FLAGS, "size", "crop_size", "rescale_factor")
    fields = {key: config[key] for key in known if key in config}
    if config.get("do_normalize"):
        fields |= {"mean": config["image_mean"], "std": config["image_std"]}
    if config.get("do_pad"):
        fields |= _read_padding(config)
    return {**fields, "resample": _parse_resample(config)}


def write_sizes(
    size: int | tuple[int, int], crop_size: tuple[int, int], pad_value: int | None
) -> dict[str, Any]:
    """Returns the fields of sizes; `pad_value` is None of a processor that does not pad."""
    crop = dict(zip(("height", "width"), crop_size, strict=True))
    if isinstance(size, int):
        return {"size": {"shortest_edge": size}, "crop_size": crop}
    sides = dict(zip(("height", "width"), size, strict=True))
    if pad_value is None:
        return {"size": sides, "crop_size": crop}
    most = {f"max_{side}": pixels for side, pixels in sides.items()}
    return {"size": most, "crop_size": crop, "pad_size": sides, "pad_value": pad_value}


def _read_padding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns size and value of a file with do_pad; refuses what is no letterbox."""
    size, sides = config["size"], config.get("pad_size")
    most = isinstance(sides, Mapping) and {f"max_{side}": n for side, n in sides.items()}
    if not most or size != most:
        raise ConfigurationError(
            "do_pad=True is supported where size says max_height and max_width, and pad_size the "
            f"same height and width; got size {quoted(size)} and pad_size {quoted(sides)}"
        )
    return {"size": sides, "pad_value": config.get("pad_value", 0)}


def _check_followed(config: Mapping[str, Any]) -> str:
    """Returns whose file it is; refuses other classes', and what this processor does not do."""
    known = {kind.removesuffix(_ENDINGS[0]) + end: kind for kind in _ABSENT for end in _ENDINGS}
    found = PLAIN
    for field in ("feature_extractor_type", "image_processor_type"):
        kind = str(config.get(field, found))
        if kind not in known:
            raise ConfigurationError(
                f"{field}={quoted(kind)} has other rules than {PLAIN} and {NORMALISING}; write "
                "what it does in the fields of one of these, and its name"
            )
        found = known[kind]
    if found == PLAIN and config.get("do_normalize"):
        raise ConfigurationError(
            f"do_normalize is passed over by {PLAIN}: set it to false, or, if image_mean and "
            f"image_std are meant, image_processor_type to {NORMALISING!r}"
        )
    # Images are always made RGB, which is what do_convert_rgb asks for.
    followed = (*FLAGS, "do_convert_rgb", "do_normalize")
    for field, value in config.items():
        asked = field.startswith("do_") and field not in followed
        if value and (asked or field == "reduce_labels"):
            raise ConfigurationError(f"{field}={quoted(value)} is not supported; set it to false")
    return found


def _parse_resample(config: Mapping[str, Any]) -> Resample:
    """Reads Pillow's number of a filter, unless the file says that OpenCV did it."""
    library, number = config.get("resample_library", "pillow"), config["resample"]
    if library not in ("opencv", "pillow"):
        raise unknown_name("resample_library", str(library), ("opencv", "pillow"))
    for resample, known in RESAMPLES.items():
        if known == (library, number):
            return resample
    raise ConfigurationError(
        f"resample {number!r} of {library} is not supported, only 2 and Pillow's 3"
    )


def both_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns a size as (height, width); a number is the side of a square."""
    return (size, size) if isinstance(size, int) else size


def parse_size(field: str, value: Any) -> int | tuple[int, int]:
    """Reads a size given as a number, (height, width) or one of Hugging Face's dictionaries."""
    if isinstance(value, Mapping):
        if set(value) == {"shortest_edge"} and field == "size":
            value = value["shortest_edge"]
        elif set(value) == {"height", "width"}:
            value = value["height"], value["width"]
    numbers = value if isinstance(value, tuple | list) else (value,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in numbers)
    if whole and len(numbers) == 2:
        return numbers[0], numbers[1]
    if whole and isinstance(value, int):
        return value
    raise ConfigurationError(
        f"{field} must be a whole number of pixels, (height, width) or a dictionary of these, "
        f"not {value!r}"
    )


def parse_channels(field: str, value: Any) -> tuple[float, float, float] | None:
    """Reads a number for each channel; those to divide by are above 0."""
    if value is None:
        return None
    low = 0.0 if field == "std" else -math.inf
    if isinstance(value, tuple | list) and len(value) == 3:
        numbers = [float(v) for v in value if isinstance(v, float | int) and low < v < math.inf]
        if len(numbers) == 3:
            return numbers[0], numbers[1], numbers[2]
    above = " above 0" if field == "std" else ""
    raise ConfigurationError(
        f"{field} must be three numbers{above}, or nothing; got {quoted(value)}"
    )
