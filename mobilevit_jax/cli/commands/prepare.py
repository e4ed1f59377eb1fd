"""`mobilevit prepare`: stores a data set in the form that training reads."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mobilevit_jax.cli.console import make_console, print_table, say
from mobilevit_jax.data.builders import BUILDERS
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import dataset_info, list_prepared, resolve_data_dir
from mobilevit_jax.errors import ConfigurationError, DataError, ExitStatus


@dataclass(frozen=True)
class Arguments:
    """Stores a data set by TFDS, as array_record, once: a second call finds it and returns.

    shapes/tiny, shapes/quickstart, shapes/detection, shapes/segmentation and shapes/default are
    drawn; image_folder reads <split>/<class>/<image> files; imagenet reads the official tars of
    ILSVRC2012; coco and coco_segmentation read folders of images beside
    annotations/instances_<folder>.json; voc_segmentation reads VOCdevkit.
    """

    dataset: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[DATASET]", help_behavior_hint=""),
    ] = None
    """Which one: shapes/..., image_folder, imagenet, coco, coco_segmentation, voc_segmentation."""
    source: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """The directory that has the files of the data set."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Where data sets are kept ($TFDS_DATA_DIR, or else ~/tensorflow_datasets)."""
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Store it under this name; --dataset of the other commands then takes it."""
    skip_bad_images: bool = False
    """Leave out and count images that cannot be decoded, instead of stopping at the first."""
    list: bool = False
    """Show what is prepared in the data directory, and do nothing else."""


def main(argv: Sequence[str]) -> int:
    """Runs `mobilevit prepare ARGV` and returns its exit status.

    Raises:
        ConfigurationError: For a bad combination of arguments.
        DataError: If the data set cannot be read or stored.
    """
    arguments = tyro.cli(
        Arguments,
        args=list(argv),
        prog="mobilevit prepare",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if arguments.list:
        _list(arguments.data_dir)
        return ExitStatus.DONE
    if arguments.dataset is None:
        raise ConfigurationError(f"name a data set: {', '.join(BUILDERS)} (or use --list)")
    with _Bars() as bars:
        info = prepare(
            arguments.dataset,
            data_dir=arguments.data_dir,
            source=arguments.source,
            name=arguments.name,
            skip_bad_images=arguments.skip_bad_images,
            progress=bars.update,
        )
    rows = [(split, count, info.skipped.get(split, 0)) for split, count in info.splits.items()]
    print(f"{info.name} ({len(info.class_names)} classes) is in {info.directory}")
    print_table(("split", "images", "skipped"), rows)
    if info.skipped:
        say(f"the skipped files are listed in {info.directory / 'metadata.json'}")
    for split, notes in info.notes.items():
        for note, count in notes.items():
            say(f"{split}: {count} {note}")
    return ExitStatus.DONE


class _Bars:
    """One progress bar a split, where there is a terminal."""

    def __init__(self) -> None:
        console = make_console(sys.stderr)
        self._tasks = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, split: str, done: int, total: int) -> None:
        if split not in self._tasks:
            self._tasks[split] = self._progress.add_task(split, total=total)
        self._progress.update(self._tasks[split], completed=done)


def _list(data_dir: Path | None) -> None:
    rows = []
    for place in list_prepared(data_dir):
        try:
            info = dataset_info(f"{place.name}:{place.version}", data_dir)
            splits = ", ".join(f"{split} {count}" for split, count in info.splits.items())
            rows.append((place.name, place.version, len(info.class_names), splits))
        except DataError as error:
            rows.append((place.name, place.version, "-", str(error)))
    print(f"prepared in {resolve_data_dir(data_dir)}: {len(rows)}")
    if rows:
        print_table(("name", "version", "classes", "images"), rows)
