"""Tasks by the kind of model: classification, detection, segmentation.

Nothing heavy is imported until a task is asked for.
"""

import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.registry import head_named

if TYPE_CHECKING:
    from mobilevit_jax.data.sources import DatasetInfo
    from mobilevit_jax.processing import ImageProcessor
    from mobilevit_jax.tasks.base import DataTask, Predictor
    from mobilevit_jax.tasks.evaluation import SplitEvaluator
    from mobilevit_jax.tasks.pretrained import Pretrained
    from mobilevit_jax.tasks.settings import TaskSettings

# Where the `DataTask` of each is, for `pkgutil.resolve_name`.
_TASKS = {
    "classification": "classification:ClassificationTask",
    "detection": "detection.task:DetectionTask",
    "segmentation": "segmentation.task:SegmentationTask",
}
# What may be chosen at evaluation and prediction; fields of the task's configuration.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "classification": (),
    "detection": ("convention", "score_threshold", "iou_threshold", "class_agnostic"),
    "segmentation": ("protocol", "multiple"),
}


def task_of(model_name: str) -> str:
    """Returns "classification", "detection" or "segmentation".

    Args:
        model_name: One of `list_models()`, or the part of it in front of the size.

    Raises:
        ConfigurationError: If no task has models of that name.
    """
    return head_named(model_name).task


def create_task(settings: "TaskSettings", info: "DatasetInfo | None" = None) -> "DataTask":
    """Opens an experiment's data and builds its model.

    Args:
        settings: The experiment.
        info: Describes a data set that is not here, for programs that are only compiled.

    Raises:
        ConfigurationError: If data set, split, model or batch do not fit together.
        DataError: If the data set cannot be read.
    """
    return _class_of(settings.model.name)(settings, info)


def class_names_of(model_name: str, info: "DatasetInfo") -> tuple[str, ...]:
    """Returns the names of a data set's classes as weights of a kind of model keep them.

    Detectors leave the background out; segmentation models have it as class 0 if the masks do.
    """
    return _class_of(model_name).class_names_of(info)


def create_evaluator(
    loaded: "Pretrained",
    info: "DatasetInfo",
    processor: "ImageProcessor",
    *,
    results: Path | None = None,
    **settings: Any,
) -> "SplitEvaluator":
    """Builds `evaluate(variables, split, batch_size, loader) -> metrics` for weights.

    Args:
        loaded: The weights; settings of evaluation are those of their run, if they are of one.
        info: The data set.
        processor: What images go through, usually `loaded.processor`.
        results: Of a detector alone: JSON file to write the detections to.
        **settings: Fields of `DetectionConfig` or `SegmentationConfig` in place of the run's or
            the default ones, such as `convention` or `protocol`.

    Raises:
        ConfigurationError: If the data set's classes are not those of the weights or in another
            order (`class_names.in_order_of` has them in this one), or a setting is not one of the
            task.
    """
    from mobilevit_jax.tasks.class_names import in_order_of

    settings = _checked(loaded, settings)
    if in_order_of(loaded, class_names_of(loaded.model_name, info), info.name)[0] is not loaded:
        raise ConfigurationError(
            f"{info.name} has the classes of the weights in another order; evaluate what "
            "tasks.class_names.in_order_of returns"
        )
    if results is not None:
        settings["results"] = results
    return _class_of(loaded.model_name).create_evaluator(loaded, info, processor, **settings)


def create_predictor(
    loaded: "Pretrained", processor: "ImageProcessor", **settings: Any
) -> "Predictor":
    """Builds what answers for images: a `Classifier`, `Detector` or `Segmenter`.

    Args:
        loaded: The weights.
        processor: What images go through, usually `loaded.processor`.
        **settings: See `create_evaluator`.

    Raises:
        ConfigurationError: If a setting is not one of the task.
    """
    settings = _checked(loaded, settings)
    return _class_of(loaded.model_name).create_predictor(loaded, processor, **settings)


def _checked(loaded: "Pretrained", settings: dict[str, Any]) -> dict[str, Any]:
    """Refuses settings that the weights' task does not have; leaves out those that are None."""
    task = task_of(loaded.model_name)
    settings = {name: value for name, value in settings.items() if value is not None}
    for name in settings:
        if name not in _SETTINGS[task]:
            owner = next((t for t, names in _SETTINGS.items() if name in names), None)
            whose = f"of {owner}" if owner else "unknown"
            raise ConfigurationError(
                f"the setting {name} is {whose}, but these weights are for {task}; leave it out"
            )
    return settings


def _class_of(model_name: str) -> "type[DataTask]":
    return pkgutil.resolve_name(f"{__name__}.{_TASKS[task_of(model_name)]}")
