"""Weights with what belongs to them, as evaluation and prediction take them."""

from dataclasses import dataclass
from typing import Any

from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.settings import TaskSettings


@dataclass(frozen=True)
class Pretrained:
    """A model with its weights and what belongs to them.

    Attributes:
        model: The module.
        variables: {"params", "batch_stats"}, NumPy arrays, float32.
        processor: What images go through before it.
        class_names: In the order of the logits.
        model_name: One of `list_models()`, or for widths of nobody's table the model's kind, such
            as "ssdlite_mobilevit".
        description: Which weights these are, for reports.
        experiment: Settings of the run that made the weights, if it was a run of this package.
        names_assumed: Whether nobody named the classes, and those of the usual data set of as many
            stand there.
        notes: What was assumed, or passed over.
    """

    model: Any
    variables: dict[str, Any]
    processor: ImageProcessor
    class_names: tuple[str, ...]
    model_name: str
    description: str
    experiment: TaskSettings | None = None
    names_assumed: bool = False
    notes: tuple[str, ...] = ()
