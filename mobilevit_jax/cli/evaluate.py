"""`mobilevit evaluate`: top-1, top-5 and loss of weights on a split, every image counted once."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from mobilevit_jax.cli.console import print_table, say
from mobilevit_jax.cli.runtime import start_jax
from mobilevit_jax.cli.weights import WeightsOptions
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.sources import dataset_info, open_split
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.pretrained import Pretrained
from mobilevit_jax.training.workdir import write_json


@dataclass(frozen=True)
class Arguments:
    """Measure the accuracy of weights on a data set; prints a table and writes JSON.

    Attributes:
        choice: Which weights.
        dataset: Prepared data set; the training's own by default.
        split: Split; the training's test split by default, else its validation split.
        data_dir: Where data sets are stored; $TFDS_DATA_DIR or ~/tensorflow_datasets by default.
        size: Height and width of the crop in pixels; the margin of the resize before it stays.
        batch_size: Images of a batch over all devices.
        skip_bad_images: Leave images that cannot be decoded out of the count.
        output: JSON file; evaluation-<dataset>-<split>-<size>.json beside the weights by default.
        loader: Threads and memory.
    """

    choice: tyro.conf.OmitArgPrefixes[WeightsOptions]
    dataset: str | None = None
    split: str | None = None
    data_dir: str | None = None
    size: int | None = None
    batch_size: int = 200
    skip_bad_images: bool = False
    output: Path | None = None
    loader: LoaderConfig = field(default_factory=LoaderConfig)


def main(argv: list[str]) -> int:
    """Runs `mobilevit evaluate` and returns its exit status."""
    arguments = tyro.cli(Arguments, prog="mobilevit evaluate", args=argv)
    start_jax()
    loaded = arguments.choice.load()
    result = evaluate(arguments, loaded)
    stem = f"{result['dataset']}-{result['split']}-{result['size']}"
    path = arguments.output or Path(arguments.choice.weights) / (
        "evaluation-" + re.sub(r"[^\w.]+", "_", stem) + ".json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    print_table(
        ["data", "size", "images", "loss", "top-1", "top-5"],
        [
            [
                f"{result['dataset']} {result['split']}",
                result["size"],
                result["count"],
                result["loss"],
                f"{result['top1']:.2%}",
                f"{result['top5']:.2%}",
            ]
        ],
        title=f"{result['model']}, {result['weights']}",
    )
    if result["skipped"]:
        say(f"skipped {result['skipped']} images that could not be decoded")
    say(f"written to {path}")
    return 0


def evaluate(arguments: Arguments, loaded: Pretrained) -> dict[str, Any]:
    """Evaluates and returns what the JSON file holds: metrics as fractions, and what they are of.

    Raises:
        ConfigurationError: If the data set's classes are not those of the weights.
        DataError: If an image cannot be decoded and none may be skipped.
    """
    from mobilevit_jax.tasks.classification import ClassificationObjective, Evaluator
    from mobilevit_jax.training import parallel

    data = loaded.experiment.data
    name = arguments.dataset or data.dataset
    split_name = arguments.split or data.test or data.validation or "test"
    data_dir = arguments.data_dir or data.data_dir
    _check_classes(loaded.class_names, dataset_info(name, data_dir).class_names, name)
    split = open_split(name, split_name, data_dir)
    processor = loaded.processor.for_size(arguments.size) if arguments.size else loaded.processor
    evaluator = Evaluator(loaded.model, ClassificationObjective(), processor)
    loader = replace(arguments.loader, skip_bad_images=arguments.skip_bad_images)
    variables = parallel.replicate(loaded.variables)
    metrics = evaluator(variables, split, arguments.batch_size, loader)
    height, width = processor.crop_size
    return {
        "model": loaded.experiment.model.name,
        "weights": loaded.description,
        "dataset": name,
        "split": split_name,
        "size": height if height == width else f"{height}x{width}",
        **metrics,
        "skipped": len(split) - int(metrics["count"]),
    }


def _check_classes(ours: tuple[str, ...], theirs: tuple[str, ...], dataset: str) -> None:
    if ours == theirs:
        return
    if len(ours) != len(theirs):
        raise ConfigurationError(
            f"{dataset} has {len(theirs)} classes, the weights {len(ours)}; "
            "name the data set that they were trained on"
        )
    index = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    raise ConfigurationError(
        f"class {index} of {dataset} is {theirs[index]!r}, that of the weights {ours[index]!r}; "
        "name the data set that they were trained on"
    )
