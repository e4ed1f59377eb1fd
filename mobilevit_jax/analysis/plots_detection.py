"""Pictures of detections: boxes with names and scores, one image or a grid of them."""

import colorsys
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mobilevit_jax.base.atomic import replacing
from mobilevit_jax.errors import visible

if TYPE_CHECKING:
    from mobilevit_jax.tasks.detection.predict import Detection

Box = tuple[int, int, int, int]

# Images with shorter sides are enlarged, else a name would cover what it names.
_LEAST_LONG_SIDE, _LEAST_SHORT_SIDE = 480, 96
_GAP = 8
_STACK = 5  # names under one another


def draw_detections(
    image: np.ndarray, detections: Sequence["Detection"], *, side: int | None = None
) -> np.ndarray:
    """Draws boxes into an image, each with its name and score in percent.

    Lines and text grow with the image. A name stands where it covers no other one, if there is
    such a place at its box, and always inside the image.

    Args:
        image: uint8 [h, w, 3] in RGB; not changed.
        detections: What to draw; boxes in pixels of the image.
        side: Length of the result's long side in pixels. None keeps the image's, but an image
            below 480 pixels, or 96 on its short side, is enlarged by a whole factor.

    Returns:
        uint8 [h', w', 3] in RGB.
    """
    short_side, long_side = sorted(image.shape[:2])
    factor = max(1, _LEAST_LONG_SIDE / long_side, _LEAST_SHORT_SIDE / short_side)
    scale = side / long_side if side else math.ceil(factor)
    picture = resized(image, scale)
    draw = ImageDraw.Draw(picture)
    mean_side = math.sqrt(picture.width * picture.height)
    line = max(2, round(mean_side / 200))
    font = font_of(max(13, round(mean_side / 32)))
    boxes = [_drawn_box(found.box, scale, picture.size) for found in detections]
    # The best come last, over the others.
    for found, box in reversed(list(zip(detections, boxes, strict=True))):
        draw.rectangle(box, outline=class_colour(found.label), width=line)
    taken: list[Box] = []
    for found, box in zip(detections, boxes, strict=True):
        room = picture.width - 2 * _margin(font)
        text = fitting(found.name, font, room, end=f" {found.score:.0%}")
        colour = class_colour(found.label)
        taken.append(_write_name(draw, text, font, box, colour, taken, picture.size))
    return np.asarray(picture)


def grid(images: Sequence[np.ndarray], path: str | Path, *, columns: int | None = None) -> None:
    """Puts pictures side by side on white, like Figure 14 of the paper.

    Args:
        images: uint8 [h, w, 3] in RGB each, of any sizes; each is centred in a cell of the largest
            height and width.
        path: The PNG file to write, whole or not at all.
        columns: Pictures in a row; None makes about as many rows as columns.

    Raises:
        ValueError: If there is no picture.
        OSError: If the file cannot be written.
    """
    if not images:
        raise ValueError("there is no picture to put in a grid")
    columns = columns or math.ceil(math.sqrt(len(images)))
    columns = min(columns, len(images))
    height = max(image.shape[0] for image in images) + _GAP
    width = max(image.shape[1] for image in images) + _GAP
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * height + _GAP, columns * width + _GAP, 3), 255, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top = _GAP + row * height + (height - _GAP - image.shape[0]) // 2
        left = _GAP + column * width + (width - _GAP - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    save_png(sheet, path)


def save_png(image: np.ndarray, path: str | Path) -> None:
    """Writes uint8 [h, w, 3] in RGB as a PNG file, whole or not at all.

    Raises:
        OSError: If the file cannot be written.
    """
    with replacing(Path(path)) as unfinished:
        Image.fromarray(image).save(unfinished, format="PNG")


@functools.cache
def class_colour(label: int) -> tuple[int, int, int]:
    """Returns the colour of a class, RGB; neighbours differ by the golden angle of the hue."""
    hue = (label * 0.61803398875) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9, 0.95 if label % 2 else 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def resized(image: np.ndarray, scale: float) -> Image.Image:
    """Enlarges or shrinks uint8 [h, w, 3] in RGB."""
    picture = Image.fromarray(image)
    if scale == 1:
        return picture
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC)


@functools.lru_cache(maxsize=16)
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Returns the font of all pictures, of a size in pixels."""
    import matplotlib  # has a font with most scripts' letters, on every platform

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _drawn_box(box: tuple[float, ...], scale: float, size: tuple[int, int]) -> Box:
    """Returns the pixels of a box's edges, inside the picture; at least one pixel."""
    x1, y1, x2, y2 = (value * scale for value in box)
    left = min(max(math.floor(x1), 0), size[0] - 1)
    top = min(max(math.floor(y1), 0), size[1] - 1)
    right = max(left, min(math.ceil(x2), size[0]) - 1)
    bottom = max(top, min(math.ceil(y2), size[1]) - 1)
    return left, top, right, bottom


def fitting(text: str, font: ImageFont.FreeTypeFont, width: int, end: str = "") -> str:
    """Shortens a text in front of its end until both are no wider than that; all in one line."""
    text = visible(" ".join(text.split()))
    shown = text + end
    while text and font.getlength(shown) > width:
        text = text[:-1].rstrip()
        shown = f"{text}…{end}" if text else end.lstrip() or "…"
    return shown


def _margin(font: ImageFont.FreeTypeFont) -> int:
    return max(2, round(font.size / 5))


def _write_name(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont,
    box: Box,
    colour: tuple[int, int, int],
    taken: Sequence[Box],
    edges: tuple[int, int],
) -> Box:
    """Writes a name on its colour at one of the box's corners, and returns where it stands.

    The first place wins that is in the picture and free of other names; then the first that is
    free once it is moved into the picture.
    """
    margin = _margin(font)
    ascent, descent = font.getmetrics()
    width = math.ceil(font.getlength(text)) + 2 * margin
    height = ascent + descent + margin // 2
    left, top, right, bottom = box
    wanted = [
        (left, top - height),  # above
        (left, top),
        (left, bottom + 1),  # below
        (right + 1 - width, top),
        (left, bottom + 1 - height),
        (right + 1 - width, bottom + 1 - height),
    ]
    # Then under another name, not too far off.
    under = [(left, other[3]) for other in taken if abs(other[3] - top) < _STACK * height]
    wanted += sorted(under, key=lambda corner: abs(corner[1] - top))
    places = [_moved_inside(x, y, width, height, edges) for x, y in wanted]
    free = [place for place in places if not any(_touch(place, other) for other in taken)]
    unmoved = [p for p, w in zip(places, wanted, strict=True) if p in free and p[:2] == w]
    place = (unmoved or free or places)[0]
    draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
    light = np.dot(colour, (0.299, 0.587, 0.114)) > 140
    ink = "black" if light else "white"
    draw.text((place[0] + margin, place[1] + margin // 4), text, fill=ink, font=font)
    return place


def _moved_inside(x: int, y: int, width: int, height: int, edges: tuple[int, int]) -> Box:
    x = max(0, min(x, edges[0] - width))
    y = max(0, min(y, edges[1] - height))
    return x, y, x + width, y + height


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
