"""A report's files: the page, the tables as Markdown, the pictures."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mobilevit_jax.errors import naming
from mobilevit_jax.studies.report.html_page import to_html
from mobilevit_jax.studies.report.page import Page

INDEX, TABLES = "index.html", "tables.md"


def write(page: Page, directory: Path, say: Callable[[str], None] = lambda text: None) -> Path:
    """Writes a report, whole or not at all, and returns the page's path.

    All files are made in a directory beside. A new report is that directory renamed; an earlier one
    gets its files replaced one by one, the page last, and whatever else is there is left alone.

    Args:
        page: What it says.
        directory: Where to put it; made if need be.
        say: Told what is being done.

    Raises:
        OSError: If it cannot be written.
    """
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    with naming(directory):
        try:
            unfinished.mkdir()
            _make(page, unfinished, say)
            if not directory.exists():
                unfinished.rename(directory)
            else:
                for path in sorted(unfinished.iterdir(), key=lambda path: path.name == INDEX):
                    path.replace(directory / path.name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return directory / INDEX


def _make(page: Page, directory: Path, say: Callable[[str], None]) -> None:
    """Writes all files into a new directory, and has them on the disk."""
    images = {}
    for picture in page.pictures:
        say(f"drawing {picture.name}.png")
        path = directory / f"{picture.name}.png"
        picture.draw(path)
        images[picture.name] = path.read_bytes()
    for name, text in ((TABLES, str(page)), (INDEX, to_html(page, images))):
        with (directory / name).open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
