"""Bytes of an image file to pixels: OpenCV for the usual files, Pillow for the unusual ones.

OpenCV is the faster decoder and the one behind the published checkpoints. It decodes here what it
decodes right: JPEG with one or three components and opaque 8-bit PNG. Everything else goes to
Pillow, with one rule for each oddity:

* transparency (alpha channel or transparent palette entry) is laid over white;
* greyscale and palettes become three channels;
* 16-bit values keep their upper eight bits;
* CMYK and YCCK are converted by the plain formula, without colour profiles;
* the first frame of an animation is the image;
* the orientation of the camera (EXIF) is applied, also by OpenCV.

Both libraries decode outside the GIL, so that threads help, and both are thread-safe. A file that
was cut short is an error, although most decoders would fill the missing part with grey.
"""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from mobilevit_jax.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

ChannelOrder = Literal["bgr", "rgb"]

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_END_OF_JPEG = b"\xff\xd9"
_START_OF_SCAN = 0xDA
# SOF0 to SOF15 describe the frame; C4, C8 and CC share the range but are other segments.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

if "OPENCV_LOG_LEVEL" not in os.environ:
    # Whatever OpenCV would print about a bad file is raised here, once, with the file's name.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode_image(data: bytes, *, name: str, channel_order: ChannelOrder = "bgr") -> np.ndarray:
    """Decodes an image file held in memory.

    Args:
        data: The whole file.
        name: What to call the image in an error, such as its path.
        channel_order: Order of the three channels; the published weights expect "bgr".

    Returns:
        uint8 [h, w, 3], contiguous and writable.

    Raises:
        DataError: The bytes are empty, cut short, or not an image; the message has `name`.
    """
    if channel_order not in ("bgr", "rgb"):
        raise ConfigurationError(f"channel_order must be 'bgr' or 'rgb', not {channel_order!r}")
    if not data:
        raise DataError(f"{name}: the file is empty")
    if data.startswith(_JPEG):
        components, complete = _inspect_jpeg(data)
        suits_opencv = components in (1, 3)
    elif data.startswith(_PNG):
        complete = data.rfind(b"IEND") > 0
        suits_opencv = _is_plain_png(data)
    else:
        complete, suits_opencv = True, False  # Pillow notices a cut in the other formats
    if not complete:
        raise DataError(f"{name}: the file was cut short; copy or download it again")
    image = _decode_with_opencv(data) if suits_opencv else None
    if image is not None:
        return image if channel_order == "bgr" else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    image = _decode_with_pillow(data, name)
    return np.ascontiguousarray(image[:, :, ::-1]) if channel_order == "bgr" else image


def read_image(path: str | Path, *, channel_order: ChannelOrder = "bgr") -> np.ndarray:
    """Reads and decodes an image file; see `decode_image`.

    Raises:
        DataError: The file is missing, unreadable or not a whole image; the message has its path.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return decode_image(data, name=str(path), channel_order=channel_order)


def _inspect_jpeg(data: bytes) -> tuple[int, bool]:
    """Returns the number of components (0 if not found) and whether the image data has its end.

    The segments before the scan are walked by their lengths: a thumbnail inside the EXIF segment
    is a whole JPEG with an end of its own, which says nothing about the picture.
    """
    components, position, size = 0, 2, len(data)
    while position + 4 <= size:
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _START_OF_SCAN:
            # Entropy-coded data never contains the end marker, so the first one found is it;
            # cameras append other things behind it.
            ended = data.endswith(_END_OF_JPEG) or data.find(_END_OF_JPEG, position) > 0
            return components, ended
        if marker in _FRAME_MARKERS and position + 9 < size:
            components = data[position + 9]
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return components, False


def _is_plain_png(data: bytes) -> bool:
    """Whether a PNG is opaque RGB or greyscale with eight bits a channel."""
    if len(data) < 33 or data[24] != 8 or data[25] not in (0, 2):
        return False
    return b"tRNS" not in data[: max(data.find(b"IDAT"), 0)]


def _decode_with_opencv(data: bytes) -> np.ndarray | None:
    """Returns uint8 [h, w, 3] in BGR, or None if OpenCV cannot or will not decode the bytes."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None  # for example more pixels than OpenCV allows; Pillow gives the reason


def _decode_with_pillow(data: bytes, name: str) -> np.ndarray:
    """Returns uint8 [h, w, 3] in RGB."""
    from PIL import Image  # most data sets never need it

    try:
        with Image.open(io.BytesIO(data)) as opened:
            return pillow_to_rgb(opened, name=name)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: {error}") from error
    # Pillow's plugins raise whatever their parsing trips over when a file is damaged.
    except Exception as error:
        raise DataError(f"{name}: not an image that can be decoded, or cut short") from error


def pillow_to_rgb(image: "Image", *, name: str) -> np.ndarray:
    """Converts a Pillow image of any mode, by the rules at the top of this file.

    Args:
        image: The image; not changed.
        name: What to call it in an error.

    Returns:
        uint8 [h, w, 3] in RGB, contiguous.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        # No rule says which of such values is white.
        raise DataError(f"{name}: 32-bit images are not supported; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def as_rgb(image: "str | Path | np.ndarray | Image", index: int) -> np.ndarray:
    """Returns an image as an array in RGB; arrays pass as they are.

    Args:
        image: A path, a Pillow image or an array.
        index: Its place in a list, for messages.

    Raises:
        DataError: If it cannot be read; it is named.
    """
    if isinstance(image, str | Path):
        return read_image(image, channel_order="rgb")
    return image if isinstance(image, np.ndarray) else pillow_to_rgb(image, name=f"image {index}")
