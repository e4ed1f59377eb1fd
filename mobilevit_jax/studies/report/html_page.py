"""The Markdown of a report as one HTML page: style and pictures inside, nothing from elsewhere."""

import base64
from collections.abc import Mapping
from html import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token

from mobilevit_jax.studies.report.page import Page, Picture

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #d9d9d9; --soft: #666;
  --ours: #00518a; --theirs: #8a4a00; --warn: #fff3d6; --warn-line: #d9a400; --head: #f4f6f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181b; --line: #3a3f45;
  --soft: #a3a8ae; --ours: #7fc4ff; --theirs: #ffc078; --warn: #3a2f12; --head: #22262b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0; }
p { margin: .4rem 0; max-width: 48rem; }
p:has(+ table), figcaption { color: var(--soft); font-size: .875rem; }
blockquote { max-width: 48rem; margin: .4rem 0; padding: .1rem .75rem;
  border-left: 4px solid var(--warn-line); background: var(--warn); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .8rem 0; padding: 0;
  list-style: none; }
a { color: var(--ours); }
table { display: block; max-width: 100%; overflow-x: auto; margin: .6rem 0 1rem;
  border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: normal; white-space: nowrap; }
thead th { background: var(--head); white-space: normal; vertical-align: bottom;
  min-width: 3.8rem; }
.long { white-space: normal; min-width: 15rem; max-width: 26rem; }
tbody th.long { min-width: 11rem; max-width: 18rem; overflow-wrap: anywhere; }
.ours { color: var(--ours); font-weight: 600; }
.paper { color: var(--theirs); }
.missing { color: var(--soft); font-style: italic; white-space: normal; min-width: 5rem; }
figure { display: inline-block; vertical-align: top; width: 23.6rem; max-width: 100%;
  margin: .6rem .7rem .6rem 0; }
:not(figure) + figure:not(:has(+ figure)) { width: 36rem; }
img { display: block; width: 100%; background: #fff; border-radius: 4px; }
figure.wide { display: block; width: auto; overflow-x: auto; }
.wide img { width: 62rem; }
@media (max-width: 30rem) { th, td { padding: .3rem .4rem; }
  tbody th, tbody th.long { white-space: normal; min-width: 4.5rem; max-width: 9rem; } }
@media print { table, .wide { overflow: visible; } }
"""
# A cell of words with so many characters is given the room to stay below a few lines.
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
{body}</body>
</html>
"""

# What `page` writes and no more, so that a name which looks like a list or a link stays a name.
_MARKDOWN = MarkdownIt("zero").enable(
    ["heading", "blockquote", "table", "image", "emphasis", "escape", "entity"]
)


def to_html(page: Page, images: Mapping[str, bytes]) -> str:
    """Returns the page; everything that a file has brought into it is escaped.

    Args:
        page: What it says.
        images: The PNGs of its pictures, by name.
    """
    tokens = _MARKDOWN.parse(str(page))
    contents = _mark(tokens, page, images)
    links = "".join(f'<li><a href="#part-{n}">{name}</a></li>' for n, name in contents.items())
    body = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})
    # No text has a "<" of its own.
    body = body.replace("<h2 ", f"<nav><ul>{links}</ul></nav>\n<h2 ", 1)
    return _PAGE.format(title=escape(page.title), style=_STYLE, body=body)


def _mark(tokens: list[Token], page: Page, images: Mapping[str, bytes]) -> dict[int, str]:
    """Adds to the tokens of a page what Markdown cannot say.

    Returns:
        The titles of the sections as HTML, by the numbers in their anchors.
    """
    cells = iter([cell for table in page.tables for row in table.rows for cell in row])
    pictures = iter(page.pictures)
    contents: dict[int, str] = {}
    for before, opening, inline, closing in zip(
        tokens, tokens[1:], tokens[2:], tokens[3:], strict=False
    ):
        if opening.type == "heading_open" and opening.tag == "h2":
            contents[len(contents) + 1] = _MARKDOWN.renderInline(inline.content)
            opening.attrSet("id", f"part-{len(contents)}")
        elif opening.type == "td_open":
            cell, words = next(cells), opening.attrGet("style") is None
            opening.attrSet("class", cell.kind + " long" * (words and len(cell.text) > _LONG))
            if before.type == "tr_open":  # it says of what its row is
                opening.tag = closing.tag = "th"
                opening.attrSet("scope", "row")
        elif inline.children and inline.children[0].type == "image":
            picture = next(pictures)
            opening.tag = closing.tag = "figure"
            opening.attrSet("class", "wide" if picture.wide else "plain")
            inline.children = [_image(picture, images[picture.name])]
    return contents


def _image(picture: Picture, png: bytes) -> Token:
    caption, data = escape(picture.caption), base64.b64encode(png).decode("ascii")
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return Token("html_inline", "", 0, content=f"{image}<figcaption>{caption}</figcaption>")
