"""Masks: kinds of PNG, exact round trips, faults; VOC's names and colours."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.data.coco_names import COCO_CATEGORIES, class_names_coco
from mobilevit_jax.data.masks import (
    decode_colors,
    decode_mask,
    encode_mask,
    has_background,
    mask_palette,
    to_segmentation,
)
from mobilevit_jax.data.voc_names import VOC_OF_COCO, class_names_voc, voc_palette
from mobilevit_jax.errors import DataError

MASK = np.random.default_rng(0).choice(np.array([0, 1, 15, 20, 255], np.uint8), (13, 17))


def palette_png(mask: np.ndarray = MASK, **options) -> bytes:
    image = Image.fromarray(mask).convert("P")
    image.putdata(mask.ravel().tolist())
    image.putpalette(voc_palette().ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_a_mask_comes_back_exactly():
    decoded = decode_mask(encode_mask(MASK), name="m")
    np.testing.assert_array_equal(decoded, MASK)
    assert decoded.dtype == np.uint8 and decoded.flags.writeable and decoded.flags.c_contiguous


def test_a_palette_stands_for_its_indices():
    np.testing.assert_array_equal(decode_mask(palette_png(), name="m"), MASK)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_of_few_bits(bits):
    mask = np.random.default_rng(bits).integers(0, 2**bits, (9, 11)).astype(np.uint8)
    data = palette_png(mask, bits=bits)
    assert data[24] == bits
    np.testing.assert_array_equal(decode_mask(data, name="m"), mask)


def encoded(array: np.ndarray, extension: str = ".png") -> bytes:
    return cv2.imencode(extension, array)[1].tobytes()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "the file is empty"),
        (b"no image", "not a PNG"),
        (encoded(MASK, ".bmp"), "not a PNG; a mask must be a PNG with a class index a pixel"),
        (encoded(MASK, ".jpg"), "a JPEG, which blurs the edges between classes; a mask must be"),
        (encoded(np.repeat(MASK[..., None], 3, 2)), "colours .* instead of class indices"),
        (encoded(MASK.astype(np.uint16)), "16-bit values instead of class indices"),
        (encoded(np.repeat(MASK[..., None], 4, 2)), "an alpha channel instead of class indices"),
        (encode_mask(MASK)[:-15], "was cut short"),
        (palette_png()[:-15], "was cut short"),
        (palette_png()[:700] + palette_png()[-12:], "damaged or was cut short"),
    ],
)
def test_what_is_no_mask_is_named(data, match):
    with pytest.raises(DataError, match=f"^here/m.png: .*{match}"):
        decode_mask(data, name="here/m.png")


def test_colours_of_rgb_and_of_palettes():
    colors = voc_palette()[MASK]
    np.testing.assert_array_equal(decode_colors(encoded(colors[..., ::-1]), name="m"), colors)
    np.testing.assert_array_equal(decode_colors(palette_png(), name="m"), colors)
    assert decode_colors(encode_mask(MASK), name="m") is None
    for data, match in (
        (encoded(np.repeat(MASK[..., None], 4, 2)), "here/m.png: an alpha channel; save it as RGB"),
        (encoded(MASK.astype(np.uint16)), "here/m.png: 16-bit values; save it as RGB of 8 bits"),
        (palette_png()[:-15], "here/m.png: the file is damaged or was cut short"),
    ):
        with pytest.raises(DataError, match=match):
            decode_colors(data, name="here/m.png")


@pytest.mark.parametrize("first", ["background", "Background", "_background_", "LABEL_0", None])
def test_a_background_is_black(first):
    names = (first, "cat") if first else ()
    assert has_background(names)
    np.testing.assert_array_equal(mask_palette(names), voc_palette())


def test_a_class_in_place_of_the_background_is_not_black():
    assert not has_background(("sky", "road"))
    palette = mask_palette(("sky", "road"))
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    np.testing.assert_array_equal(palette[:254], voc_palette()[1:255])
    np.testing.assert_array_equal(palette[255], voc_palette()[255])


def test_only_bytes_and_planes_are_encoded():
    for wrong in (MASK.astype(int), MASK[..., None]):
        with pytest.raises(ValueError, match=r"uint8 \[h, w\]"):
            encode_mask(wrong)


def test_a_record_without_a_mask():
    record = {"image": b"i", "mask": b"m", "name": "n", "label": 3}
    assert to_segmentation(record) == {"image": b"i", "mask": b"m", "name": "n"}
    with pytest.raises(DataError, match="train#3 has no mask"):
        to_segmentation({"image": b"i", "name": "train#3"})


def test_the_colours_of_voc():
    palette = voc_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    known = {
        "background": (0, 0, 0),
        "aeroplane": (128, 0, 0),
        "bicycle": (0, 128, 0),
        "bottle": (128, 0, 128),
        "cat": (64, 0, 0),
        "person": (192, 128, 128),
        "tvmonitor": (0, 64, 128),
    }
    names = class_names_voc()
    for name, color in known.items():
        assert tuple(palette[names.index(name)]) == color
    assert tuple(palette[255]) == (224, 224, 192)
    assert len({tuple(color) for color in palette}) == 256
    with pytest.raises(ValueError):
        palette[0] = 1  # shared by all callers


def test_the_classes_of_coco_and_voc():
    assert len(class_names_coco()) == len(set(class_names_coco())) == 80
    assert class_names_coco()[0] == "person" and class_names_coco()[-1] == "toothbrush"
    assert list(COCO_CATEGORIES) == sorted(COCO_CATEGORIES) and max(COCO_CATEGORIES) == 90
    voc = class_names_voc()
    assert len(voc) == len(set(voc)) == 21
    assert sorted(VOC_OF_COCO.values()) == list(range(1, 21))
    # Apart from these, both call a class by the same name.
    other_names = {
        "airplane": "aeroplane",
        "dining table": "diningtable",
        "motorcycle": "motorbike",
        "potted plant": "pottedplant",
        "couch": "sofa",
        "tv": "tvmonitor",
    }
    for number, label in VOC_OF_COCO.items():
        name = COCO_CATEGORIES[number]
        assert other_names.get(name, name) == voc[label]
