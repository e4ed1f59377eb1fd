"""`mobilevit evaluate`: the metrics of weights on a split, every image counted once."""

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mobilevit_jax.analysis.metrics import shown
from mobilevit_jax.base.run_files import EVALUATION, EXPERIMENT
from mobilevit_jax.cli.console import count, print_table, say
from mobilevit_jax.cli.example_grid import draw_examples
from mobilevit_jax.cli.options import called, read
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.cli.weights import WeightsOptions
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.sources import dataset_info, open_split
from mobilevit_jax.errors import ConfigurationError, ExitStatus
from mobilevit_jax.pretrained import Pretrained
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks import class_names_of, create_evaluator, create_predictor, task_of
from mobilevit_jax.tasks.class_names import in_order_of
from mobilevit_jax.training.workdir import write_json


@dataclass(frozen=True)
class Arguments:
    """Measure weights on a data set: accuracy, COCO's mAP or mIoU; prints a table, writes JSON.

    Attributes:
        choice: Which weights.
        dataset: Prepared data set; that of the training by default, if it was one of this package.
        split: Split; the training's test split by default, else its validation split.
        data_dir: Where data sets are stored; the training's place by default.
        size: Height and width of the crop in pixels; the margin of the resize before it stays.
        batch_size: Images of a batch over all devices; by default the run's own, or 200, 64 or 16
            in classification, detection and segmentation.
        convention: Detection: how boxes are suppressed, as in CVNets v0.1 or later, or as in YOLOX;
            by default the run's, or v0.1, or for a YOLOX its own.
        score_threshold: Detection: least probability; by default the convention's.
        iou_threshold: Detection: overlap above which the worse of two boxes goes.
        class_agnostic: Detection: whether it goes whatever the classes.
        protocol: Segmentation: fixed resizes images to the crop's size, keep_aspect their short
            side; by default the run's, or fixed.
        multiple: Segmentation: what keep_aspect rounds the sides to a multiple of.
        output: JSON file; by default evaluation-<dataset>-<split>-<size>.json in the work
            directory, or in the current one if the weights are no work directory.
        plots: Draw the first images of the split with their answers into this PNG file.
        results: Detection: write the detections into this JSON file, in COCO's format.
        loader: Threads and memory; images skipped are not in the count.
    """

    choice: tyro.conf.OmitArgPrefixes[Annotated[WeightsOptions, tyro.conf.arg(name="weights")]]
    dataset: Annotated[str | None, called("NAME")] = None
    split: Annotated[str | None, called("NAME")] = None
    data_dir: Annotated[str | None, called("DIR")] = None
    size: Annotated[int | None, called("INT")] = None
    batch_size: Annotated[int | None, called("INT")] = None
    convention: Literal["v0.1", "later", "yolox"] | None = None
    score_threshold: Annotated[float | None, called("FLOAT")] = None
    iou_threshold: Annotated[float | None, called("FLOAT")] = None
    class_agnostic: bool | None = None
    protocol: Literal["fixed", "keep_aspect"] | None = None
    multiple: Annotated[int | None, called("INT")] = None
    output: Annotated[Path | None, called("FILE")] = None
    plots: Annotated[Path | None, called("FILE")] = None
    results: Annotated[Path | None, called("FILE")] = None
    loader: tyro.conf.OmitArgPrefixes[LoaderConfig] = field(default_factory=LoaderConfig)


def main(argv: list[str]) -> int:
    """Runs `mobilevit evaluate` and returns its exit status."""
    arguments = read(Arguments, "evaluate", argv)
    start_jax()
    report(arguments, arguments.choice.load())
    return ExitStatus.DONE


def report(arguments: Arguments, loaded: Pretrained) -> None:
    """Evaluates, prints the table and writes what was asked for.

    Raises:
        ConfigurationError: If the data set's classes are not those of the weights.
        DataError: If an image cannot be decoded and none may be skipped.
    """
    if arguments.size is not None:
        loaded = replace(loaded, processor=loaded.processor.for_size(arguments.size))
    loaded = _matched(arguments, loaded)
    result = evaluate(arguments, loaded)
    cells = shown(result)
    data = f"{result['dataset']} {result['split']}"
    print_table(
        ["data", "size", "images", *cells],
        [[data, result["size"], result["count"], *cells.values()]],
        title=f"{result['model']}, {result['weights']}",
    )
    if "iou" in result:
        print_table(["class", "IoU"], [[n, f"{v:.2%}"] for n, v in result["iou"].items()])
    if result["skipped"]:
        say(f"skipped {count(result['skipped'], 'image')} that could not be decoded")
    path = arguments.output or _default_output(arguments.choice, result)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    say(f"written to {path}")
    if arguments.plots:  # last, so that a picture that fails costs no result
        _draw(arguments, loaded)


def _draw(arguments: Arguments, loaded: Pretrained) -> None:
    """Draws the first images of the split with their answers."""
    name, split_name, data_dir = _data(arguments, loaded)
    names = ("convention", "iou_threshold", "class_agnostic")
    settings = {name: getattr(arguments, name) for name in names}
    predictor = create_predictor(loaded, loaded.processor, **settings)
    task, split = task_of(loaded.model_name), open_split(name, split_name, data_dir)
    skip_bad = arguments.loader.skip_bad_images
    assert arguments.plots is not None
    draw_examples(predictor, task, split, arguments.plots, skip_bad=skip_bad)
    say(f"examples drawn into {arguments.plots}")


def _matched(arguments: Arguments, loaded: Pretrained) -> Pretrained:
    """Returns the weights with their classes in the order of the data set's."""
    name, _, data_dir = _data(arguments, loaded)
    names = class_names_of(loaded.model_name, dataset_info(name, data_dir))
    loaded, note = in_order_of(loaded, names, name)
    if note:
        say(note)
    return loaded


def _default_output(choice: WeightsOptions, result: dict[str, Any]) -> Path:
    """Names the file after the data and, unless they are the usual ones, the weights."""
    selection = choice.selection
    parts = [result["dataset"], result["split"], str(result["size"])]
    if selection.checkpoint != "latest":
        parts.append(selection.checkpoint)
    if selection.raw:
        parts.append("raw")
    directory = Path(choice.weights)
    if not (directory / EXPERIMENT).is_file():
        parts.insert(0, directory.name)
        directory = Path()
    stem = re.sub(r"[^\w.-]+", "_", "-".join(parts))
    return directory / EVALUATION.format(stem)


def evaluate(arguments: Arguments, loaded: Pretrained) -> dict[str, Any]:
    """Evaluates and returns what the JSON file holds: metrics as fractions, and what they are of.

    The weights' classes are in the order of the data set's, and images are of the size that
    `loaded.processor` has; see `report`.
    """
    from mobilevit_jax.training import parallel

    task = task_of(loaded.model_name)
    if arguments.results and task != "detection":
        raise ConfigurationError(f"--results is for detections; these weights are for {task}")
    name, split_name, data_dir = _data(arguments, loaded)
    info = dataset_info(name, data_dir)
    split = open_split(name, split_name, data_dir)
    processor = loaded.processor
    _check_processor(processor)
    names = ("convention", "score_threshold", "iou_threshold", "class_agnostic")
    names = (*names, "protocol", "multiple")
    settings = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    evaluator = create_evaluator(loaded, info, processor, results=arguments.results, **settings)
    variables = parallel.replicate(loaded.variables)
    batch_size = arguments.batch_size
    if batch_size is None:
        batch_size = _batch_size(loaded, task)
    metrics = evaluator(variables, split, batch_size, arguments.loader)
    height, width = processor.crop_size
    return {
        "model": loaded.model_name,
        "weights": loaded.description,
        "dataset": name,
        "split": split_name,
        "size": height if height == width else f"{height}x{width}",
        **settings,
        **metrics,
        **({"iou": evaluator.per_class} if evaluator.per_class else {}),
        "skipped": len(split) - int(metrics["count"]),
    }


def _check_processor(processor: ImageProcessor) -> None:
    """Refuses what evaluation, which batches uint8 images, would not do."""
    if not processor.do_rescale or not math.isclose(processor.rescale_factor, 1 / 255):
        factor = processor.rescale_factor if processor.do_rescale else 1
        raise ConfigurationError(
            f"evaluation scales pixels by 1/255, but the processor of these weights by {factor:g}; "
            "only predict follows it"
        )
    if not processor.do_center_crop:
        raise ConfigurationError(
            "evaluation needs images of one size, but the processor of these weights has no centre "
            "crop; name a size that it would give, with do_center_crop, in preprocessor_config.json"
        )


def _batch_size(loaded: Pretrained, task: str) -> int:
    """Returns the run's batch, or one that fits a small device."""
    if loaded.experiment is not None:
        return loaded.experiment.evaluation.batch_size
    return {"classification": 200, "detection": 64, "segmentation": 16}[task]


def _data(arguments: Arguments, loaded: Pretrained) -> tuple[str, str, str | None]:
    """Returns data set, split and data directory: as named, else the training's."""
    data = loaded.experiment.data if loaded.experiment else None
    name = arguments.dataset or (data and data.dataset)
    if not name:
        raise ConfigurationError(
            f"{arguments.choice.weights} does not say on which data set to evaluate; "
            "name one with --dataset"
        )
    data_dir = arguments.data_dir or (data and data.data_dir)
    split = arguments.split or (data and (data.test or data.validation))
    if not split:
        splits = dataset_info(name, data_dir).splits
        split = next((s for s in ("test", "validation") if s in splits), "test")
    return name, split, data_dir
