"""What a report says, in Markdown; its tables and pictures know what Markdown cannot say."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["plain", "paper", "ours", "missing"]

# An underscore within a word, as in mobilevit_xxs, means nothing; a "$" begins GitHub's formulas.
_SPECIAL = re.compile(r"[\\`*\[\]|$]|~(?=~)|^#|^[+-](?=[ -]|$)|(?<![^\W_])_|_(?![^\W_])")
_NUMBERED = re.compile(r"^(\d+)([.)])(?= |$)")


def escaped(text: str) -> str:
    """Returns Markdown that shows a text as it is, in one line."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _NUMBERED.sub(r"\1\\\2", _SPECIAL.sub(r"\\\g<0>", line))


def heading(title: str) -> str:
    """Returns the heading of a section."""
    return f"## {escaped(title)}"


def notice(text: str) -> str:
    """Returns a paragraph that must not be overlooked."""
    return f"> **Note:** {escaped(text)}"


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

    def __str__(self) -> str:
        """Returns it as Markdown."""
        left = (self.columns[0], *self.words)
        lines = [
            [escaped(name) for name in self.columns],
            ["---" if name in left else "---:" for name in self.columns],
            *([escaped(cell.text) for cell in row] for row in self.rows),
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        title = f"### {escaped(self.title)}" if self.title else ""
        return "\n\n".join(part for part in (title, escaped(self.note), table) if part)


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

    def __str__(self) -> str:
        """Returns it as Markdown, which refers to the file beside it."""
        return f"![{escaped(self.caption)}]({self.name}.png)"


# Text is Markdown: what comes from a file has gone through one of the functions above.
Block = str | Grid | Picture


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: Its heading.
        notices: What must not be overlooked, as plain text.
        blocks: What stands below the title, the notices included.
    """

    title: str
    notices: tuple[str, ...]
    blocks: tuple[Block, ...]

    @property
    def pictures(self) -> list[Picture]:
        """All of them, in order."""
        return [block for block in self.blocks if isinstance(block, Picture)]

    @property
    def tables(self) -> list[Grid]:
        """All of them, in order."""
        return [block for block in self.blocks if isinstance(block, Grid)]

    def __str__(self) -> str:
        """Returns it as Markdown."""
        return "\n\n".join([f"# {escaped(self.title)}", *map(str, self.blocks)]) + "\n"


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
