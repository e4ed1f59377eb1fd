"""What a JPEG or PNG file says about itself, read before anything is decoded.

Decoders trust a header: a file of a hundred bytes may claim a billion pixels, and memory is set
aside for them before the first is missing. They also fill up what is not there, and say so on
standard error at best.
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from mobilevit_jax.errors import DataError

# As many as Pillow takes without a warning: a quarter of a GiB in RGB.
MAX_PIXELS = 2**30 // 12

JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
END_OF_JPEG = b"\xff\xd9"
_START_OF_SCAN = 0xDA
# SOF0 to SOF15 describe the frame; C4, C8 and CC share the range but are other segments.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)  # with Huffman codes
_RESTARTS, _EXIF = 0xDD, 0xE1
_ORIENTATION = 0x0112  # EXIF's tag
_CHUNK_FRAME = 12  # bytes of a PNG chunk's length, type and checksum


class JPEGHeader(NamedTuple):
    """What stands before the pixels of a JPEG.

    Attributes:
        width: In pixels; 0 if no frame was found.
        height: In pixels.
        components: 1 is grey, 3 YCbCr, 4 CMYK; 0 if no frame was found.
        complete: Whether the image data has its end.
        orientation: EXIF's, from 1, which is upright; 5 to 8 lie on a side.
        height_at: Offset of the height, two bytes, if a smaller one leaves out rows at the end and
            nothing else: the frame is sequential, in one scan without restarts, and ends the file;
            else 0.
    """

    width: int
    height: int
    components: int
    complete: bool
    orientation: int = 1
    height_at: int = 0


class PNGHeader(NamedTuple):
    """What the chunks of a PNG tell.

    Attributes:
        width: In pixels.
        height: In pixels.
        depth: Bits of a value.
        color: PNG's colour type: 0 grey, 2 RGB, 3 palette, 4 and 6 with alpha.
        plain: Whether there is neither a transparent colour nor an animation.
        complete: Whether the last chunk is there.
        intact: Whether the checksums of all chunks that matter are right.
    """

    width: int
    height: int
    depth: int
    color: int
    plain: bool
    complete: bool
    intact: bool


def read_jpeg_header(data: bytes) -> JPEGHeader:
    """Walks the segments in front of the scan by their lengths.

    A thumbnail inside the EXIF segment is a whole JPEG with an end of its own, which says nothing
    about the picture.
    """
    width = height = components = height_at = 0
    orientation, restarts = 1, False
    position, size = 2, len(data)
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
            last = data.endswith(END_OF_JPEG)
            ended = last or data.find(END_OF_JPEG, position) > 0
            if restarts or not last or data[position + 4] != components:
                height_at = 0
            return JPEGHeader(width, height, components, ended, orientation, height_at)
        if marker == _EXIF and data.startswith(b"Exif\0\0", position + 4):
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
            orientation = _orientation(data[position + 10 : end])
        restarts |= marker == _RESTARTS
        if marker in _FRAME_MARKERS and position + 9 < size:
            height_at = position + 5 if marker in _SEQUENTIAL else 0
            height = int.from_bytes(data[position + 5 : position + 7])
            width = int.from_bytes(data[position + 7 : position + 9])
            components = data[position + 9]
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return JPEGHeader(width, height, components, False)


def _orientation(tiff: bytes) -> int:
    """Returns the orientation that an EXIF segment tells, 1 if it does not."""
    byteorder = "little" if tiff.startswith(b"II") else "big"
    first = int.from_bytes(tiff[4:8], byteorder)
    entries = int.from_bytes(tiff[first : first + 2], byteorder)
    for place in range(first + 2, min(first + 2 + 12 * entries, len(tiff)), 12):
        if int.from_bytes(tiff[place : place + 2], byteorder) == _ORIENTATION:
            return int.from_bytes(tiff[place + 8 : place + 10], byteorder)
    return 1


def read_png_header(data: bytes) -> PNGHeader | None:
    """Walks the chunks; None if the first is not the header that it must be."""
    if len(data) < 33 or data[12:16] != b"IHDR" or int.from_bytes(data[8:12]) != 13:
        return None
    kinds, intact = set(), True
    for kind, right in _chunks(data):
        kinds.add(kind)
        intact &= right
    return PNGHeader(
        width=int.from_bytes(data[16:20]),
        height=int.from_bytes(data[20:24]),
        depth=data[24],
        color=data[25],
        plain=not kinds & {b"tRNS", b"acTL", b"fcTL"},
        complete=b"IEND" in kinds,
        intact=intact,
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yields the type of each whole chunk up to the last, and whether it is as it was written.

    Decoders pass over a damaged chunk whose type begins with a small letter: it does not matter.
    """
    position, view = len(PNG), memoryview(data)
    while position + _CHUNK_FRAME <= len(data):
        end = position + _CHUNK_FRAME + int.from_bytes(data[position : position + 4])
        if end > len(data):
            return
        kind = data[position + 4 : position + 8]
        stored = int.from_bytes(data[end - 4 : end])
        matters = kind[:1].isupper()
        yield kind, not matters or zlib.crc32(view[position + 4 : end - 4]) == stored
        if kind == b"IEND":
            return
        position = end


def check_size(width: int, height: int, name: str) -> None:
    """Refuses an image that is too large to decode.

    Args:
        width: In pixels, as the file says.
        height: In pixels.
        name: What to call the image in the error.

    Raises:
        DataError: If it has more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{name}: says that it has {width} x {height} pixels, more than the {MAX_PIXELS:,} "
            "that are decoded; if it is not damaged, make it smaller"
        )
