"""`mobilevit predict`: classes, objects or masks of images, as text, JSON or a picture."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from mobilevit_jax.cli.console import count, say
from mobilevit_jax.cli.options import called, read
from mobilevit_jax.cli.prediction_output import FORMS, Answer, Form, Picture, Settings
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.cli.weights import WeightsOptions
from mobilevit_jax.data.decode import IMAGE_ENDINGS, read_image
from mobilevit_jax.data.files import list_images, some_names
from mobilevit_jax.errors import ConfigurationError, DataError, ExitStatus
from mobilevit_jax.tasks import create_predictor, task_of

if TYPE_CHECKING:
    from mobilevit_jax.tasks import Predictor

_BATCH = 32
_PLOTTED = 24


@dataclass(frozen=True)
class Arguments:
    """Tell what images show: their classes, objects with boxes, or the class of every pixel.

    Attributes:
        images: Image files, or folders of them (searched through).
        choice: Which weights; they decide between the three.
        top: Classification: number of classes to show, 5 by default.
        score_threshold: Detection: least probability of an object, 0.3 by default.
        masks: Segmentation: folder to write masks to, PNG with a palette, a class index a pixel.
        size: Height and width of the crop in pixels; the margin of the resize before it stays.
        json: Print JSON, for machines.
        plot: Draw the images with their answers into this PNG file (the first 24).
        skip_bad_images: Leave out and name images that are missing or cannot be decoded.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, called("IMAGE [IMAGE ...]")]
    choice: tyro.conf.OmitArgPrefixes[Annotated[WeightsOptions, tyro.conf.arg(name="weights")]]
    top: Annotated[int | None, called("INT")] = None
    score_threshold: Annotated[float | None, called("FLOAT")] = None
    masks: Annotated[Path | None, called("DIR")] = None
    size: Annotated[int | None, called("INT")] = None
    json: bool = False
    plot: Annotated[Path | None, called("FILE")] = None
    skip_bad_images: bool = False


def main(argv: list[str]) -> int:
    """Runs `mobilevit predict` and returns its exit status."""
    arguments = read(Arguments, "predict", argv)
    paths = find_images(arguments.images, may_miss=arguments.skip_bad_images)
    if arguments.top is not None and arguments.top < 1:
        raise ConfigurationError(f"--top must be at least 1; got {arguments.top}")
    start_jax()
    loaded = arguments.choice.load()
    task = task_of(loaded.model_name)
    _check_options(arguments, task)
    size, form = arguments.size, FORMS[task]
    processor = loaded.processor if size is None else loaded.processor.for_size(size)
    settings = Settings(
        5 if arguments.top is None else arguments.top,
        0.3 if arguments.score_threshold is None else arguments.score_threshold,
        arguments.masks,
        min(_BATCH, len(paths)),
    )
    answers, pictures, bad = predict(
        create_predictor(loaded, processor),
        form,
        paths,
        settings,
        keep=_PLOTTED if arguments.plot else 0,
        skip_bad=arguments.skip_bad_images,
    )
    if bad:
        say(f"skipped {count(len(bad), 'image')} that could not be read: {', '.join(bad)}")
    if not answers:
        raise DataError("no image is left to predict")
    if arguments.plot:
        form.draw(pictures, loaded.class_names, arguments.plot)
        more = len(answers) > _PLOTTED
        which = f" (the first {_PLOTTED} of {len(answers)})" if more else ""
        say(f"drawn into {arguments.plot}{which}")
    if arguments.json:
        text = json.dumps(answers, indent=2, ensure_ascii=False)
        # Bytes of a file's name that are no UTF-8 are halves of characters, which JSON can escape.
        print(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    else:
        for answer in answers:
            form.show(answer)
    return ExitStatus.DONE


def _check_options(arguments: Arguments, task: str) -> None:
    """Refuses options that the task of the weights has no use for."""
    own = {"top": "classification", "score_threshold": "detection", "masks": "segmentation"}
    for name, its_task in own.items():
        if getattr(arguments, name) is not None and task != its_task:
            option = name.replace("_", "-")
            raise ConfigurationError(
                f"--{option} is for {its_task}; these weights are for {task}, so leave it out"
            )


def find_images(paths: Sequence[Path], *, may_miss: bool = False) -> list[Path]:
    """Returns the files, and those in the folders, in order; says what in folders is no image.

    Args:
        paths: Files and folders.
        may_miss: Whether a path that does not exist is returned as well.

    Raises:
        ConfigurationError: If no path is given, one does not exist, or a folder has no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            images, others = list_images(path)
            if not images:
                kinds = ", ".join(IMAGE_ENDINGS)
                raise ConfigurationError(f"no image in {path}; looked for {kinds}")
            if others:
                which = f"{count(len(others), 'file')} in {path} not named like an image"
                say(f"left out {which}: {some_names(others, path)}")
            found += images
        elif path.exists() or may_miss:
            found.append(path)
        else:
            raise ConfigurationError(f"no file or folder {path}")
    if not found:
        raise ConfigurationError("name at least one image or folder")
    return found


def predict(
    predictor: "Predictor",
    form: Form,
    paths: Sequence[Path],
    settings: Settings,
    *,
    keep: int = 0,
    skip_bad: bool = False,
) -> tuple[list[Answer], list[Picture], list[str]]:
    """Answers for image files.

    Args:
        predictor: From `tasks.create_predictor`.
        form: Of its task.
        paths: The files.
        settings: What the user chose.
        keep: Pictures that are kept for drawing; the others leave memory.
        skip_bad: Whether files that cannot be read are left out.

    Returns:
        One answer a file, as JSON has it; the first `keep` pictures with their answers; the files
        that were left out.

    Raises:
        DataError: If a file cannot be decoded; it is named.
    """
    bad: list[str] = []
    answers: list[Answer] = []
    pictures: list[Picture] = []
    for names, images in _batches(paths, settings.batch, bad, skip_bad):
        raws = form.ask(predictor, images, settings)
        for name, image, raw in zip(names, images, raws, strict=True):
            answers.append(form.to_json(predictor.class_names, name, image, raw, settings))
            if len(pictures) < keep:
                pictures.append((image, answers[-1], raw))
    return answers, pictures, bad


def _batches(
    paths: Sequence[Path], size: int, bad: list[str], skip_bad: bool
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Yields names and images, uint8 in RGB; adds to `bad` what cannot be decoded."""
    names: list[str] = []
    images: list[np.ndarray] = []
    for path in paths:
        try:
            images.append(read_image(path, channel_order="rgb"))
            names.append(str(path))
        except DataError:
            if not skip_bad:
                raise
            bad.append(str(path))
        if len(names) == size:
            yield names, images
            names, images = [], []
    if names:
        yield names, images
