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
was cut short is an error, although most decoders would fill the missing part with grey. So is one
that claims more than `headers.MAX_PIXELS`, 89 million: whatever a file says of itself, decoding
takes less than 2 GiB.
"""

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from mobilevit_jax.data import headers
from mobilevit_jax.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

ChannelOrder = Literal["bgr", "rgb"]

# Formats that Pillow is asked to try. It knows others that start programs (EPS runs Ghostscript).
_PILLOW_FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "MPO", "PPM", "JPEG2000", "AVIF"),
)

if "OPENCV_LOG_LEVEL" not in os.environ:
    # Whatever OpenCV would print about a bad file is raised here, once, with the file's name.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# So would Pillow's warnings about damaged metadata. Filters are global, and setting one for each
# image would not be thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_image(data: bytes, *, name: str, channel_order: ChannelOrder = "bgr") -> np.ndarray:
    """Decodes an image file held in memory.

    Args:
        data: The whole file.
        name: What to call the image in an error, such as its path.
        channel_order: Order of the three channels; the published weights expect "bgr".

    Returns:
        uint8 [h, w, 3], contiguous and writable.

    Raises:
        DataError: The bytes are empty, cut short, damaged, not an image, or one of more than
            `headers.MAX_PIXELS`; the message has `name`.
    """
    if channel_order not in ("bgr", "rgb"):
        raise ConfigurationError(f"channel_order must be 'bgr' or 'rgb', not {channel_order!r}")
    if not data:
        raise DataError(f"{name}: the file is empty")
    suits_opencv = _check_header(data, name)
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


def _check_header(data: bytes, name: str) -> bool:
    """Refuses what is cut short, damaged or too large; returns whether OpenCV decodes it right."""
    complete, suits_opencv = True, False  # Pillow notices a cut in other formats
    if data.startswith(headers.JPEG):
        jpeg = headers.read_jpeg_header(data)
        headers.check_size(jpeg.width, jpeg.height, name)
        complete, suits_opencv = jpeg.complete, jpeg.components in (1, 3)
    elif data.startswith(headers.PNG):
        png = headers.read_png_header(data)
        if png is None or not png.complete or not png.intact:
            complete = False
        else:
            headers.check_size(png.width, png.height, name)
            suits_opencv = png.plain and png.depth == 8 and png.color in (0, 2)
    if not complete:
        raise DataError(f"{name}: the file is damaged or was cut short; copy or download it again")
    return suits_opencv


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
        Image.init()
        formats = [kind for kind in _PILLOW_FORMATS if kind in Image.OPEN]
        with Image.open(io.BytesIO(data), formats=formats) as opened:
            headers.check_size(*opened.size, name)
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
