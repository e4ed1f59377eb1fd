"""What `predict` makes of each task's answers: JSON, text and pictures.

Images come as uint8 [h, w, 3] in RGB, answers as the task's predictor gives them.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilevit_jax.cli.console import print_table, say

Answer = dict[str, Any]
Picture = tuple[np.ndarray, Answer, Any]


@dataclass(frozen=True)
class Settings:
    """What the user chose.

    Attributes:
        top: Classification: classes of each image.
        score_threshold: Detection: least probability.
        masks: Segmentation: folder for masks, if they are wanted.
        batch: Images of a call.
    """

    top: int
    score_threshold: float
    masks: Path | None
    batch: int


@dataclass(frozen=True)
class Form:
    """How the answers of a task are made and shown.

    Attributes:
        ask: (predictor, images, settings) -> one raw answer an image.
        to_json: (class names, name, image, raw answer, settings) -> what JSON holds.
        show: Prints an answer.
        draw: (pictures, class names, path) -> a PNG file.
    """

    ask: Callable[[Any, list[np.ndarray], Settings], Sequence[Any]]
    to_json: Callable[[Sequence[str], str, np.ndarray, Any, Settings], Answer]
    show: Callable[[Answer], None]
    draw: Callable[[Sequence[Picture], Sequence[str], Path], None]


def _classes_to_json(
    class_names: Sequence[str], name: str, image: np.ndarray, raw: Any, _: Settings
) -> Answer:
    # With "probability", or of a regression "value".
    found = [{"class": fields.pop("name"), **fields} for fields in map(asdict, raw)]
    return {"image": name, "predictions": found}


def _show_classes(answer: Answer) -> None:
    found = answer["predictions"]
    if "value" in found[0]:
        rows = [[item["class"], f"{item['value']:.4g}"] for item in found]
        print_table(["output", "value"], rows, title=answer["image"])
        return
    rows = [[item["class"], f"{item['probability']:.1%}"] for item in found]
    print_table(["class", "probability"], rows, title=answer["image"])


def _draw_classes(pictures: Sequence[Picture], class_names: Sequence[str], path: Path) -> None:
    from mobilevit_jax.analysis.plots import predictions

    found = [answer["predictions"] for _, answer, _ in pictures]
    number = "value" if "value" in found[0][0] else "probability"
    predictions(
        [image for image, _, _ in pictures],
        [[(item["class"], item[number]) for item in items] for items in found],
        path,
        titles=[Path(answer["image"]).name for _, answer, _ in pictures],
        shares=number == "probability",
    )


def _objects_to_json(
    class_names: Sequence[str], name: str, image: np.ndarray, raw: Any, _: Settings
) -> Answer:
    found = [
        {"class": d.name, "label": d.label, "score": d.score, "box": [round(x, 2) for x in d.box]}
        for d in raw
    ]
    return {"image": name, "height": image.shape[0], "width": image.shape[1], "detections": found}


def _show_objects(answer: Answer) -> None:
    rows = [
        [item["class"], f"{item['score']:.1%}", "  ".join(f"{x:.0f}" for x in item["box"])]
        for item in answer["detections"]
    ]
    if rows:
        print_table(["class", "score", "x1  y1  x2  y2"], rows, title=answer["image"])
    else:
        say(f"{answer['image']}: nothing found; a lower --score-threshold may show more")


def _draw_objects(pictures: Sequence[Picture], class_names: Sequence[str], path: Path) -> None:
    from mobilevit_jax.analysis.plots_detection import draw_detections, grid

    grid([draw_detections(image, raw) for image, _, raw in pictures], path)


def _mask_to_json(
    class_names: Sequence[str], name: str, image: np.ndarray, raw: np.ndarray, settings: Settings
) -> Answer:
    from mobilevit_jax.tasks.segmentation.predict import save_palette_png

    counts = np.bincount(raw.ravel(), minlength=len(class_names))
    classes = [
        {"class": class_names[i], "index": int(i), "share": counts[i] / raw.size}
        for i in np.argsort(-counts, kind="stable")
        if counts[i]
    ]
    answer = {"image": name, "height": image.shape[0], "width": image.shape[1], "classes": classes}
    if settings.masks is not None:
        path = _free_path(settings.masks, Path(name).stem)
        save_palette_png(raw, path, class_names)
        answer["mask"] = str(path)
    return answer


def _free_path(folder: Path, stem: str) -> Path:
    """Returns a path that no other image of the same name, or an earlier run, has taken."""
    stems = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for s in stems if not (path := folder / f"{s}.png").exists())


def _show_mask(answer: Answer) -> None:
    rows = [[item["class"], f"{item['share']:.1%}"] for item in answer["classes"]]
    print_table(["class", "of the image"], rows, title=answer["image"])
    if "mask" in answer:
        say(f"mask written to {answer['mask']}")


def _draw_masks(pictures: Sequence[Picture], class_names: Sequence[str], path: Path) -> None:
    from mobilevit_jax.analysis.plots_segmentation import grid, overlay

    grid([overlay(image, raw, class_names) for image, _, raw in pictures], path)


FORMS: dict[str, Form] = {
    "classification": Form(
        lambda predictor, images, s: predictor(images, top=s.top, batch=s.batch),
        _classes_to_json,
        _show_classes,
        _draw_classes,
    ),
    "detection": Form(
        lambda predictor, images, s: predictor(images, s.score_threshold, batch=s.batch),
        _objects_to_json,
        _show_objects,
        _draw_objects,
    ),
    "segmentation": Form(
        lambda predictor, images, s: predictor(images, batch=s.batch),
        _mask_to_json,
        _show_mask,
        _draw_masks,
    ),
}
