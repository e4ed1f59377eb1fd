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

import functools
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
# What files of these formats are called, in small letters.
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".mpo", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
)

# JPEG is made of blocks of 8x8, which can be decoded into fewer pixels each.
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
REDUCTIONS = tuple(_REDUCED)
_SIDEWAYS = (5, 6, 7, 8)  # EXIF's orientations
# Upsampled colours of a row are mixed with those of the next row of them.
_ROWS_BELOW = 16


@functools.cache
def quiet_decoders() -> None:
    """Keeps OpenCV and Pillow from printing, in the whole process, from the first image on.

    Whatever they would say of a bad file is raised here, once, with the file's name. Once for all
    images, since filters of warnings are global: setting one for each would not be thread-safe.
    """
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # such as those of damaged metadata


def decode_image(
    data: bytes,
    *,
    name: str,
    channel_order: ChannelOrder = "bgr",
    reduction: int = 1,
    rows: int | None = None,
) -> np.ndarray:
    """Decodes an image file held in memory.

    Args:
        data: The whole file.
        name: What to call the image in an error, such as its path.
        channel_order: Order of the three channels; the published weights expect "bgr".
        reduction: One of `REDUCTIONS`. Above 1, a JPEG is decoded straight into so many times
            fewer rows and columns, rounded up, which is faster and smooths; other formats, and the
            JPEGs that Pillow decodes, keep their size.
        rows: How many rows of the whole image are wanted, if not all. What is below may be missing
            in the result, where that saves time; the rows above are the same.

    Returns:
        uint8 [h, w, 3], contiguous and writable.

    Raises:
        DataError: The bytes are empty, cut short, damaged, not an image, or one of more than
            `headers.MAX_PIXELS`; the message has `name`.
    """
    quiet_decoders()
    if channel_order not in ("bgr", "rgb"):
        raise ConfigurationError(f"channel_order must be 'bgr' or 'rgb', not {channel_order!r}")
    if not data:
        raise DataError(f"{name}: the file is empty")
    if reduction not in REDUCTIONS:
        raise ConfigurationError(f"reduction must be one of {REDUCTIONS}, not {reduction}")
    suits_opencv = _check_header(data, name)
    is_jpeg = data.startswith(headers.JPEG)
    flag, image = _REDUCED[reduction if is_jpeg else 1], None
    upper = _upper_part(data, rows) if is_jpeg and suits_opencv and rows else None
    if upper is not None:
        image = _decode_with_opencv(upper, flag)
    if image is None and suits_opencv:
        image = _decode_with_opencv(data, flag)
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


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Returns height and width of a JPEG as it will be decoded, or None of what is none.

    What a damaged EXIF segment says of the orientation the decoder may read otherwise.
    """
    if not data.startswith(headers.JPEG):
        return None
    jpeg = headers.read_jpeg_header(data)
    if not jpeg.complete or jpeg.components not in (1, 3):
        return None
    if jpeg.orientation in _SIDEWAYS:
        return jpeg.width, jpeg.height
    return jpeg.height, jpeg.width


def _upper_part(data: bytes, rows: int) -> bytearray | None:
    """Returns a JPEG that says it has few more than so many rows, or None if that saves nothing.

    The decoder stops after the last of them. Without an end it does not notice that bytes are left,
    about which it would complain on standard error.
    """
    jpeg = headers.read_jpeg_header(data)
    rows += _ROWS_BELOW
    if not jpeg.height_at or jpeg.orientation != 1 or rows > jpeg.height - _ROWS_BELOW:
        return None
    if data.find(headers.END_OF_JPEG, jpeg.height_at) != len(data) - len(headers.END_OF_JPEG):
        return None  # another picture behind the first, such as a camera's preview
    upper = bytearray(data[: -len(headers.END_OF_JPEG)])
    upper[jpeg.height_at : jpeg.height_at + 2] = rows.to_bytes(2)
    return upper


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


def _decode_with_opencv(data: bytes | bytearray, flag: int) -> np.ndarray | None:
    """Returns uint8 [h, w, 3] in BGR, or None if OpenCV cannot or will not decode the bytes."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flag)
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

    Raises:
        DataError: If it is no such image, or has 32 bits.
    """
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        what = type(image).__name__
        raise DataError(f"{name} must be a path, a Pillow image or an array, not {what}")
    quiet_decoders()
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
