"""Pictures of masks: classes laid over an image in `mask_palette`'s colours, with a legend."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mobilevit_jax.analysis.plots_detection import fitting, font_of, grid, resized, save_png
from mobilevit_jax.data.masks import has_background, mask_palette
from mobilevit_jax.data.voc_names import VOID

__all__ = ["compare", "grid", "legend", "overlay", "save_png"]

# Images whose long side is shorter are enlarged, else there would be no room for a legend.
_LEAST_SIDE = 480
_TEXT, _FAINT, _SWATCH_EDGE = (34, 34, 34), (110, 110, 110), (120, 120, 120)
_TINT = 0.62  # share of the class's colour inside an outline


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    class_names: Sequence[str],
    *,
    side: int | None = None,
) -> np.ndarray:
    """Lays a mask over its image; a legend below names the classes that it has.

    A background (`has_background`) stays as it is. Text and outlines grow with the image.

    Args:
        image: uint8 [h, w, 3] in RGB; not changed.
        mask: uint8 [h, w], a class index a pixel, 255 for void.
        class_names: By class index.
        side: Length of the long side of the image in the result, in pixels. None keeps the image's,
            but an image below 480 pixels is enlarged by a whole factor.

    Returns:
        uint8 [h', w', 3] in RGB.

    Raises:
        ValueError: If image and mask differ in size.
    """
    painted = _painted(image, mask, class_names, side)
    return _with_legend(painted, [mask], class_names)


def compare(
    image: np.ndarray,
    mask: np.ndarray,
    class_names: Sequence[str],
    truth: np.ndarray | None = None,
    *,
    side: int | None = None,
) -> np.ndarray:
    """Puts an image, its mask laid over it and the true one side by side, as in Figure 17.

    Args:
        image: See `overlay`.
        mask: See `overlay`.
        class_names: See `overlay`.
        truth: uint8 [h, w], the true mask, or None for two panels.
        side: See `overlay`; of one panel.

    Returns:
        uint8 [h', w', 3] in RGB, the panels' names above and one legend below.

    Raises:
        ValueError: If image and masks differ in size.
    """
    masks = [mask] if truth is None else [mask, truth]
    panels = [_enlarged(image, side), *(_painted(image, m, class_names, side) for m in masks)]
    titles = ("image", "prediction", "ground truth")
    gap = max(4, panels[0].shape[1] // 60)
    font = font_of(_text_size(panels[0].shape))
    head = round(1.6 * font.size)
    width = sum(panel.shape[1] for panel in panels) + gap * (len(panels) - 1)
    sheet = Image.new("RGB", (width, head + panels[0].shape[0]), "white")
    draw = ImageDraw.Draw(sheet)
    left = 0
    for title, panel in zip(titles, panels, strict=False):
        draw.text((left, 0.2 * font.size), title, _FAINT, font)
        sheet.paste(Image.fromarray(panel), (left, head))
        left += panel.shape[1] + gap
    return _with_legend(np.asarray(sheet), masks, class_names, font)


def legend(
    masks: Sequence[np.ndarray],
    class_names: Sequence[str],
    width: int,
    font: ImageFont.FreeTypeFont,
) -> np.ndarray:
    """Draws the colours and names of the classes that masks have, the largest first.

    Args:
        masks: uint8 [h, w] each.
        class_names: By class index; an index without a name is shown as a number.
        width: Of the result in pixels; entries go on in the next line.
        font: For the names.

    Returns:
        uint8 [h, width, 3] in RGB.
    """
    entries, palette = _entries(masks, class_names), mask_palette(class_names)
    line, pad, box = round(1.7 * font.size), round(0.5 * font.size), round(font.size)
    places, left, top = [], pad, round(0.4 * font.size)
    fitted = [fitting(name, font, width - 3 * pad - box) for _, name in entries]
    for text in fitted:
        needed = box + pad + math.ceil(font.getlength(text))
        if left + needed + pad > width and left > pad:
            left, top = pad, top + line
        places.append((left, top))
        left += needed + 2 * pad
    strip = Image.new("RGB", (width, top + line), "white")
    draw = ImageDraw.Draw(strip)
    for (index, _), text, (left, top) in zip(entries, fitted, places, strict=True):
        clear = index == 0 and has_background(class_names)
        colour = (255, 255, 255) if clear else tuple(palette[index].tolist())
        draw.rectangle((left, top, left + box, top + box), colour, _SWATCH_EDGE)
        draw.text((left + box + pad, top + box / 2), text, _TEXT, font, anchor="lm")
    return np.asarray(strip)


def _entries(masks: Sequence[np.ndarray], class_names: Sequence[str]) -> list[tuple[int, str]]:
    """Returns class indices and names, the largest class first; the background if it is alone."""
    counts = np.sum([np.bincount(mask.ravel(), minlength=VOID + 1) for mask in masks], axis=0)
    order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    last = (0, VOID) if has_background(class_names) else (VOID,)
    there = [index for index in order if index not in last] + [VOID] * (VOID in order)
    return [(index, _name(index, class_names)) for index in there or [0]]


def _name(index: int, class_names: Sequence[str]) -> str:
    if index < len(class_names):
        return class_names[index]
    return "void" if index == VOID else str(index)


def _painted(
    image: np.ndarray, mask: np.ndarray, class_names: Sequence[str], side: int | None
) -> np.ndarray:
    """Returns the enlarged image with the mask's colours over it and around its regions."""
    if image.shape[:2] != mask.shape:
        raise ValueError(
            f"the mask is {mask.shape[1]}x{mask.shape[0]}, the image "
            f"{image.shape[1]}x{image.shape[0]}"
        )
    large = _enlarged(image, side)
    height, width = large.shape[:2]
    classes = np.asarray(
        cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
    )
    colours = mask_palette(class_names)[classes]
    blended = cv2.addWeighted(large, 1 - _TINT, colours, _TINT, 0)
    clear = (classes == 0) & has_background(class_names)
    blended[clear] = large[clear]
    reach = max(1, round(max(height, width) / 400))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    edge = (cv2.erode(classes, kernel) != classes) | (cv2.dilate(classes, kernel) != classes)
    edge &= ~clear
    blended[edge] = colours[edge]
    return blended


def _enlarged(image: np.ndarray, side: int | None) -> np.ndarray:
    long_side = max(image.shape[:2])
    scale = side / long_side if side else math.ceil(_LEAST_SIDE / long_side)
    return np.asarray(resized(image, scale))


def _with_legend(
    picture: np.ndarray,
    masks: Sequence[np.ndarray],
    class_names: Sequence[str],
    font: ImageFont.FreeTypeFont | None = None,
) -> np.ndarray:
    font = font or font_of(_text_size(picture.shape))
    # A tall, narrow picture gets room for a name beside it.
    width = max(picture.shape[1], round(10 * font.size))
    wide = np.full((picture.shape[0], width, 3), 255, np.uint8)
    wide[:, : picture.shape[1]] = picture
    return np.concatenate([wide, legend(masks, class_names, width, font)])


def _text_size(shape: tuple[int, ...]) -> int:
    return max(13, round(max(shape[:2]) / 36))
