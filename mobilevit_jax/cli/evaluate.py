"""`mobilevit evaluate`: top-1, top-5 and loss of weights on a split, every image counted once."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from mobilevit_jax.cli.console import count, print_table, say
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
        data_dir: Where data sets are stored; the training's place by default.
        size: Height and width of the crop in pixels; the margin of the resize before it stays.
        batch_size: Images of a batch over all devices.
        output: JSON file; evaluation-<dataset>-<split>-<size>.json beside the weights by default.
        loader: Threads and memory; images skipped are not in the count.
    """

    choice: tyro.conf.OmitArgPrefixes[Annotated[WeightsOptions, tyro.conf.arg(name="weights")]]
    dataset: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    size: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    batch_size: int = 200
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
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
        say(f"skipped {count(result['skipped'], 'image')} that could not be decoded")
    path = arguments.output or _default_output(arguments.choice, result)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    say(f"written to {path}")
    return 0


def _default_output(choice: WeightsOptions, result: dict[str, Any]) -> Path:
    """Names the file after the data and, unless they are the usual ones, the weights."""
    parts = [result["dataset"], result["split"], str(result["size"])]
    parts += [choice.checkpoint] * (choice.checkpoint != "latest") + ["raw"] * choice.raw
    stem = re.sub(r"[^\w.-]+", "_", "-".join(parts))
    return Path(choice.weights) / f"evaluation-{stem}.json"


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
    processor = loaded.processor
    if arguments.size is not None:
        processor = processor.for_size(arguments.size)
    evaluator = Evaluator(loaded.model, ClassificationObjective(), processor)
    variables = parallel.replicate(loaded.variables)
    metrics = evaluator(variables, split, arguments.batch_size, arguments.loader)
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
