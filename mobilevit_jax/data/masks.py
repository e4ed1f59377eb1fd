"""Masks: images of one class index a pixel, kept as greyscale PNG."""

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from mobilevit_jax.data import headers
from mobilevit_jax.data.decode import quiet_decoders
from mobilevit_jax.data.sources import DatasetInfo
from mobilevit_jax.data.voc_names import VOID, voc_palette
from mobilevit_jax.errors import DataError

_GREY, _RGB, _PALETTE, _ALPHA = 0, 2, 3, (4, 6)  # colour types of PNG
_WHAT = "a mask must be a PNG with a class index a pixel, greyscale of 8 bits or with a palette"


def decode_mask(data: bytes, *, name: str) -> np.ndarray:
    """Decodes a mask held in memory; of a palette's image the indices count, not the colours.

    Args:
        data: The whole file.
        name: What to call it in an error, such as its path.

    Returns:
        uint8 [h, w], contiguous and writable.

    Raises:
        DataError: It is not such a PNG, cut short, damaged or too large (`headers.MAX_PIXELS`); the
            message has `name`.
    """
    header = _header(data, name)
    mask = None
    if header.color == _GREY and header.depth == 8:
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    elif header.color == _PALETTE:
        mask = _with_pillow(data, "P")
    else:
        raise DataError(f"{name}: {_content(header)} instead of class indices; {_WHAT}")
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f"{name}: not an image that can be decoded, or cut short")
    return mask


def decode_colors(data: bytes, *, name: str) -> np.ndarray | None:
    """Decodes a mask whose classes are told by colours, RGB of 8 bits or with a palette.

    Args:
        data: The whole file.
        name: What to call it in an error, such as its path.

    Returns:
        uint8 [h, w, 3] in RGB, or None of a greyscale PNG of 8 bits, whose values may be meant.

    Raises:
        DataError: It is neither, cut short, damaged or too large; the message has `name`.
    """
    header = _header(data, name)
    if header.color == _GREY and header.depth == 8:
        return None
    if header.color not in (_RGB, _PALETTE) or header.depth > 8:
        raise DataError(
            f"{name}: {_content(header)}; save it as RGB of 8 bits, greyscale or with a palette"
        )
    colors = _with_pillow(data, "RGB")
    if colors is None:
        raise DataError(f"{name}: not an image that can be decoded, or cut short")
    return colors


def encode_mask(mask: np.ndarray) -> bytes:
    """Encodes uint8 [h, w] as a greyscale PNG, without loss."""
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"a mask is uint8 [h, w], not {mask.dtype} {list(mask.shape)}")
    # Areas of one value: the quickest setting compresses them well enough.
    done, data = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError("OpenCV could not encode a PNG image")
    return data.tobytes()


def to_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    """Turns a record of a data set with masks into the form that segmentation uses.

    Args:
        record: From `Split.records`: voc_segmentation's, coco_segmentation's, or shapes'.

    Returns:
        {"image": bytes, "mask": bytes (for `decode_mask`), "name": str}.

    Raises:
        DataError: If it has no mask.
    """
    if "mask" not in record:
        raise DataError(f"{record['name']} has no mask: its data set is not one for segmentation")
    return {key: record[key] for key in ("image", "mask", "name")}


def mask_class_names(info: DatasetInfo) -> tuple[str, ...]:
    """Returns the name of each value of a data set's masks.

    Where the masks have no names of their own (`shapes`), the labels' names follow "background".
    """
    return info.mask_names or ("background", *info.class_names)


def has_background(class_names: Sequence[str]) -> bool:
    """Whether class 0 is what belongs to no other class, so that pictures leave it as it is.

    Where nobody named it, it is taken to be, as in VOC.
    """
    first = class_names[0] if class_names else ""
    return first.strip("_ ").lower() in ("", "background", "label_0")


def mask_palette(class_names: Sequence[str]) -> np.ndarray:
    """Returns the colour of each class, uint8 [256, 3] in RGB: VOC's.

    Black is for a background; where class 0 is none, the colours move up by one.
    """
    palette = voc_palette()
    return palette if has_background(class_names) else np.r_[palette[1:VOID], palette[[0, VOID]]]


def check_size(
    mask: np.ndarray, image: np.ndarray, *, name: str, image_name: str = "its image"
) -> None:
    """Checks that a mask [h, w] is as large as its image [h, w, 3].

    Raises:
        DataError: Has both names and both sizes.
    """
    if mask.shape != image.shape[:2]:
        sideways = mask.shape[::-1] == image.shape[:2]
        raise DataError(
            f"{name} is {mask.shape[1]}x{mask.shape[0]}, but {image_name} is "
            f"{image.shape[1]}x{image.shape[0]}{', perhaps by EXIF orientation' * sideways}"
        )


def _header(data: bytes, name: str) -> headers.PNGHeader:
    """Returns the header of a whole PNG of a size that is decoded."""
    quiet_decoders()
    if not data:
        raise DataError(f"{name}: the file is empty")
    if data.startswith(headers.JPEG):
        raise DataError(f"{name}: a JPEG, which blurs the edges between classes; {_WHAT}")
    header = headers.read_png_header(data) if data.startswith(headers.PNG) else None
    if header is None:
        raise DataError(f"{name}: not a PNG; {_WHAT}")
    if not header.complete or not header.intact:
        raise DataError(f"{name}: the file is damaged or was cut short; copy or download it again")
    headers.check_size(header.width, header.height, name)
    return header


def _content(header: headers.PNGHeader) -> str:
    """Says what a PNG that is no mask has."""
    if header.color in _ALPHA:
        return "an alpha channel"
    if header.color == _RGB and header.depth == 8:
        return "colours of 8 bits"
    return f"{header.depth}-bit values"


def _with_pillow(data: bytes, mode: str) -> np.ndarray | None:
    """Returns the places in the palette, where OpenCV would give the colours, or RGB."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if mode == "RGB":
                return np.array(image.convert(mode))
            return np.array(image) if image.mode == mode else None
    except Exception:  # Pillow's plugins raise whatever their parsing trips over
        return None
