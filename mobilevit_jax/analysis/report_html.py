"""A report as one HTML page: style and pictures inside, no script, nothing from elsewhere."""

import base64
from collections.abc import Mapping
from html import escape

from mobilevit_jax.analysis.report_page import (
    Block,
    Cell,
    Gallery,
    Grid,
    Notice,
    Page,
    Picture,
    Section,
    Text,
)

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #d9d9d9; --soft: #666;
  --ours: #00518a; --theirs: #8a4a00; --warn: #fff3d6; --warn-line: #d9a400; --head: #f4f6f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181b; --line: #3a3f45;
  --soft: #a3a8ae; --ours: #7fc4ff; --theirs: #ffc078; --warn: #3a2f12; --warn-line: #d9a400;
  --head: #22262b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0; }
p { margin: .4rem 0; max-width: 48rem; }
.note, figcaption { color: var(--soft); font-size: .875rem; }
.notice { padding: .5rem .75rem; border-left: 4px solid var(--warn-line);
  background: var(--warn); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .8rem 0; padding: 0;
  list-style: none; }
a { color: var(--ours); }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; overflow-wrap: normal; white-space: nowrap; }
thead th { background: var(--head); white-space: normal; vertical-align: bottom;
  min-width: 3.8rem; }
tbody th { font-weight: 600; }
th:first-child, .words { text-align: left; }
td.long { white-space: normal; min-width: 15rem; max-width: 26rem; }
td.missing { white-space: normal; min-width: 5rem; }
tbody th.long { white-space: normal; min-width: 11rem; max-width: 18rem;
  overflow-wrap: anywhere; }
.ours { color: var(--ours); font-weight: 600; }
.paper { color: var(--theirs); }
.missing { color: var(--soft); font-style: italic; }
.gallery { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: .6rem 0; max-width: 100%; }
.gallery > figure { flex: 1 1 20rem; min-width: 0; max-width: 36rem; }
.gallery > figure.wide { flex-basis: 100%; max-width: none; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.wide img { max-width: none; width: 62rem; }
@media (max-width: 30rem) { th, td { padding: .3rem .4rem; }
  tbody th, tbody th.long { white-space: normal; min-width: 4.5rem; max-width: 9rem; } }
@media print { .scroll { overflow: visible; } }
"""
# A cell of so many characters is given the room to stay below a few lines.
_LONG = 34

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="mobilevit report">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>
{head}
{contents}
</header>
<main>
{sections}
</main>
</body>
</html>
"""


def to_html(page: Page, images: Mapping[str, bytes]) -> str:
    """Returns the page; everything that a file has brought into it is escaped.

    Args:
        page: What it says.
        images: The PNGs of its pictures, by name.
    """
    links = "".join(
        f'<li><a href="#part-{number}">{escape(section.title)}</a></li>'
        for number, section in enumerate(page.sections, 1)
    )
    sections = [_section(section, n, images) for n, section in enumerate(page.sections, 1)]
    return _PAGE.format(
        title=escape(page.title),
        style=_STYLE,
        head="\n".join(_block(block, images) for block in page.head),
        contents=f"<nav><ul>{links}</ul></nav>",
        sections="\n".join(sections),
    )


def _section(section: Section, number: int, images: Mapping[str, bytes]) -> str:
    blocks = "\n".join(_block(block, images) for block in section.blocks)
    return f'<section id="part-{number}">\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block, images: Mapping[str, bytes]) -> str:
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Notice):
        return f'<p class="notice" role="note">{escape(block.text)}</p>'
    if isinstance(block, Grid):
        return _grid(block)
    return _gallery(block, images)


def _grid(grid: Grid) -> str:
    left = {0, *(grid.columns.index(name) for name in grid.words)}
    title = f"<h3>{escape(grid.title)}</h3>\n" if grid.title else ""
    note = f'<p class="note">{escape(grid.note)}</p>\n' if grid.note else ""
    heads = "".join(
        f'<th scope="col"{_class(["words"] if index in left else [])}>{escape(name)}</th>'
        for index, name in enumerate(grid.columns)
    )
    rows = "\n".join(_row(row, left) for row in grid.rows)
    label = escape(grid.title or grid.columns[0])
    return (
        f'{title}{note}<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _row(row: tuple[Cell, ...], left: set[int]) -> str:
    cells = []
    for index, cell in enumerate(row):
        names = ["words"] if index in left else []
        if index in left and len(cell.text) > _LONG:
            names.append("long")
        if cell.kind != "plain":
            names.append(cell.kind)
        tag, scope = ("th", ' scope="row"') if index == 0 else ("td", "")
        text = escape(cell.text)
        if index == 0:  # mostly paths
            text = text.replace("/", "/<wbr>")
        cells.append(f"<{tag}{scope}{_class(names)}>{text}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def _class(names: list[str]) -> str:
    return f' class="{" ".join(names)}"' if names else ""


def _gallery(gallery: Gallery, images: Mapping[str, bytes]) -> str:
    figures = "\n".join(_figure(picture, images[picture.name]) for picture in gallery.pictures)
    return f'<div class="gallery">\n{figures}\n</div>'


def _figure(picture: Picture, png: bytes) -> str:
    caption = escape(picture.caption)
    source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    image = f'<img alt="{caption}" src="{source}">'
    if picture.wide:
        image = f'<div class="scroll" tabindex="0" role="region" aria-label="figure">{image}</div>'
    kind = ' class="wide"' if picture.wide else ""
    return f"<figure{kind}>{image}<figcaption>{caption}</figcaption></figure>"
