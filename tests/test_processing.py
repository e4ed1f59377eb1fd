import errno
import json
import subprocess
import sys
import tracemalloc
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mobilevit_jax import processing
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.resizing import fit_within

# As published with the checkpoints.
PUBLISHED = {
    "crop_size": {"height": 256, "width": 256},
    "do_center_crop": True,
    "do_flip_channel_order": True,
    "do_resize": True,
    "feature_extractor_type": "MobileViTFeatureExtractor",
    "resample": 2,
    "size": {"shortest_edge": 288},
}
IMAGENET = ImageProcessor(
    do_flip_channel_order=False, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
LETTERBOX = ImageProcessor(do_pad=True, size=(64, 96), crop_size=(64, 96))
RESAMPLES = ("bilinear", "pillow_bilinear", "pillow_bicubic")


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (288, 288), (40, 61)])
def test_default_is_the_recipe_of_the_published_checkpoints(height, width):
    image = noise(height, width)
    scale = 288 / min(height, width)
    size = (
        288 if width <= height else int(width * 288 / height),
        288 if height <= width else int(height * 288 / width),
    )
    assert min(size) == 288 and abs(max(size) - max(height, width) * scale) < 1
    resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    top, left = (resized.shape[0] - 256) // 2, (resized.shape[1] - 256) // 2
    expected = resized[top : top + 256, left : left + 256, ::-1].astype(np.float32) / 255
    output = ImageProcessor()(image)
    assert output.shape == (1, 256, 256, 3) and output.dtype == np.float32
    np.testing.assert_allclose(output[0], expected, atol=1e-6)


def test_path_array_and_pillow_image_agree_and_sizes_may_differ(tmp_path):
    image = noise(300, 400)
    Image.fromarray(image).save(tmp_path / "a.png")
    inputs = [str(tmp_path / "a.png"), tmp_path / "a.png", image, Image.fromarray(image)]
    output = ImageProcessor()([*inputs, noise(700, 300)])
    assert output.shape == (5, 256, 256, 3)
    for other in output[1:4]:
        np.testing.assert_array_equal(other, output[0])
    rgb = replace(ImageProcessor(), do_flip_channel_order=False)(inputs)
    np.testing.assert_array_equal(rgb[..., ::-1], output[:4])


def test_channels_are_blue_green_red():
    red = np.zeros((300, 300, 3), np.uint8)
    red[:, :, 0] = 255
    rgb = ImageProcessor(do_flip_channel_order=False)
    assert ImageProcessor()(red)[0, 0, 0].tolist() == [0, 0, 1]
    assert rgb(red)[0, 0, 0].tolist() == [1, 0, 0]
    assert (ImageProcessor().channel_order, rgb.channel_order) == ("bgr", "rgb")


def test_pixels_is_the_same_step_before_scaling():
    image = noise(300, 350)
    processor = ImageProcessor()
    pixels = processor.pixels(np.ascontiguousarray(image[:, :, ::-1]))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels / np.float32(255), processor(image)[0], atol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "CMYK", "1", "I;16"])
def test_pillow_images_of_any_mode(mode):
    image = Image.new(mode, (300, 300))
    assert ImageProcessor()(image).shape == (1, 256, 256, 3)


def test_no_rescale_keeps_the_values_of_the_pixels():
    output = ImageProcessor(do_rescale=False)(np.full((300, 300, 3), 200, np.uint8))
    assert output.dtype == np.float32 and (output == 200).all()


def test_rescale_factor():
    output = ImageProcessor(rescale_factor=0.5)(np.full((300, 300, 3), 200, np.uint8))
    assert (output == 100).all()


def test_size_as_height_and_width():
    processor = ImageProcessor(size=(60, 90), do_center_crop=False)
    assert processor([noise(300, 40), noise(20, 20)]).shape == (2, 60, 90, 3)


def test_without_crop_sizes_must_agree():
    processor = ImageProcessor(do_center_crop=False)
    assert processor(noise(100, 200)).shape == (1, 288, 576, 3)
    with pytest.raises(DataError, match=r"\(288, 288\) and \(288, 576\).*do_center_crop"):
        processor([noise(100, 200), noise(100, 100)])


@pytest.mark.parametrize(
    ("shape", "start"), [((3, 5), (1, 0)), ((2, 6), (1, 0)), ((4, 9), (0, 0)), ((1, 4), (2, 1))]
)
def test_image_smaller_than_the_crop_is_surrounded_with_zeros(shape, start):
    processor = ImageProcessor(do_resize=False, crop_size=(4, 5), do_flip_channel_order=False)
    image = np.full((*shape, 3), 9, np.uint8)
    pixels = processor.pixels(image)
    assert pixels.shape == (4, 5, 3)
    rows, columns = np.nonzero(pixels[:, :, 0])
    assert (rows.min(), columns.min()) == start
    assert len(rows) == min(shape[0], 4) * min(shape[1], 5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (31, 40)])
@pytest.mark.parametrize("resample", RESAMPLES)
def test_small_images_are_enlarged(shape, resample):
    output = ImageProcessor(resample=resample)(np.full((*shape, 3), 51, np.uint8))
    assert output.shape == (1, 256, 256, 3)
    np.testing.assert_allclose(output, 0.2, atol=1e-6)


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize(
    "shape", [(300, 400), (30, 400), (400, 30), (7, 90), (1000, 90), (90, 1000), (9, 9)]
)
def test_computing_only_the_crop_equals_resize_then_crop(shape, resample, monkeypatch):
    processor = ImageProcessor(size=70, crop_size=(64, 64), resample=resample)
    image = 64 + noise(*shape) // 2  # bicubic overshoot is not clipped anywhere
    monkeypatch.setattr(processing, "_CROPS_TO_RESIZE", 10**9)
    whole = processor.pixels(image)
    monkeypatch.setattr(processing, "_CROPS_TO_RESIZE", 0)
    part = processor.pixels(image)
    assert whole.shape == part.shape == (64, 64, 3)
    # OpenCV rounds its weights. Pillow rounds between its two passes, whose order depends on the
    # shape of the result.
    levels = 1 if resample == "bilinear" else 2
    assert np.abs(whole.astype(int) - part).max() <= levels
    assert np.abs(whole.astype(int) - part).mean() < 0.3


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (2, 5000)])
@pytest.mark.parametrize("resample", RESAMPLES)
def test_extreme_shapes_stay_small_in_memory(shape, resample):
    image = noise(*shape)
    processor = ImageProcessor(resample=resample)
    tracemalloc.start()
    pixels = processor.pixels(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.shape == (256, 256, 3)
    assert peak < 20e6  # resized as a whole: 250e6 to 620e6
    # Pixel 288 times enlarged: what is seen is the middle of the image.
    middle = image[max(0, shape[0] // 2 - 2) :][:4, max(0, shape[1] // 2 - 2) :][:, :4]
    if resample != "pillow_bicubic":  # which overshoots
        assert pixels.min() >= middle.min() and pixels.max() <= middle.max()


def test_extreme_shapes_do_not_call_for_the_whole_image(monkeypatch):
    calls = []
    resize = cv2.resize
    monkeypatch.setattr(cv2, "resize", lambda *a, **k: calls.append(a[1]) or resize(*a, **k))
    ImageProcessor().pixels(noise(1, 1000))
    assert calls == []
    ImageProcessor().pixels(noise(100, 1000))
    assert calls == [(2880, 288)]


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 80), st.integers(1, 80))
def test_result_has_the_size_of_the_crop(height, width, size, crop):
    processor = ImageProcessor(size=size, crop_size=(crop, crop + 3))
    assert processor.pixels(np.zeros((height, width, 3), np.uint8)).shape == (crop, crop + 3, 3)


@pytest.mark.parametrize(
    ("shape", "resized"),
    [
        ((375, 500), (64, 85)),
        ((500, 375), (64, 48)),
        ((60, 300), (19, 96)),
        ((64, 96), (64, 96)),
        ((1, 1), (64, 64)),
        ((1, 1000), (1, 96)),
        ((1000, 1), (64, 1)),
    ],
)
def test_letterbox(shape, resized):
    image = noise(*shape)
    pixels = LETTERBOX.pixels(image)
    assert LETTERBOX.resized_size(*shape) == resized
    assert pixels.shape == (64, 96, 3) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    expected = cv2.resize(image, resized[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(pixels[: resized[0], : resized[1]], expected)
    assert (pixels[resized[0] :] == 114).all() and (pixels[:, resized[1] :] == 114).all()


def test_padding_is_scaled_and_normalised_like_the_rest():
    wide = np.full((10, 40, 3), 255, np.uint8)
    plain = ImageProcessor(do_pad=True, size=32, crop_size=(32, 32), pad_value=51)(wide)
    np.testing.assert_allclose(plain[0, :8], 1)
    np.testing.assert_allclose(plain[0, 8:], 0.2, rtol=1e-6)
    normalised = replace(IMAGENET, do_pad=True, size=32, crop_size=32, pad_value=51)(wide)
    expected = (0.2 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    np.testing.assert_allclose(normalised[0, 20, 3], expected, rtol=1e-5)


def test_images_of_any_size_are_one_batch_without_a_crop():
    processor = replace(LETTERBOX, do_center_crop=False, crop_size=(8, 8))
    assert processor([noise(30, 40), noise(200, 7), noise(1, 1)]).shape == (3, 64, 96, 3)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 700), st.integers(1, 700))
def test_what_fits_is_as_large_as_can_be(height, width, most_height, most_width):
    h, w = fit_within(height, width, most_height, most_width)
    assert 1 <= h <= most_height and 1 <= w <= most_width
    assert h == most_height or w == most_width
    scale = min(most_height / height, most_width / width)
    assert abs(h - max(1, height * scale)) < 1 + 1e-6 and abs(w - max(1, width * scale)) < 1 + 1e-6


def test_for_size_keeps_the_margin():
    processor = ImageProcessor().for_size(320)
    assert (processor.size, processor.crop_size) == (352, (320, 320))
    assert ImageProcessor().for_size(256) == ImageProcessor()
    assert processor(noise(500, 400)).shape == (1, 320, 320, 3)
    exact = ImageProcessor(size=(288, 300)).for_size(64)
    assert (exact.size, exact.crop_size) == ((96, 108), (64, 64))
    uncropped = ImageProcessor(do_center_crop=False, size=256).for_size(64)
    assert uncropped.size == 64
    assert LETTERBOX.for_size(416) == replace(LETTERBOX, size=(416, 416), crop_size=(416, 416))
    with pytest.raises(ConfigurationError, match="at least 1 pixel"):
        processor.for_size(0)


def test_is_frozen_and_hashable():
    sizes: dict[str, Any] = {key: PUBLISHED[key] for key in ("size", "crop_size")}
    processor = ImageProcessor(**sizes)
    assert processor == ImageProcessor() and hash(processor) == hash(ImageProcessor())
    with pytest.raises(FrozenInstanceError):
        processor.size = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_published_file_is_read_as_transformers_reads_it():
    processor = ImageProcessor.from_dict(PUBLISHED)
    assert processor == ImageProcessor(resample="pillow_bilinear")


def test_fields_that_a_file_lacks():
    processor = ImageProcessor.from_dict({})
    assert processor == ImageProcessor(size=224, resample="pillow_bicubic")


def test_fields_that_a_normalising_file_lacks():
    processor = ImageProcessor.from_dict({"image_processor_type": "BitImageProcessor"})
    expected = ImageProcessor(
        size=224,
        crop_size=(224, 224),
        do_flip_channel_order=False,
        resample="pillow_bicubic",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )
    assert processor == expected


def test_mean_and_standard_deviation():
    """Of the scaled values, the padding's among them, in the order of the model's channels."""
    image = noise(8, 10)
    plain = ImageProcessor(size=8, crop_size=(8, 12), do_flip_channel_order=False)
    mean, std = np.asarray((IMAGENET.mean, IMAGENET.std), np.float32)
    processor = replace(plain, mean=IMAGENET.mean, std=IMAGENET.std)
    expected = (plain(image) - mean) / std
    output = processor(image)
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, expected, rtol=1e-6)
    turned = replace(processor, do_flip_channel_order=True)(image)
    np.testing.assert_allclose(turned, (plain(image)[..., ::-1] - mean) / std, rtol=1e-6)


def test_fields_that_change_nothing():
    more = {
        "image_processor_type": "MobileViTImageProcessorFast",
        "feature_extractor_type": "MobileViTFeatureExtractor",
        **{"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        **{"do_pad": None, "do_reduce_labels": False, "do_convert_rgb": True},
    }
    assert ImageProcessor.from_dict(PUBLISHED | more) == ImageProcessor.from_dict(PUBLISHED)


def test_a_number_that_is_meant_as_a_square():
    found = ImageProcessor.from_dict({"size": 288, "default_to_square": True})
    assert found.size == (288, 288)
    assert ImageProcessor.from_dict({"size": 288, "default_to_square": False}).size == 288


def test_old_names_and_forms():
    old = {"size": 288, "crop_size": 256, "resample": 2, "flip_channel_order": False}
    expected = ImageProcessor(resample="pillow_bilinear", do_flip_channel_order=False)
    assert ImageProcessor.from_dict(old) == expected


@pytest.mark.parametrize(
    "processor",
    [
        ImageProcessor(),
        ImageProcessor(resample="pillow_bicubic", do_flip_channel_order=False),
        ImageProcessor(size=(100, 120), crop_size=(90, 91), do_rescale=False, rescale_factor=0.1),
        ImageProcessor(do_resize=False, do_center_crop=False),
        IMAGENET,
        replace(IMAGENET, do_flip_channel_order=True),
        LETTERBOX,
        replace(LETTERBOX, do_center_crop=False, pad_value=0),
        replace(IMAGENET, do_pad=True, size=64, crop_size=64),
    ],
)
def test_round_trip_through_a_file(processor, tmp_path):
    path = processor.save(tmp_path / "new" / "model")
    assert path.name == "preprocessor_config.json"
    assert ImageProcessor.load(path) == processor
    assert ImageProcessor.load(path.parent) == processor
    written = json.loads(path.read_text())
    kind = "BitImageProcessor" if processor.mean else "MobileViTImageProcessor"
    assert written["image_processor_type"] == kind
    assert written["resample"] in (2, 3)
    assert written.items() >= {"do_resize": processor.do_resize}.items()


def test_a_full_disk_leaves_the_older_file(tmp_path, monkeypatch):
    path = ImageProcessor(size=100).save(tmp_path)

    def full(path, text, encoding) -> None:
        path.write_bytes(text.encode(encoding)[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left") as caught:
        ImageProcessor(size=200).save(tmp_path)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [path]
    assert ImageProcessor.load(path) == ImageProcessor(size=100)


def test_written_default_matches_the_published_file():
    written = ImageProcessor().to_dict()
    shared = PUBLISHED.keys() & written.keys()
    assert len(shared) == 6
    assert {key: written[key] for key in shared} == {key: PUBLISHED[key] for key in shared}


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*preprocessor_config\.json: No such"):
        ImageProcessor.load(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    for text, message in [("{", "not valid JSON"), ("[]", "no JSON object")]:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            ImageProcessor.load(path)
    path.write_text('{"size": "big"}')
    with pytest.raises(ConfigurationError, match=r"preprocessor_config\.json: size must be"):
        ImageProcessor.load(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_normalize": True}, "do_normalize is passed over by MobileViT.* 'BitImageProcessor'"),
        (IMAGENET.to_dict() | {"image_std": [0.2, 0.2, 0]}, "std must be three numbers above 0"),
        (IMAGENET.to_dict() | {"image_mean": "x"}, "mean must be three numbers, or nothing"),
        ({"do_reduce_labels": True}, "do_reduce_labels=True is not supported; set it to false"),
        ({"reduce_labels": True}, "reduce_labels=True is not supported"),
        ({"do_pad": True, "pad_size": {"height": 9, "width": 9}}, "do_pad=True .* max_height"),
        (
            LETTERBOX.to_dict() | {"pad_size": None},
            "pad_size the same .*; got .* and pad_size None",
        ),
        (
            LETTERBOX.to_dict() | {"pad_size": {"height": 99, "width": 96}},
            "pad_size the same height",
        ),
        (LETTERBOX.to_dict() | {"size": {"height": 64, "width": 96}}, "where size says max_height"),
        (LETTERBOX.to_dict() | {"do_pad": False}, "size must be"),
        (LETTERBOX.to_dict() | {"crop_size": 256}, r"crop_size \(256, 256\) would cut"),
        ({"do_thumbnail": 1}, "do_thumbnail=1 is not supported"),
        ({"image_processor_type": "ViTImageProcessor"}, "image_processor_type='ViTImageProcessor'"),
        (
            {"feature_extractor_type": "ConvNextFeatureExtractor"},
            "has other rules than MobileViTIm",
        ),
        ({"image_processor_type": 5}, "image_processor_type='5' has other rules"),
        ({"resample": 1}, "resample 1 of pillow is not supported"),
        ({"resample": 3, "resample_library": "opencv"}, "resample 3 of opencv"),
        ({"resample_library": "opencb"}, "did you mean 'opencv'"),
        ({"crop_size": {"shortest_edge": 3}}, "crop_size must be"),
    ],
)
def test_files_that_ask_for_something_else(config, message):
    with pytest.raises(ConfigurationError, match=message):
        ImageProcessor.from_dict(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be"),
        ({"size": 2.5}, "size must be"),
        ({"size": (3, 4, 5)}, "size must be"),
        ({"size": {"longest_edge": 3}}, "size must be"),
        ({"crop_size": (0, 3)}, "crop_size must be"),
        ({"rescale_factor": 0.0}, "rescale_factor must be"),
        ({"rescale_factor": float("nan")}, "rescale_factor must be"),
        ({"do_resize": 1}, "do_resize must be true or false"),
        ({"resample": "bilinar"}, "did you mean 'bilinear'"),
        (
            {"do_pad": True},
            r"do_pad makes images of size \(288, 288\), which crop_size \(256, 256\)",
        ),
        ({"do_pad": True, "do_resize": False}, "do_pad fits images into size, so do_resize must"),
        ({"pad_value": 0}, "pad_value 0 has no effect while do_pad is false"),
        ({"do_pad": True, "pad_value": 256}, "pad_value must be a whole number from 0 to 255"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std go together; got mean .* and std None"),
        ({"mean": (0.5, 0.5), "std": (1, 1, 1)}, "mean must be three numbers, or nothing; got"),
        ({"mean": (0, 0, 0), "std": (1, 0, 1)}, "std must be three numbers above 0"),
        ({"mean": (0, float("nan"), 0), "std": (1, 1, 1)}, "mean must be three numbers"),
    ],
)
def test_invalid_settings(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ImageProcessor(**options)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)],
)
def test_arrays_that_are_no_images(image):
    with pytest.raises(DataError, match=r"image 1: an array must be uint8 \[h, w, 3\]"):
        ImageProcessor()([noise(9, 9), image])


def test_missing_file_and_empty_list(tmp_path):
    with pytest.raises(DataError, match=r"no\.jpg: cannot be read"):
        ImageProcessor()(tmp_path / "no.jpg")
    with pytest.raises(DataError, match="no images"):
        ImageProcessor()([])


def test_importing_needs_neither_opencv_nor_pillow():
    script = (
        "import sys; sys.modules['cv2'] = sys.modules['PIL'] = None\n"
        "from mobilevit_jax.processing import ImageProcessor; ImageProcessor()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
