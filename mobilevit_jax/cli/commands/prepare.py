"""`mobilevit prepare`: stores a data set in the form that training reads."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mobilevit_jax.cli.console import make_console, print_table, say
from mobilevit_jax.cli.options import called, read
from mobilevit_jax.data.builders import BUILDERS
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import dataset_info, list_prepared, resolve_data_dir
from mobilevit_jax.errors import ConfigurationError, DataError, ExitStatus, shortened, visible


@dataclass(frozen=True)
class Arguments:
    """Stores a data set by TFDS, as array_record, once: a second call finds it and returns.

    shapes/tiny, shapes/quickstart, shapes/detection, shapes/segmentation and shapes/default are
    drawn; image_folder reads <split>/<class>/<image> files, parquet the files that the Hugging Face
    hub keeps (labels or masks), imagenet the official tars of ILSVRC2012; coco and
    coco_segmentation read folders of images beside annotations/instances_<folder>.json, yolo
    images/ and labels/ with data.yaml, voc_detection Annotations/ and JPEGImages/; voc_segmentation
    reads VOCdevkit, mask_folder <split>/images, <split>/masks and classes.txt.
    """

    dataset: Annotated[str | None, tyro.conf.Positional, called("[DATASET]")] = None
    """Which one: shapes/..., image_folder, parquet, imagenet, coco, yolo, voc_detection,
    coco_segmentation, voc_segmentation, mask_folder."""
    source: Annotated[Path | None, called("DIR")] = None
    """The directory that has the files of the data set."""
    data_dir: Annotated[Path | None, called("DIR")] = None
    """Where data sets are kept ($TFDS_DATA_DIR, or else ~/tensorflow_datasets)."""
    name: Annotated[str | None, called("NAME")] = None
    """Store it under this name; --dataset of the other commands then takes it."""
    skip_bad_images: bool = False
    """Leave out and count images that cannot be decoded, or whose mask cannot."""
    validation_share: Annotated[float | None, called("SHARE")] = None
    """Draw about this share of the training images, by a hash of their names, as the validation
    split that the source lacks; a source without split folders is taken for training images."""
    list: bool = False
    """Show what is prepared in the data directory, and do nothing else."""


def main(argv: Sequence[str]) -> int:
    """Runs `mobilevit prepare ARGV` and returns its exit status.

    Raises:
        ConfigurationError: For a bad combination of arguments.
        DataError: If the data set cannot be read or stored.
    """
    arguments = read(Arguments, "prepare", argv)
    if arguments.list:
        _list(arguments.data_dir)
        return ExitStatus.DONE
    if arguments.dataset is None:
        raise ConfigurationError(f"name a data set: {', '.join(BUILDERS)} (or use --list)")
    with _bars() as update:
        info = prepare(
            arguments.dataset,
            data_dir=arguments.data_dir,
            source=arguments.source,
            name=arguments.name,
            skip_bad_images=arguments.skip_bad_images,
            validation_share=arguments.validation_share,
            progress=update,
        )
    rows = [(split, count, info.skipped.get(split, 0)) for split, count in info.splits.items()]
    print(visible(f"{info.name} ({len(info.class_names)} classes) is in {info.directory}"))
    print_table(("split", "images", "skipped"), rows)
    if info.class_names:
        say(f"classes: {shortened(', '.join(info.class_names))}")
    if info.skipped:
        say(f"the skipped files are listed in {info.directory / 'metadata.json'}")
    for split, notes in info.notes.items():
        for note, count in notes.items():
            say(f"{split}: {count} {note}")
    return ExitStatus.DONE


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yields what moves the bar of a split, one below the other, where there is a terminal."""
    console = make_console(sys.stderr)
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    tasks = {}

    def update(split: str, done: int, total: int) -> None:
        if split not in tasks:
            tasks[split] = bars.add_task(split, total=total)
        bars.update(tasks[split], completed=done)

    with bars:
        yield update


def _list(data_dir: Path | None) -> None:
    rows = []
    for place in list_prepared(data_dir):
        try:
            info = dataset_info(f"{place.name}:{place.version}", data_dir)
            splits = ", ".join(f"{split} {count}" for split, count in info.splits.items())
            rows.append((place.name, place.version, len(info.class_names), splits))
        except DataError as error:
            rows.append((place.name, place.version, "-", str(error)))
    print(visible(f"prepared in {resolve_data_dir(data_dir)}: {len(rows)}"))
    if rows:
        print_table(("name", "version", "classes", "images"), rows)
