"""How metrics are shown: their headings, and fractions as per cent."""

from collections.abc import Mapping
from typing import Any

HEADINGS = {
    "top1": "top-1",
    "top5": "top-5",
    "map": "mAP",
    "map50": "mAP@.50",
    "map75": "mAP@.75",
    "map_small": "small",
    "map_medium": "medium",
    "map_large": "large",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
}


def shown(metrics: Mapping[str, Any]) -> dict[str, object]:
    """Returns {heading: cell} of the metrics that there are, loss first.

    Args:
        metrics: Metrics as fractions, among other things.
    """
    cells: dict[str, object] = {"loss": metrics["loss"]} if "loss" in metrics else {}
    for name, heading in HEADINGS.items():
        if name in metrics:
            cells[heading] = f"{metrics[name]:.2%}"
    return cells
