"""What a report says, apart from how it is written: sections of texts, tables and pictures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["plain", "paper", "ours", "missing"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says, never empty.
        kind: "paper" for a number of the paper, "ours" for one of ours, "missing" for what stands
            where there is none.
    """

    text: str
    kind: Kind = "plain"


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        columns: Headings.
        rows: A cell for each column.
        title: Above it, if not empty.
        note: Below the title: where its numbers are from.
        words: Headings of the columns that are set to the left, besides the first.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    note: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Notice:
    """A paragraph that must not be overlooked."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: Of its file, without the suffix.
        caption: What it shows, in words; also for those who cannot see it.
        draw: Writes it as a PNG.
        wide: Whether it is too wide for a phone, where it then scrolls sideways.
    """

    name: str
    caption: str
    draw: Callable[[Path], None]
    wide: bool = False


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, or below one another where there is no room."""

    pictures: tuple[Picture, ...]


Block = Text | Notice | Grid | Gallery


@dataclass(frozen=True)
class Section:
    """A part with a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: Its heading.
        head: What stands above the first section.
        sections: The rest.
    """

    title: str
    head: tuple[Block, ...]
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> list[Picture]:
        """All of them, in order."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [p for block in blocks if isinstance(block, Gallery) for p in block.pictures]

    @property
    def notices(self) -> list[str]:
        """Those above the first section, which hold for all of it."""
        return [block.text for block in self.head if isinstance(block, Notice)]


def grid(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Cell]],
    *,
    title: str = "",
    note: str = "",
    words: Sequence[str] = (),
) -> Grid:
    """Makes a table of texts and cells; an empty text is a mistake, since it says nothing.

    Raises:
        ValueError: If a row has not one cell a column, or a cell is empty.
    """
    made = tuple(
        tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows
    )
    for row in made:
        if len(row) != len(columns) or not all(cell.text.strip() for cell in row):
            raise ValueError(f"a row of {tuple(columns)} needs a text in each cell, not {row}")
    return Grid(tuple(columns), made, title, note, tuple(words))
