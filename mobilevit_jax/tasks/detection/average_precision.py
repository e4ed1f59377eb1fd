"""Average precision as COCO defines it, by pycocotools."""

import contextlib
import io
from typing import Any

METRICS = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
"""COCO's first six numbers: over overlaps from 0.5 to 0.95; at 0.5; at 0.75; of objects below 32x32
pixels; up to 96x96; larger ones."""


def coco_metrics(
    image_ids: list[int],
    categories: tuple[int, ...],
    annotations: list[dict[str, Any]],
    results: list[dict[str, Any]],
) -> dict[str, float]:
    """Computes COCO's average precisions.

    Args:
        image_ids: Of all images, also of those without objects or detections.
        categories: Ids of all categories.
        annotations: Ground truth, with "id" from 1, "image_id", "category_id", "bbox" (x, y,
            width, height), "area" and "iscrowd".
        results: Detections, with "image_id", "category_id", "bbox" and "score".

    Returns:
        `METRICS` as fractions, without those that have no object to be measured with.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images: list[Any] = [{"id": number} for number in image_ids]
    described: list[Any] = [{"id": number, "name": str(number)} for number in categories]
    detections: list[Any] = [
        {**result, "id": number, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for number, result in enumerate(results, 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        tables = []
        for rows in (annotations, detections):
            table: Any = COCO()
            table.dataset = {"images": images, "categories": described, "annotations": rows}
            table.createIndex()
            tables.append(table)
        evaluation = COCOeval(*tables, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = zip(METRICS, evaluation.stats, strict=False)
    return {name: float(value) for name, value in stats if value >= 0}
