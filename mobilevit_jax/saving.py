"""Saving a model with all that belongs to it, for this package and for PyTorch's libraries."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax import traverse_util

from mobilevit_jax.base.atomic import to_disk
from mobilevit_jax.base.run_files import EXPERIMENT
from mobilevit_jax.convert import config, files, native, to_state_dict
from mobilevit_jax.convert.huggingface_config import check_huggingface
from mobilevit_jax.convert.layouts import table_of
from mobilevit_jax.convert.timm_config import check_timm
from mobilevit_jax.errors import ConfigurationError, naming, unknown_name
from mobilevit_jax.models.model import Model
from mobilevit_jax.models.problem_types import unsaid
from mobilevit_jax.processing import CONFIG_NAME as PROCESSOR_NAME
from mobilevit_jax.processing import ImageProcessor

WEIGHTS_NAME = "model.safetensors"
Layout = Literal["huggingface", "cvnets", "torchvision", "timm", "native"]

_STEM = ("params", "backbone", "conv_1", "conv", "kernel")
# In the order in which they take their places.
_NAMES = (WEIGHTS_NAME, PROCESSOR_NAME, config.CONFIG_NAME)
_UNFINISHED = ".unfinished-"
# What a killed save has left is removed by a later one, not while it may still be running.
_ABANDONED_SECONDS = 3600


def save_pretrained(
    directory: str | Path,
    model: Model,
    variables: Mapping[str, Any],
    processor: ImageProcessor,
    *,
    class_names: Sequence[str] | None = None,
    layout: Layout = "huggingface",
) -> None:
    """Writes `config.json`, `model.safetensors` and `preprocessor_config.json`.

    The three are written whole beside their places and then take them one after the other, so that
    a save that fails, or is killed while it writes, leaves what was there as it was. Only while
    the files are renamed, which takes microseconds, has the directory no `config.json`: reading it
    is then an error, also if the save is killed just there (the old files are then in
    `.unfinished-*/before`). Other files of the directory stay.

    Args:
        directory: Where to write; made if need be. Not a work directory.
        model: The model. How it was run (`dtype`, `remat`, synchronised batch norm) is not saved.
        variables: {"params", "batch_stats"}; written as float32. Other collections are left out.
        processor: What images go through before the model.
        class_names: In the order of the logits, if known.
        layout: "huggingface" is for transformers' `MobileViTForImageClassification`, or its
            `MobileViTForSemanticSegmentation`, their `MobileViTV2...`, and `AutoImageProcessor`; it
            has no detectors.
            "timm" is for `timm.create_model("local-dir:...")`, whose
            configuration holds the processing too (an older `preprocessor_config.json` is removed);
            timm's channels are R, G, B, so the stem's are turned round for a processor of B, G, R.
            "native" is this package's own and holds every model.

    Raises:
        ConfigurationError: If the layout cannot express the model or the processor (each reason is
            named), names and classes differ in number, or the directory is a work directory.
            Nothing is written then.
        DataError: If the variables are not the model's, or not finite. Nothing is written then.
        OSError: If a file cannot be written; what was there stays.
    """
    _check_directory(Path(directory), layout)
    documents = _documents(model, processor, class_names, layout)
    turned = layout == "timm" and processor.channel_order == "bgr"
    tensors = _tensors(model, variables, layout, turned=turned)
    _replace_all(Path(directory), tensors, documents)


def _check_directory(directory: Path, layout: Layout) -> None:
    if layout not in ("huggingface", "native", "timm"):
        named = {"cvnets": "CVNets", "torchvision": "torchvision"}.get(layout)
        hint = f"; {named} has files only, see save_weights" if named else ""
        error = unknown_name("layout of a directory", layout, ("huggingface", "native", "timm"))
        raise ConfigurationError(f"{error}{hint}")
    # It would be read as the run that it is, not as what is saved into it.
    if (directory / EXPERIMENT).exists():
        raise ConfigurationError(
            f"{directory} is a work directory (it holds {EXPERIMENT}), and what is saved there "
            "would not be found; choose another directory"
        )


def _documents(
    model: Model, processor: ImageProcessor, class_names: Sequence[str] | None, layout: Layout
) -> dict[str, dict[str, Any]]:
    """Returns what the JSON files of a directory say, by their names."""
    if layout == "timm":
        return {config.CONFIG_NAME: config.to_timm(model, class_names, processor)}
    if layout == "native":
        form = config.to_native(model, class_names)
    elif processor.mean and processor.do_flip_channel_order:
        raise ConfigurationError(
            "transformers has no image processor that both turns channels round and normalises "
            "them; save with layout='native'"
        )
    elif processor.do_pad:
        raise ConfigurationError(
            "transformers' image processor of these models does not pad images; save with "
            "layout='native', or set do_pad of the processor to false"
        )
    else:
        form = config.to_huggingface(model, class_names, image_size=_image_size(processor))
    return {PROCESSOR_NAME: processor.to_dict(), config.CONFIG_NAME: form}


def save_weights(
    path: str | Path,
    model: Model,
    variables: Mapping[str, Any],
    processor: ImageProcessor,
    *,
    layout: Layout = "huggingface",
) -> None:
    """Writes the tensors alone, in one file.

    Nothing in the file says in which order the channels are, so that it follows the layout's
    readers: B, G, R for transformers (whose image processor turns channels round by default) and
    CVNets v0.1 (which reads images with OpenCV), R, G, B for torchvision, timm and later CVNets,
    which MobileViTv2 is of. The stem is turned round where the processor has the other order; the
    native layout keeps it. Nothing else of the processor is in the file; another mean or standard
    deviation than its readers take is refused.

    Of the model, names and shapes tell widths, depths, classes, fusion and kernel size. What leaves
    no trace in them has to be said to whoever reads the file: the number of heads, patch sizes,
    output stride, dropout, the rates of a pyramid, `align_corners`, the anchors' scales. Models
    that transformers or timm cannot have, whatever their configuration says, are refused; CVNets
    has all of those options in its own configuration. What no program asks for is refused, too: a
    classifier whose logits stand for anything but one class (`problem_type`).

    Args:
        path: Ends in .safetensors, or in .pt, .pth or .bin (needs PyTorch).
        model: The model.
        variables: {"params", "batch_stats"}; written as float32.
        processor: What images go through before the model.
        layout: Whose names the tensors have.

    Raises:
        ConfigurationError: If the layout cannot express the model (each reason is named), or
            PyTorch is missing.
        DataError: If the variables are not the model's, or not finite.
        OSError: If the file cannot be written; what was there stays.
    """
    if options := unsaid(model):
        raise ConfigurationError(
            f"a file of tensors does not say {', '.join(options)}; save a directory, in the layout "
            "huggingface or native"
        )
    if layout == "huggingface":
        check_huggingface(model, _image_size(processor))
    elif layout == "timm":
        check_timm(model)
    table = table_of(layout, model)
    if table:
        _check_normalised(processor, table.below.processing, layout)
    order = table.channel_order if table else processor.channel_order
    tensors = _tensors(model, variables, layout, turned=order != processor.channel_order)
    files.write_state_dict(path, tensors)


def _check_normalised(
    processor: ImageProcessor, assumed: Mapping[str, Any], layout: Layout
) -> None:
    """Refuses a file whose readers would normalise images otherwise, or not at all."""
    step = -1 if processor.do_flip_channel_order else 1
    found, wanted = processor.mean, assumed.get("mean")
    if (found and found[::step], processor.std and processor.std[::step]) != (
        wanted,
        assumed.get("std"),
    ):
        raise ConfigurationError(
            f"a file of tensors does not say that images have mean {found} and standard deviation "
            f"{processor.std}, and readers of the layout {layout} take {wanted} and "
            f"{assumed.get('std')}; save a directory, or write what convert.to_state_dict returns"
        )


def _image_size(processor: ImageProcessor) -> int | tuple[int, int]:
    """Returns the size of what the model gets, as far as the processor fixes it."""
    size = processor.crop_size if processor.do_center_crop else processor.size
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size


def _tensors(
    model: Model, variables: Mapping[str, Any], layout: Layout, *, turned: bool
) -> dict[str, np.ndarray]:
    """Returns {name: array} in a layout, the stem's input channels reversed if `turned`."""
    kept = {name: variables[name] for name in ("params", "batch_stats") if name in variables}
    flat = native.flatten_checked(model, kept)
    if turned:
        flat[_STEM] = flat[_STEM][:, :, ::-1]
    nested = traverse_util.unflatten_dict(flat)
    if layout == "native":
        return native.to_native(nested)
    return to_state_dict(model, nested, layout)


def _replace_all(
    directory: Path, tensors: dict[str, np.ndarray], documents: dict[str, dict[str, Any]]
) -> None:
    """Writes all files beside their places, then puts them there, the configuration last."""
    with naming(directory), _directory(directory), _staging(directory) as staging:
        files.write_state_dict(staging / WEIGHTS_NAME, tensors)
        for name, document in documents.items():
            text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
            (staging / name).write_text(text, encoding="utf-8")
            to_disk(staging / name)
        _exchange(staging, directory)
    to_disk(directory)


def _exchange(staging: Path, directory: Path) -> None:
    """Puts new files into the places of all old ones, or leaves every old one in its place.

    The configuration leaves first and comes last: nobody reads old and new as one model.
    """
    before = staging / "before"
    before.mkdir()
    with contextlib.ExitStack() as undo:

        def move(source: Path, target: Path) -> None:
            os.replace(source, target)
            undo.callback(os.replace, target, source)

        for name in reversed(_NAMES):
            path = directory / name
            if path.is_dir():  # somebody's own, which would be removed with what is replaced
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            if os.path.lexists(path):
                move(path, before / name)
        for name in _NAMES:
            if (staging / name).exists():
                move(staging / name, directory / name)
        undo.pop_all()


@contextlib.contextmanager
def _directory(directory: Path) -> Iterator[None]:
    """Makes a directory and its parents, and removes them again if the body fails."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in made:
            # Somebody else may have put a file there in the meantime.
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@contextlib.contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """Gives a directory inside, on the same disk, for files that are not finished."""
    for left in directory.glob(f"{_UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=directory))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
