"""`mobilevit predict`: the classes of images, as text, JSON or a picture."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from mobilevit_jax.cli.console import count, print_table, say
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.cli.weights import WeightsOptions
from mobilevit_jax.data.decode import read_image
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.pretrained import Pretrained

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_BATCH = 32
_PLOTTED = 24


@dataclass(frozen=True)
class Arguments:
    """Name what images show: the most probable classes of each.

    Attributes:
        images: Image files, or folders of them (searched through).
        choice: Which weights.
        top: Number of classes to show.
        size: Height and width of the crop in pixels; the margin of the resize before it stays.
        json: Print JSON, for machines.
        plot: Draw the images with their classes into this PNG file (the first 24).
        skip_bad_images: Leave out and name images that are missing or cannot be decoded.
    """

    images: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE [IMAGE ...]", help_behavior_hint=""),
    ]
    choice: tyro.conf.OmitArgPrefixes[Annotated[WeightsOptions, tyro.conf.arg(name="weights")]]
    top: int = 5
    size: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    json: bool = False
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    skip_bad_images: bool = False


def main(argv: list[str]) -> int:
    """Runs `mobilevit predict` and returns its exit status."""
    arguments = tyro.cli(
        Arguments, prog="mobilevit predict", args=argv, config=(tyro.conf.FlagCreatePairsOff,)
    )
    paths = find_images(arguments.images, may_miss=arguments.skip_bad_images)
    if arguments.top < 1:
        raise ConfigurationError(f"--top must be at least 1; got {arguments.top}")
    start_jax()
    loaded = arguments.choice.load()
    answers, bad = predict(
        loaded, paths, arguments.top, size=arguments.size, skip_bad=arguments.skip_bad_images
    )
    if bad:
        say(f"skipped {count(len(bad), 'image')} that could not be read: {', '.join(bad)}")
    if not answers:
        raise DataError("no image is left to predict")
    if arguments.plot:
        _plot(answers, arguments.plot)
    if arguments.json:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
    else:
        _print(answers)
    return 0


def find_images(paths: Sequence[Path], *, may_miss: bool = False) -> list[Path]:
    """Returns the files, and those in the folders, in order.

    Args:
        paths: Files and folders.
        may_miss: Whether a path that does not exist is returned as well.

    Raises:
        ConfigurationError: If no path is given, one does not exist, or a folder has no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if _is_image(p))
            if not inside:
                kinds = ", ".join(sorted(_SUFFIXES))
                raise ConfigurationError(f"no image in {path}; looked for {kinds}")
            found += inside
        elif path.exists() or may_miss:
            found.append(path)
        else:
            raise ConfigurationError(f"no file or folder {path}")
    if not found:
        raise ConfigurationError("name at least one image or folder")
    return found


def _is_image(path: Path) -> bool:
    """Whether a file found in a folder is to be classified; hidden ones are not."""
    return path.suffix.lower() in _SUFFIXES and path.is_file() and not path.name.startswith(".")


def predict(
    loaded: Pretrained,
    paths: Sequence[Path],
    top: int,
    *,
    size: int | None = None,
    skip_bad: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Classifies image files.

    Args:
        loaded: Model, weights, processor, class names.
        paths: The files.
        top: Classes of each, at most as many as there are.
        size: Side of the crop in pixels; the weights' own if None.
        skip_bad: Whether files that cannot be read are left out.

    Returns:
        One {"image", "predictions": [{"class", "index", "probability"}, ...]} a file, most
        probable first, and the files that were left out.

    Raises:
        DataError: If a file cannot be decoded; it is named.
    """
    processor = loaded.processor if size is None else loaded.processor.for_size(size)
    variables = jax.device_put(loaded.variables)
    model: Any = loaded.model
    probabilities = jax.jit(lambda v, x: jax.nn.softmax(model.apply(v, x)))
    bad: list[str] = []
    answers = []
    for names, pixels in _batches(processor, paths, bad, skip_bad):
        padded = np.resize(pixels, (min(_BATCH, len(paths)), *pixels.shape[1:]))
        scores = np.asarray(probabilities(variables, padded))[: len(names)]
        answers += [
            _answer(*pair, loaded.class_names, top) for pair in zip(names, scores, strict=True)
        ]
    return answers, bad


def _batches(
    processor: Any, paths: Sequence[Path], bad: list[str], skip_bad: bool
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yields names and float images [b, h, w, 3]; adds to `bad` what cannot be decoded."""
    names: list[str] = []
    images: list[np.ndarray] = []
    for path in paths:
        try:
            images.append(processor(path)[0])
            names.append(str(path))
        except DataError:
            if not skip_bad:
                raise
            bad.append(str(path))
        if len(names) == _BATCH:
            yield names, np.stack(images)
            names, images = [], []
    if names:
        yield names, np.stack(images)


def _answer(name: str, scores: np.ndarray, class_names: Sequence[str], top: int) -> dict[str, Any]:
    order = np.argsort(-scores, kind="stable")[:top]
    return {
        "image": name,
        "predictions": [
            {
                "class": class_names[index] if index < len(class_names) else str(index),
                "index": int(index),
                "probability": float(scores[index]),
            }
            for index in order
        ],
    }


def _print(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        rows = [[item["class"], f"{item['probability']:.1%}"] for item in answer["predictions"]]
        print_table(["class", "probability"], rows, title=answer["image"])


def _plot(answers: list[dict[str, Any]], path: Path) -> None:
    from mobilevit_jax.analysis.plots import predictions

    shown = answers[:_PLOTTED]
    predictions(
        [read_image(answer["image"], channel_order="rgb") for answer in shown],
        [[(p["class"], p["probability"]) for p in answer["predictions"]] for answer in shown],
        path,
        titles=[Path(answer["image"]).name for answer in shown],
    )
    more = f" (the first {_PLOTTED} of {len(answers)})" if len(answers) > _PLOTTED else ""
    say(f"drawn into {path}{more}")
