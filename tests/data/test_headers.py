"""Images that claim more than they have, and other damage that decoders pass over."""

import io
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.headers import MAX_PIXELS, read_jpeg_header, read_png_header
from mobilevit_jax.data.masks import decode_mask
from mobilevit_jax.errors import DataError
from tests.fuzz.targets import encoded_images

FILES = encoded_images()


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def png(width: int, height: int, color: int, rows: bytes = bytes(100)) -> bytes:
    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, color, 0, 0, 0])
    palette = chunk(b"PLTE", bytes(6)) if color == 3 else b""
    data = chunk(b"IDAT", zlib.compress(rows))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + palette + data + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(FILES["progressive.jpg"])
    place = data.index(b"\xff\xc2")
    data[place + 5 : place + 9] = height.to_bytes(2) + width.to_bytes(2)
    return bytes(data)


def patched(name: str, place: int, numbers: bytes) -> bytes:
    data = bytearray(FILES[name])
    data[place : place + len(numbers)] = numbers
    return bytes(data)


HUGE = {
    # As the fuzz found it: a changed width of a PNG took 4 GiB and twelve seconds.
    "png": png(2**16 + 28, 20_000, 2),
    "grey png": png(2**16, 2**16, 0),
    "palette png": png(2**31 - 1, 2**31 - 1, 3),
    "alpha png": png(30_000, 30_000, 6),
    "jpeg": jpeg(65_000, 65_000),
    "gif": patched("plain.gif", 6, b"\xff\xff\xff\xff"),
    "bmp": patched("plain.bmp", 18, (30_000).to_bytes(4, "little") * 2),
    "webp": patched("lossless.webp", 24, b"\xff\x3f\x00\xff\x3f\x00"),
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_small_file_that_claims_a_huge_picture(kind, capfd):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # as `decode` sets it; pytest undoes it
        # Pillow has a limit of its own, twice as high, and looks first.
        with pytest.raises(DataError, match=r"^cat\.img: (says that it has|Image size) .*pixels"):
            decode_image(HUGE[kind], name="cat.img")
    assert capfd.readouterr().err == ""


def test_masks_too():
    for kind in ("grey png", "palette png"):
        with pytest.raises(DataError, match=r"^m\.png: says that it has"):
            decode_mask(HUGE[kind], name="m.png")


def test_what_is_just_small_enough_is_decoded():
    side = int(MAX_PIXELS**0.5)
    rows = bytes((side + 1) * 100)
    # Too few rows are there: the size was no reason to refuse it.
    with pytest.raises(DataError, match="not an image that can be decoded"):
        decode_image(png(side, side, 6, rows[:100]), name="x")
    assert decode_image(png(100, 90, 0, bytes(101 * 90)), name="x").shape == (90, 100, 3)


def test_limits_hold_in_a_process_of_its_own(tmp_path):
    """Memory and standard error as a user sees them."""
    for name, data in HUGE.items():
        (tmp_path / name).write_bytes(data)
    script = """
import resource, sys
from pathlib import Path
from mobilevit_jax.data.decode import read_image
from mobilevit_jax.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in Path(sys.argv[1]).iterdir():
    try:
        read_image(path)
    except DataError:
        continue
    raise AssertionError(path)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-c", script, tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    assert int(ran.stdout) < 100 * 1024  # kilobytes


class TestPNG:
    def test_a_bit_turned_anywhere_that_matters_is_found(self, capfd):
        data = FILES["grey.png"]
        expected = decode_image(data, name="x")
        for place in range(8, len(data)):
            changed = bytearray(data)
            changed[place] ^= 4
            try:
                np.testing.assert_array_equal(decode_image(bytes(changed), name="x"), expected)
            except DataError as error:
                assert str(error).startswith("x: ")
        assert "libpng error" not in capfd.readouterr().err

    def test_headers(self):
        header = read_png_header(FILES["plain.png"])
        assert header is not None
        assert header[:4] == (28, 20, 8, 2) and header.plain and header.complete and header.intact
        for name, color in (("palette.png", 3), ("alpha.png", 6), ("animated.png", 2)):
            header = read_png_header(FILES[name])
            assert header is not None and header.color == color
            assert header.plain == (name == "alpha.png")
        assert read_png_header(b"\x89PNG\r\n\x1a\n" + bytes(40)) is None

    def test_the_first_picture_of_an_animation(self):
        np.testing.assert_array_equal(
            decode_image(FILES["animated.png"], name="x").shape, (20, 28, 3)
        )


def test_jpeg_headers():
    assert read_jpeg_header(FILES["plain.jpg"])[:4] == (28, 20, 3, True)
    assert read_jpeg_header(FILES["grey.jpg"]).components == 1
    assert read_jpeg_header(FILES["cmyk.jpg"]).components == 4
    assert read_jpeg_header(b"\xff\xd8\xff") == (0, 0, 0, False, 1, 0)


def test_where_the_height_of_a_jpeg_may_be_changed():
    plain = FILES["plain.jpg"]
    place = read_jpeg_header(plain).height_at
    assert plain[place : place + 4] == (20).to_bytes(2) + (28).to_bytes(2)
    assert read_jpeg_header(FILES["progressive.jpg"]).height_at == 0
    assert read_jpeg_header(plain + b"trailer").height_at == 0
    picture = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", restart_marker_rows=1)
    assert read_jpeg_header(buffer.getvalue()).height_at == 0


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_orientations(orientation, byteorder):
    exif = Image.Exif()
    exif.endian = byteorder
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "JPEG", exif=exif)
    assert read_jpeg_header(buffer.getvalue()).orientation == orientation


@pytest.mark.parametrize("end", range(4, 40, 5))
def test_exif_that_is_cut_short(end):
    tiff = (b"MM\0*" + (8).to_bytes(4) + (2**16 - 1).to_bytes(2) + bytes(30))[:end]
    length = (len(tiff) + 8).to_bytes(2)
    data = FILES["grey.jpg"]
    data = data[:2] + b"\xff\xe1" + length + b"Exif\0\0" + tiff + data[2:]
    assert read_jpeg_header(data)[:5] == (28, 20, 1, True, 1)


def test_formats_that_start_programs_are_not_read():
    postscript = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(postscript, "EPS")
    Image.open(io.BytesIO(postscript.getvalue()))  # Pillow would run Ghostscript to decode it
    with pytest.raises(DataError, match="not an image that can be decoded"):
        decode_image(postscript.getvalue(), name="x")
