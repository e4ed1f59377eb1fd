"""Draws a data set of boxes and writes it as YOLO, VOC and COCO have it, for tests to break."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mobilevit_jax.data.builders.drawing import SceneConfig, draw_scene

NAMES = ("nut", "bolt", "washer")
SIZE = 64
COUNTS = {"train": 16, "val": 8}
_SCENES = SceneConfig(
    size=SIZE,
    largest=(0.5, 0.8),
    others=(0, 0),
    other_scale=(1, 1),
    area_limit=1,
    visible=0.95,
    contrast=90,
    texture=(5, 10),
    noise=2,
    squeeze=1.1,
)


class Drawn(NamedTuple):
    """A picture as JPEG, its boxes (x1, y1, x2, y2 in whole pixels) and their classes."""

    name: str
    image: bytes
    boxes: np.ndarray
    labels: Sequence[int]


def draw(split: str) -> list[Drawn]:
    """Draws the pictures of a split, one object each."""
    drawn = []
    for index in range(COUNTS[split]):
        rng = np.random.default_rng([index, len(split)])
        scene = draw_scene(index % len(NAMES), _SCENES, rng)
        boxes = np.rint(scene.boxes[:, [1, 0, 3, 2]] * SIZE).astype(int)
        image = cv2.imencode(".jpg", scene.image[:, :, ::-1])[1].tobytes()
        drawn.append(Drawn(f"{split}_{index:02}", image, boxes, scene.labels.tolist()))
    return drawn


def write_yolo(root: Path, form: str = "images/{}") -> Path:
    """Writes images/<split> and labels/<split>, or another form, and data.yaml."""
    for split in COUNTS:
        images = root / form.format(split)
        labels = root / form.format(split).replace("images", "labels")
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for drawn in draw(split):
            (images / f"{drawn.name}.jpg").write_bytes(drawn.image)
            lines = []
            for (x1, y1, x2, y2), label in zip(drawn.boxes / SIZE, drawn.labels, strict=True):
                box = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
                lines.append(f"{label} " + " ".join(f"{value:.6f}" for value in box))
            (labels / f"{drawn.name}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text(f"names: [{', '.join(NAMES)}]\n")
    return root


def voc_xml(drawn: Drawn, *, size: tuple[int, int] = (SIZE, SIZE), more: str = "") -> str:
    """Returns an annotation as VOC writes it; `more` goes into each object."""
    objects = "".join(
        f"<object><name>{NAMES[label]}</name>{more}<bndbox><xmin>{x1 + 1}</xmin>"
        f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>\n"
        for (x1, y1, x2, y2), label in zip(drawn.boxes, drawn.labels, strict=True)
    )
    width, height = size
    return (
        f"<annotation><filename>{drawn.name}.jpg</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>\n{objects}</annotation>"
    )


def write_voc(root: Path) -> Path:
    """Writes Annotations, JPEGImages and the lists of the splits."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split in COUNTS:
        stems = [drawn.name for drawn in draw(split)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        for drawn in draw(split):
            (root / "JPEGImages" / f"{drawn.name}.jpg").write_bytes(drawn.image)
            (root / "Annotations" / f"{drawn.name}.xml").write_text(voc_xml(drawn))
    return root


def write_coco(root: Path) -> Path:
    """Writes folders of images and annotations/instances_<split>.json, with ids from 5 on."""
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": 5 * (place + 1), "name": name} for place, name in enumerate(NAMES)]
    for split in COUNTS:
        (root / split).mkdir()
        images, annotations = [], []
        for number, drawn in enumerate(draw(split), 1):
            (root / split / f"{drawn.name}.jpg").write_bytes(drawn.image)
            file = f"{drawn.name}.jpg"
            images.append({"id": number, "file_name": file, "width": SIZE, "height": SIZE})
            for (x1, y1, x2, y2), label in zip(drawn.boxes.tolist(), drawn.labels, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": categories[label]["id"],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "iscrowd": 0,
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
