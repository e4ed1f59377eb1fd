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

# Numbers of a study that are no metric of an evaluation.
_OTHERS = {
    "updates": "updates",
    "epoch_seconds": "s an epoch",
    "iphone12_milliseconds": "ms on an iPhone 12",
}


def label_of(metric: str) -> str:
    """Returns the heading of a study's number, such as "top-1 at 160" for "top1@160"."""
    name, _, size = metric.partition("@")
    raw = name.startswith("raw_")
    plain = name.removeprefix("raw_")
    label = HEADINGS.get(plain) or _OTHERS.get(plain) or plain
    return label + (", raw weights" if raw else "") + (f" at {size}" if size else "")


def number(metric: str, value: float | None) -> str:
    """Returns a study's number as text: fractions as per cent, "-" for None."""
    if value is None:
        return "-"
    if metric.partition("@")[0].removeprefix("raw_") in HEADINGS:
        return f"{value:.1%}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def shown(metrics: Mapping[str, Any]) -> dict[str, object]:
    """Returns {heading: cell} of the metrics that there are, loss first.

    Args:
        metrics: Metrics as fractions, among other things.
    """
    loss: dict[str, object] = {"loss": metrics["loss"]} if "loss" in metrics else {}
    return loss | {HEADINGS[n]: f"{metrics[n]:.2%}" for n in HEADINGS if n in metrics}
