"""Weights ready for use, from wherever they are: joins files, names, configuration and processor.

What a source is, is decided in this order: a path that exists (a work directory, a directory with
a `config.json`, a weight file), then an id of the Hugging Face hub.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from mobilevit_jax.base.run_files import EXPERIMENT
from mobilevit_jax.convert import files, hub, load_state_dict, native
from mobilevit_jax.convert.config import read_config, timm_processor
from mobilevit_jax.convert.infer_model import recognise
from mobilevit_jax.convert.layouts import table_of
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models.initial import initialise
from mobilevit_jax.models.registry import (
    family_of,
    head_of,
    kind_of,
    model_name,
    with_options,
)
from mobilevit_jax.models.variables import variable_shapes
from mobilevit_jax.processing import CONFIG_NAME as PROCESSOR_NAME
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.run_weights import Choice, load_run
from mobilevit_jax.tasks.pretrained import Pretrained

if TYPE_CHECKING:
    from mobilevit_jax.models import Model

CONFIG = "config.json"


def from_pretrained(
    source: str | Path,
    *,
    checkpoint: Choice = "latest",
    raw: bool = False,
    revision: str | None = None,
    allow_half: bool = False,
    replace_classifier: bool = False,
    backbone: nn.Module | None = None,
    **options: Any,
) -> tuple["Model", dict[str, Any], ImageProcessor]:
    """Loads a model, its variables and its image processor.

    Args:
        source: See `load_weights`.
        checkpoint, raw, revision, allow_half: See `load_weights`.
        replace_classifier: Whether the classifier is initialised anew, with `num_classes` that
            may differ from the weights'.
        backbone: The module on which the model stands, if it was saved with one that this package
            does not have (`create_model(..., backbone=module)`).
        **options: Options of `create_model` that differ from what the source says, such as `dtype`,
            `output_stride`, `patch_sizes`, `dropout`, or `num_classes=0` for pooled features.

    Returns:
        (model, variables, processor), for `model.apply(variables, processor(image))`.

    Raises:
        ConfigurationError: Also for an option that does not fit the weights.
        DataError: See `load_weights`.
    """
    if replace_classifier and "num_classes" not in options:
        raise ConfigurationError("replace_classifier needs num_classes, the number of new classes")
    loaded = load_weights(
        source,
        checkpoint=checkpoint,
        raw=raw,
        revision=revision,
        allow_half=allow_half,
        backbone=backbone,
    )
    model, variables = _with_options(loaded, options, replace_classifier)
    return model, variables, loaded.processor


def load_weights(
    source: str | Path,
    *,
    checkpoint: Choice = "latest",
    raw: bool = False,
    revision: str | None = None,
    allow_half: bool = False,
    channel_order: Literal["bgr", "rgb"] | None = None,
    backbone: nn.Module | None = None,
) -> Pretrained:
    """Loads weights with all that belongs to them.

    Args:
        source: A work directory of `mobilevit train`; a directory with `config.json` and weights,
            as `save_pretrained`, transformers and timm write them; a weight file (safetensors, or
            PyTorch's, which is read without executing it), with the `config.json` beside it if it
            is called as in such a directory (`files.WEIGHT_FILES`); or an id of the Hugging Face
            hub, such as "apple/mobilevit-small".
        checkpoint: Of a work directory: "latest", "best" by the validation metric, "average" of
            the best that were kept (as CVNets averages its five best), or a step.
        raw: Whether the raw weights are taken instead of their exponential moving average, from a
            work directory or a training checkpoint of CVNets.
        revision: Branch, tag or commit of a hub id.
        allow_half: Whether weights in half precision are widened to float32 rather than refused.
        channel_order: Of the images that the weights of a bare file were trained on. None takes
            what the file's names tell: RGB for timm and torchvision, for later CVNets' DeepLabv3
            and for all of CVNets' MobileViTv2, else BGR. Of MobileViT, later CVNets' SSDLite, RGB,
            cannot be told from v0.1's by its names.
        backbone: See `from_pretrained`.

    Raises:
        ConfigurationError: If there is nothing at `source`, or an argument does not go with it.
        DataError: If what is there cannot be read or is no network of this package; the file is
            named.
    """
    path = Path(source)
    _check_arguments(path, checkpoint, raw, revision, channel_order, backbone)
    if (path / EXPERIMENT).is_file():
        return load_run(path, checkpoint, raw)
    if _is_described(path):
        return _load_directory(path.parent, str(source), allow_half, backbone, path)
    if path.is_file():
        return _load_file(path, not raw, allow_half, channel_order)
    if path.is_dir():
        return _load_directory(path, str(source), allow_half, backbone)
    if hub.is_hub_id(str(source)):
        where = f"{source}@{revision}" if revision else str(source)
        return _load_directory(hub.fetch(str(source), revision), where, allow_half, backbone)
    raise ConfigurationError(
        f"there is nothing at {source}; name a work directory, a directory with {CONFIG}, "
        "a weight file, or an id of the hub such as apple/mobilevit-small"
    )


def _check_arguments(
    source: Path,
    checkpoint: Choice,
    raw: bool,
    revision: str | None,
    channel_order: str | None,
    backbone: nn.Module | None,
) -> None:
    """Refuses arguments that do not go with a kind of source."""
    is_run = (source / EXPERIMENT).is_file()
    if not is_run and checkpoint != "latest":
        raise ConfigurationError(
            f"only a work directory has checkpoints to choose from, and {source} is none; "
            "leave the checkpoint out"
        )
    if backbone is not None and (is_run or source.is_file()):
        raise ConfigurationError(
            f"a backbone goes with a directory that save_pretrained wrote, and {source} is none; "
            "leave it out"
        )
    if revision is not None and source.exists():
        raise ConfigurationError(f"{source} is a path; only an id of the hub has revisions")
    if source.is_file() and not _is_described(source):
        return
    if channel_order is not None:
        raise ConfigurationError(
            f"{source} says itself which order its channels have; leave the order out"
        )
    if raw and not is_run and (source.is_dir() or hub.is_hub_id(str(source))):
        raise ConfigurationError(f"{source} has no averaged weights beside the raw ones")


def _load_directory(
    directory: Path,
    name: str,
    allow_half: bool,
    backbone: nn.Module | None,
    file: Path | None = None,
) -> Pretrained:
    """Loads a directory with `config.json`, or one file of it.

    `name` is what the user called it.
    """
    if not (directory / CONFIG).is_file():
        raise DataError(
            f"{directory} has neither {EXPERIMENT} nor {CONFIG}, so it is neither a work "
            "directory nor saved weights; name the directory or the weight file itself"
        )
    configured = read_config(directory, backbone)
    model = configured.model
    path = file or _weight_file(directory)
    tensors = files.read_state_dict(path)
    try:
        if configured.layout == "native":
            variables = native.from_native(model, tensors, allow_half=allow_half)
        else:
            variables = load_state_dict(model, tensors, allow_half=allow_half)
    except DataError as error:
        raise DataError(f"{path} does not fit {directory / CONFIG}: {error}") from error
    notes = ()
    if (directory / PROCESSOR_NAME).is_file():
        processor = ImageProcessor.load(directory)
    elif configured.processor:
        processor = configured.processor
    else:
        processor = _usual_processor(model, configured.layout, directory)
        notes = (
            f"{directory} has no {PROCESSOR_NAME}; assumed: images are resized to "
            f"{processor.size} and cropped to {processor.crop_size} pixels, channels in the order "
            f"{processor.channel_order}",
        )
    return Pretrained(
        model,
        variables,
        processor,
        configured.class_names or _names_of_classes(model),
        _name_of(model),
        f"weights of {name}",
        names_assumed=not configured.class_names,
        notes=notes,
    )


def _weight_file(directory: Path) -> Path:
    for name in files.WEIGHT_FILES:
        if (directory / name).is_file():
            return directory / name
    raise DataError(f"{directory} holds no weights; looked for {', '.join(files.WEIGHT_FILES)}")


def _load_file(
    path: Path, averaged: bool, allow_half: bool, channel_order: str | None
) -> Pretrained:
    """Loads a bare weight file: names and shapes tell the model, its naming the channel order."""
    tensors = files.read_state_dict(path, averaged=averaged)
    try:
        found = recognise({name: np.shape(tensor) for name, tensor in tensors.items()})
        model = found.model
        variables = load_state_dict(model, tensors, allow_half=allow_half)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    processor = _usual_processor(model, found.layout, path)
    order = channel_order or found.channel_order
    return Pretrained(
        model,
        variables,
        replace(processor, do_flip_channel_order=order == "bgr"),
        _names_of_classes(model),
        _name_of(model),
        f"weights of {path}",
        names_assumed=True,
        notes=tuple(
            f"{path.with_name(name)} is not followed: it may be of other weights; a file called "
            f"{files.WEIGHT_FILES[0]} goes with the {CONFIG} beside it"
            for name in (CONFIG, PROCESSOR_NAME)
            if path.with_name(name).is_file()
        ),
    )


def _is_described(path: Path) -> bool:
    """Whether a path is a weight file of a directory with `config.json`, by its name."""
    return path.name in files.WEIGHT_FILES and path.is_file() and path.with_name(CONFIG).is_file()


def _usual_processor(model: "Model", layout: str, source: Path) -> ImageProcessor:
    """Returns what published weights of a kind of model take, where nothing says it."""
    head, family, table = head_of(model), family_of(model), table_of(layout, model)
    if layout == "timm" and family:
        return timm_processor(family)
    normalising = family and any("mean" in n.processing for n in family.names.values())
    if table is None and normalising:
        raise DataError(
            f"{source} has no {PROCESSOR_NAME}, and weights of a {kind_of(model)} may want "
            "normalised images or others; put the one that they were saved with there"
        )
    processor = ImageProcessor(**(table.below.processing if table else {}))
    if head.task == "classification":
        return processor
    size = (head.input_size, head.input_size)
    return replace(processor, size=size, crop_size=size, do_pad=head.letterboxed)


def _name_of(model: "Model") -> str:
    """Returns the name of a published size, or for other widths the kind of model."""
    return model_name(model) or kind_of(model)


def _names_of_classes(model: "Model") -> tuple[str, ...]:
    """Names classes that nobody named: those of ImageNet, COCO or VOC if there are as many.

    Detectors' names leave the background out.
    """
    # Imported here because these tables are of no use to weights with names.
    from mobilevit_jax.data.coco_names import class_names_coco
    from mobilevit_jax.data.imagenet_names import class_names_imagenet
    from mobilevit_jax.data.voc_names import class_names_voc

    head = head_of(model)
    usual = {
        "classification": class_names_imagenet,
        "detection": class_names_coco,
        "segmentation": class_names_voc,
    }[head.task]()
    count = model.num_classes - head.first_named
    if len(usual) == count:
        return usual
    return tuple(f"LABEL_{index + head.first_named}" for index in range(count))


def _with_options(
    loaded: Pretrained, options: dict[str, Any], replace_classifier: bool
) -> tuple["Model", dict[str, Any]]:
    """Applies options to a loaded model, and to its head what follows from them."""
    if not options:
        return loaded.model, loaded.variables
    model = with_options(loaded.model, **options)
    before, now = loaded.model.num_classes, model.num_classes
    if now and now != before and not replace_classifier:
        raise ConfigurationError(
            f"the weights have {before} classes, not {now}; leave num_classes out, take pooled "
            "features of a classifier by num_classes=0, or say replace_classifier=True to have "
            "what tells the classes initialised anew"
        )
    anew = now != before or replace_classifier
    variables = _with_classes(loaded, model) if anew else loaded.variables
    if not options.get("aux_head", True):
        # Only training has a use for an auxiliary head.
        unused = head_of(model).training_only
        variables = {
            collection: {name: part for name, part in parts.items() if name not in unused}
            for collection, parts in variables.items()
        }
    return model, _checked(model, variables, options)


def _with_classes(loaded: Pretrained, model: "Model") -> dict[str, Any]:
    """Returns the variables with what depends on the number of classes left out or drawn anew."""
    old = variable_shapes(loaded.model)
    another = model.num_classes
    if another == loaded.model.num_classes:  # any other number tells what depends on it
        another += 1
    new = variable_shapes(with_options(loaded.model, num_classes=another))
    layers = {path[:-1] for path, _ in old.items() ^ new.items()}
    flat: dict[Any, Any] = traverse_util.flatten_dict(loaded.variables)
    kept = {path: leaf for path, leaf in flat.items() if path[:-1] not in layers}
    paths = [path for path in variable_shapes(model) if path[:-1] in layers]
    return traverse_util.unflatten_dict(kept | initialise(model, jax.random.key(0), paths))


def _checked(model: "Model", variables: dict[str, Any], options: dict[str, Any]) -> Any:
    """Refuses options, such as another kernel size, that the weights were not made for."""
    expected = variable_shapes(model)
    flat: dict[Any, Any] = traverse_util.flatten_dict(variables)
    found = {path: leaf.shape for path, leaf in flat.items()}
    wrong = sorted("/".join(p[1:]) for p, _ in expected.items() ^ found.items())
    if wrong:
        raise ConfigurationError(
            f"the weights do not fit {', '.join(f'{k}={v!r}' for k, v in options.items())}: "
            f"{wrong[0]} differs ({len(set(wrong))} tensors in all)"
        )
    return variables
