"""`mobilevit evaluate`: the metrics of weights on a split, every image counted once."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from mobilevit_jax.cli.console import count, print_table, say
from mobilevit_jax.cli.examples import draw_examples
from mobilevit_jax.cli.metrics import shown
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.cli.weights import WeightsOptions
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.sources import dataset_info, open_split
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.pretrained import EXPERIMENT, Pretrained
from mobilevit_jax.tasks import class_names_of, create_evaluator, create_predictor, task_of
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
        batch_size: Images of a batch over all devices.
        output: JSON file; by default evaluation-<dataset>-<split>-<size>.json in the work
            directory, or in the current one if the weights are no work directory.
        plots: Draw the first images of the split with their answers into this PNG file.
        results: Detection: write the detections into this JSON file, in COCO's format.
        loader: Threads and memory; images skipped are not in the count.
    """

    choice: tyro.conf.OmitArgPrefixes[Annotated[WeightsOptions, tyro.conf.arg(name="weights")]]
    dataset: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    size: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    batch_size: int = 200
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    plots: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    results: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    loader: tyro.conf.OmitArgPrefixes[LoaderConfig] = field(default_factory=LoaderConfig)


def main(argv: list[str]) -> int:
    """Runs `mobilevit evaluate` and returns its exit status."""
    arguments = tyro.cli(
        Arguments,
        prog="mobilevit evaluate",
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    start_jax()
    loaded = arguments.choice.load()
    result = evaluate(arguments, loaded)
    cells = shown(result)
    print_table(
        ["data", "size", "images", *cells],
        [
            [
                f"{result['dataset']} {result['split']}",
                result["size"],
                result["count"],
                *cells.values(),
            ]
        ],
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
    return 0


def _default_output(choice: WeightsOptions, result: dict[str, Any]) -> Path:
    """Names the file after the data and, unless they are the usual ones, the weights."""
    selection = choice.selection
    parts = [result["dataset"], result["split"], str(result["size"])]
    parts += [selection.checkpoint] * (selection.checkpoint != "latest") + ["raw"] * selection.raw
    directory = Path(choice.weights)
    if not (directory / EXPERIMENT).is_file():
        parts.insert(0, directory.name)
        directory = Path()
    stem = re.sub(r"[^\w.-]+", "_", "-".join(parts))
    return directory / f"evaluation-{stem}.json"


def evaluate(arguments: Arguments, loaded: Pretrained) -> dict[str, Any]:
    """Evaluates and returns what the JSON file holds: metrics as fractions, and what they are of.

    Raises:
        ConfigurationError: If the data set's classes are not those of the weights.
        DataError: If an image cannot be decoded and none may be skipped.
    """
    from mobilevit_jax.training import parallel

    task = task_of(loaded.model_name)
    if arguments.results and task != "detection":
        raise ConfigurationError(f"--results is for detections; these weights are for {task}")
    name, split_name, data_dir = _data(arguments, loaded)
    info = dataset_info(name, data_dir)
    _check_classes(loaded, class_names_of(loaded.model_name, info), name)
    split = open_split(name, split_name, data_dir)
    processor = loaded.processor
    if arguments.size is not None:
        processor = processor.for_size(arguments.size)
    evaluator = create_evaluator(loaded, info, processor)
    variables = parallel.replicate(loaded.variables)
    options = {"results": arguments.results} if arguments.results else {}
    metrics = evaluator(variables, split, arguments.batch_size, arguments.loader, **options)
    if arguments.plots:
        draw_examples(create_predictor(loaded, processor), task, split, arguments.plots)
        say(f"examples drawn into {arguments.plots}")
    height, width = processor.crop_size
    return {
        "model": loaded.model_name,
        "weights": loaded.description,
        "dataset": name,
        "split": split_name,
        "size": height if height == width else f"{height}x{width}",
        **metrics,
        **({"iou": evaluator.per_class} if task == "segmentation" else {}),
        "skipped": len(split) - int(metrics["count"]),
    }


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


def _check_classes(loaded: Pretrained, theirs: tuple[str, ...], dataset: str) -> None:
    """Refuses a data set of other classes; weights from elsewhere may spell them otherwise."""
    ours = loaded.class_names
    if ours == theirs:
        return
    if len(ours) != len(theirs):
        raise ConfigurationError(
            f"{dataset} has {len(theirs)} classes, the weights {len(ours)}; "
            "name the data set that they were trained on"
        )
    index = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    differs = (
        f"class {index} of {dataset} is {theirs[index]!r}, that of the weights {ours[index]!r}"
    )
    if loaded.experiment is None:
        say(f"{differs}; going on, as both have {len(ours)} classes")
        return
    raise ConfigurationError(f"{differs}; name the data set that they were trained on")
