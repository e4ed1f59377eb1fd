"""A report as Markdown, to be pasted where HTML cannot go."""

import re

from mobilevit_jax.analysis.report_page import Block, Gallery, Grid, Notice, Page, Text

_SPECIAL = re.compile(r"([\\`*\[\]|])")


def to_markdown(page: Page) -> str:
    """Returns the page; its pictures are the files beside it."""
    parts = [f"# {_text(page.title)}", *(_block(block) for block in page.head)]
    for section in page.sections:
        parts += [f"## {_text(section.title)}", *(_block(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return _text(block.text)
    if isinstance(block, Notice):
        return f"> **Note:** {_text(block.text)}"
    if isinstance(block, Gallery):
        return "\n\n".join(f"![{_text(p.caption)}]({p.name}.png)" for p in block.pictures)
    return _grid(block)


def _grid(grid: Grid) -> str:
    left = {0, *(grid.columns.index(name) for name in grid.words)}
    rule = ["---" if index in left else "---:" for index in range(len(grid.columns))]
    rows = [_line([cell.text for cell in row]) for row in grid.rows]
    table = "\n".join([_line(grid.columns), f"| {' | '.join(rule)} |", *rows])
    title = f"### {_text(grid.title)}" if grid.title else ""
    return "\n\n".join(part for part in (title, _text(grid.note), table) if part)


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(map(_text, cells))} |"


def _text(text: str) -> str:
    """Escapes what would be markup, and puts it in one line."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)
