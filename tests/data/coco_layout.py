"""Writes small data sets in COCO's layout, for tests to break."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mobilevit_jax.data.coco_names import COCO_CATEGORIES

WIDTH, HEIGHT = 40, 30


def encoded(seed: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def annotation(number: int, image: int, category: int, box: list, **more) -> dict[str, Any]:
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    entry = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": w * h / 2,
        "iscrowd": 0,
        "segmentation": [polygon],
    }
    return entry | more


def content(first_id: int = 10) -> dict[str, Any]:
    """Three images, the last without annotations, and COCO's categories with their gaps."""
    ids = range(first_id, first_id + 3)
    return {
        "images": [
            {"id": i, "file_name": f"{i:012}.jpg", "width": WIDTH, "height": HEIGHT} for i in ids
        ],
        "annotations": [
            annotation(1001, first_id, 18, [4.0, 3.0, 20.0, 15.0]),
            annotation(1002, first_id, 90, [0.0, 0.0, 40.0, 30.0], area=7.25),
            annotation(1003, first_id + 1, 1, [10.0, 6.0, 8.0, 12.0], iscrowd=1),
        ],
        "categories": [
            {"id": number, "name": name} for number, name in reversed(COCO_CATEGORIES.items())
        ],
    }


def write_split(root: Path, stem: str, what: dict[str, Any]) -> Path:
    """Writes annotations, and a picture for every image that has a file name."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{stem}.json").write_text(json.dumps(what))
    (root / stem).mkdir(exist_ok=True)
    for image in what["images"]:
        (root / stem / image["file_name"]).write_bytes(encoded(image["id"]))
    return root
