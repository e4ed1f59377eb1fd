"""Masks: images of one class index a pixel, kept as greyscale PNG."""

import io
from typing import Any

import cv2
import numpy as np

from mobilevit_jax.data import headers
from mobilevit_jax.data.decode import quiet_decoders
from mobilevit_jax.data.sources import DatasetInfo
from mobilevit_jax.errors import DataError

_GREY, _PALETTE = 0, 3  # colour types of PNG
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
    quiet_decoders()
    if not data:
        raise DataError(f"{name}: the file is empty")
    header = headers.read_png_header(data) if data.startswith(headers.PNG) else None
    if header is None:
        raise DataError(f"{name}: not a PNG; {_WHAT}")
    if not header.complete or not header.intact:
        raise DataError(f"{name}: the file is damaged or was cut short; copy or download it again")
    headers.check_size(header.width, header.height, name)
    depth, color = header.depth, header.color
    mask = None
    if color == _GREY and depth == 8:
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    elif color == _PALETTE:
        mask = _palette_indices(data)
    else:
        raise DataError(f"{name}: colours or {depth}-bit values instead of class indices; {_WHAT}")
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f"{name}: not an image that can be decoded, or cut short")
    return mask


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
    """Returns the name of each value of a data set's masks: the background, then the classes.

    Where the masks have no names of their own (`shapes`), the labels' names follow "background".
    """
    if info.class_names[:1] == ("background",):
        return info.class_names
    return ("background", *info.class_names)


def _palette_indices(data: bytes) -> np.ndarray | None:
    """Returns uint8 [h, w]: the places in the palette; OpenCV would give the colours."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image) if image.mode == "P" else None
    except Exception:  # Pillow's plugins raise whatever their parsing trips over
        return None
