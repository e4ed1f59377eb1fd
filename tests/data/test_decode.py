import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from mobilevit_jax.data.decode import decode_image, jpeg_size, read_image
from mobilevit_jax.errors import ConfigurationError, DataError

ORIENTATION = 0x0112


def smooth_rgb(height=40, width=52):
    """A picture without sharp edges, so that lossy formats keep it within a few levels."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    channels = [np.sin(3 * x + 1), np.cos(4 * y), np.sin(2 * (x + y))]
    return (np.stack(channels, -1) * 100 + 128).astype(np.uint8)


def encode(image, file_format, **options):
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def assert_close(actual, expected, levels):
    assert actual.dtype == np.uint8 and actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected).max() <= levels


@pytest.mark.parametrize(
    ("file_format", "options", "levels"),
    [
        ("JPEG", {"quality": 98, "subsampling": 0}, 6),
        ("JPEG", {"quality": 98, "subsampling": 0, "progressive": True}, 6),
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("GIF", {}, 40),
        ("TIFF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 100}, 16),
    ],
)
def test_formats_and_channel_order(file_format, options, levels):
    data = encode(smooth_rgb(), file_format, **options)
    bgr = decode_image(data, name="x")
    rgb = decode_image(data, name="x", channel_order="rgb")
    assert_close(rgb, smooth_rgb(), levels)
    np.testing.assert_array_equal(bgr, rgb[:, :, ::-1])
    for image in (bgr, rgb):
        assert image.flags.c_contiguous and image.flags.writeable


def test_jpeg_equals_opencv():
    data = encode(smooth_rgb(), "JPEG")
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_image(data, name="x"), expected)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white(file_format):
    rgba = np.dstack([smooth_rgb(), np.full((40, 52), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    rgba[20:30, :, 3] = 128
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    image = decode_image(encode(rgba, file_format, **options), name="x", channel_order="rgb")
    assert (image[:20] == 255).all()
    assert_close(image[20:30], smooth_rgb()[20:30] // 2 + 127, 2)
    np.testing.assert_array_equal(image[30:], smooth_rgb()[30:])


def test_grey_with_alpha():
    pixels = np.full((5, 4, 2), 100, np.uint8)
    pixels[0, :, 1] = 0
    pixels[1:, :, 1] = 255
    image = decode_image(encode(Image.fromarray(pixels, "LA"), "PNG"), name="x")
    assert image.shape == (5, 4, 3)
    assert (image[0] == 255).all() and (image[1:] == 100).all()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_greyscale_becomes_three_channels(file_format):
    grey = smooth_rgb()[:, :, 0]
    image = decode_image(encode(grey, file_format), name="x")
    assert_close(image, np.repeat(grey[:, :, None], 3, 2), 4)
    assert (image[:, :, 0] == image[:, :, 2]).all()


def test_black_and_white():
    bits = Image.fromarray(smooth_rgb()[:, :, 0] > 150)
    image = decode_image(encode(bits, "PNG"), name="x")
    np.testing.assert_array_equal(image[:, :, 1], (smooth_rgb()[:, :, 0] > 150) * 255)


def test_grey_png_with_16_bits_keeps_its_range():
    wide = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    image = decode_image(encode(Image.fromarray(wide), "PNG"), name="x")
    np.testing.assert_array_equal(image, np.repeat((wide >> 8).astype(np.uint8)[:, :, None], 3, 2))


def test_colour_png_with_16_bits():
    bgr = smooth_rgb().astype(np.uint16) * 256 + 77
    data = cv2.imencode(".png", bgr)[1].tobytes()
    np.testing.assert_array_equal(decode_image(data, name="x"), smooth_rgb())


def test_palette_with_a_transparent_entry():
    image = Image.new("P", (6, 4), 1)
    image.putpalette([255, 0, 0, 0, 200, 0])
    image.putpixel((0, 0), 0)
    decoded = decode_image(encode(image, "PNG", transparency=0), name="x", channel_order="rgb")
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[3, 5].tolist() == [0, 200, 0]
    opaque = decode_image(encode(image, "PNG"), name="x", channel_order="rgb")
    assert opaque[0, 0].tolist() == [255, 0, 0]


def test_transparent_colour_of_an_rgb_png():
    data = encode(np.full((4, 4, 3), 9, np.uint8), "PNG", transparency=(9, 9, 9))
    assert (decode_image(data, name="x") == 255).all()


def test_cmyk_jpeg_has_its_colours():
    data = encode(Image.fromarray(smooth_rgb()).convert("CMYK"), "JPEG", quality=98)
    assert_close(decode_image(data, name="x", channel_order="rgb"), smooth_rgb(), 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(file_format, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture = smooth_rgb()
    picture[:15, :10] = 0  # a corner that tells all eight apart
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(picture, file_format, exif=exif, **options)
    stored = Image.fromarray(picture)
    stored.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(stored))
    decoded = decode_image(data, name="x", channel_order="rgb")
    assert decoded.shape == expected.shape
    difference = np.abs(decoded.astype(int) - expected)
    assert difference.mean() < 4  # the black corner alone would make far more in a wrong place
    assert decoded.shape == ((52, 40, 3) if orientation >= 5 else (40, 52, 3))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP"])
def test_images_one_pixel_wide(file_format, size):
    data = encode(np.full((*size, 3), 77, np.uint8), file_format)
    assert_close(decode_image(data, name="x"), np.full((*size, 3), 77), 3)


def jpeg_with_thumbnail():
    thumbnail = encode(smooth_rgb(8, 8), "JPEG")
    segment = b"Exif\0\0" + thumbnail
    data = encode(smooth_rgb(300, 300), "JPEG")
    length = (len(segment) + 2).to_bytes(2)
    return data[:2] + b"\xff\xe1" + length + segment + data[2:]


CUT = {
    "jpeg": encode(smooth_rgb(300, 300), "JPEG"),
    "progressive": encode(smooth_rgb(300, 300), "JPEG", progressive=True),
    "thumbnail": jpeg_with_thumbnail(),
    "cmyk": encode(Image.fromarray(smooth_rgb()).convert("CMYK"), "JPEG"),
    "png": encode(smooth_rgb(), "PNG"),
    "rgba": encode(Image.fromarray(smooth_rgb()).convert("RGBA"), "PNG"),
    "webp": encode(smooth_rgb(), "WEBP"),
    "bmp": encode(smooth_rgb(), "BMP"),
}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("kind", CUT)
def test_a_cut_file_is_an_error_and_not_a_half_grey_picture(kind, share, capfd):
    data = CUT[kind]
    assert decode_image(data, name="whole").ndim == 3
    with pytest.raises(DataError, match=r"^some/cat\.jpg: .*cut short"):
        decode_image(data[: int(len(data) * share)], name="some/cat.jpg")
    assert capfd.readouterr().err == ""


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm():
    data = encode(smooth_rgb(), "JPEG")
    expected = decode_image(data, name="x")
    np.testing.assert_array_equal(decode_image(data + b"trailer" * 9, name="x"), expected)


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image at all\n" * 20, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", bytes(1000)],
    ids=["empty", "text", "jpeg start", "png start", "zeros"],
)
def test_what_is_no_image_is_named(data, capfd):
    with pytest.raises(DataError, match=r"^photos/7\.png: "):
        decode_image(data, name="photos/7.png")
    assert capfd.readouterr().err == ""


def test_damage_inside_a_png():
    data = bytearray(encode(smooth_rgb(), "PNG"))
    start = data.index(b"IDAT") + 20
    data[start : start + 20] = bytes(20)
    with pytest.raises(DataError, match=r"^x\.png: "):
        decode_image(bytes(data), name="x.png")


def test_float_images_are_refused():
    data = encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(DataError, match=r"^x: 32-bit"):
        decode_image(data, name="x")


def test_unknown_channel_order():
    with pytest.raises(ConfigurationError, match="'bgr' or 'rgb', not 'gbr'"):
        decode_image(b"x", name="x", channel_order="gbr")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_reduced_jpegs(reduction):
    data = encode(smooth_rgb(101, 203), "JPEG")
    image = decode_image(data, name="x", channel_order="rgb", reduction=reduction)
    assert image.shape == (-(-101 // reduction), -(-203 // reduction), 3)
    middle = smooth_rgb(101, 203)[reduction // 2 :: reduction, reduction // 2 :: reduction]
    h, w = (min(a, b) for a, b in zip(image.shape[:2], middle.shape[:2], strict=True))
    assert np.abs(image[:h, :w].astype(int) - middle[:h, :w]).mean() < 6
    grey = decode_image(encode(smooth_rgb()[:, :, 0], "JPEG"), name="x", reduction=reduction)
    assert grey.shape == (-(-40 // reduction), -(-52 // reduction), 3)
    png = encode(smooth_rgb(), "PNG")
    np.testing.assert_array_equal(
        decode_image(png, name="x", reduction=reduction), decode_image(png, name="x")
    )


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("reduction", [1, 2, 8])
def test_upper_rows_of_a_jpeg(mode, reduction, capfd):
    data = encode(Image.fromarray(smooth_rgb(300, 90)).convert(mode), "JPEG")
    whole = decode_image(data, name="x", reduction=reduction)
    for rows in (1, 100, 267, 268, 269, 300, 999):
        upper = decode_image(data, name="x", reduction=reduction, rows=rows)
        wanted = min(-(-rows // reduction), len(whole))
        assert wanted <= len(upper) <= len(whole) and (len(upper) < len(whole)) == (rows <= 268)
        np.testing.assert_array_equal(upper[:wanted], whole[:wanted])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_rows_of_what_is_turned_or_no_jpeg_are_all_there(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = encode(smooth_rgb(200, 90), "JPEG", exif=exif)
    for data in (turned, encode(smooth_rgb(200, 90), "PNG"), encode(smooth_rgb(200, 90), "WEBP")):
        whole = decode_image(data, name="x")
        np.testing.assert_array_equal(decode_image(data, name="x", rows=3), whole)


def test_rows_of_a_picture_with_another_behind_it(capfd):
    data = encode(smooth_rgb(200, 90), "JPEG")
    both = data + encode(smooth_rgb(16, 16), "JPEG")
    np.testing.assert_array_equal(
        decode_image(both, name="x", rows=3), decode_image(data, name="x")
    )
    assert capfd.readouterr().err == ""


def test_unknown_reduction():
    with pytest.raises(ConfigurationError, match=r"one of \(1, 2, 4, 8\), not 3"):
        decode_image(b"x", name="x", reduction=3)


def test_sizes_without_decoding():
    for orientation in (1, 4, 5, 8):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        data = encode(smooth_rgb(), "JPEG", exif=exif)
        assert jpeg_size(data) == decode_image(data, name="x").shape[:2]
    assert jpeg_size(encode(smooth_rgb(), "JPEG")) == (40, 52)
    cmyk = encode(Image.fromarray(smooth_rgb()).convert("CMYK"), "JPEG")
    for other in (encode(smooth_rgb(), "PNG"), cmyk, data[:100], b""):
        assert jpeg_size(other) is None


def test_read_image(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(smooth_rgb(), "PNG"))
    np.testing.assert_array_equal(read_image(path, channel_order="rgb"), smooth_rgb())
    with pytest.raises(DataError, match=r"missing\.png: cannot be read \(No such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)
