"""The drawn data set: what a scene holds, that it repeats, and that pixels alone do not tell."""

import dataclasses

import cv2
import numpy as np
import pytest

from mobilevit_jax.data.builders.drawing import SHAPE_NAMES, SceneConfig, draw_scene
from mobilevit_jax.data.builders.shapes import Shapes


def scene_config(name: str) -> SceneConfig:
    return next(c for c in Shapes.BUILDER_CONFIGS if c.name == name).scene


def scenes(name: str, count: int):
    config = scene_config(name)
    return [
        draw_scene(i % len(SHAPE_NAMES), config, np.random.default_rng(i)) for i in range(count)
    ]


def decode(png) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(png.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


@pytest.mark.parametrize("name", ["tiny", "quickstart", "detection", "segmentation", "default"])
def test_the_label_is_the_class_of_the_clearly_largest_object(name):
    config = scene_config(name)
    for scene in scenes(name, 16):
        assert scene.image.shape == (config.size, config.size, 3)
        assert scene.image.dtype == scene.mask.dtype == np.uint8
        areas = np.bincount(scene.mask.ravel(), minlength=1 + len(SHAPE_NAMES))[1:]
        counts = np.bincount(scene.labels, minlength=len(SHAPE_NAMES))
        # The mask joins objects of one class, so the limit holds for their mean.
        others = np.delete(areas / np.maximum(counts, 1), scene.label)
        assert counts[scene.label] >= 1
        assert others.max() <= config.area_limit * areas[scene.label]


def test_boxes_enclose_what_the_mask_shows():
    for scene in scenes("quickstart", 24):
        size = len(scene.mask)
        assert scene.boxes.dtype == np.float32
        assert (scene.boxes >= 0).all() and (scene.boxes <= 1).all()
        assert (scene.boxes[:, :2] < scene.boxes[:, 2:]).all()
        corners = np.rint(scene.boxes * size).astype(int)
        for (top, left, bottom, right), label in zip(corners, scene.labels, strict=True):
            inside = scene.mask[top:bottom, left:right] == 1 + label
            # Tight: each edge of the box touches the object.
            assert inside[0].any() and inside[-1].any()
            assert inside[:, 0].any() and inside[:, -1].any()


def test_most_scenes_have_several_objects_and_some_overlap():
    drawn = scenes("default", 24)
    assert np.mean([len(s.labels) > 2 for s in drawn]) > 0.7
    overlapping = 0
    for scene in drawn:
        top, left, bottom, right = scene.boxes.T
        height = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
        width = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
        overlapping += np.count_nonzero((height > 0) & (width > 0)) > len(top)
    assert overlapping > 12


def test_every_object_to_detect_is_large_and_nearly_whole():
    for scene in scenes("detection", 24):
        assert 2 <= len(scene.labels) <= 3  # none is hidden by another
        sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
        assert sides.max(1).min() > 0.25
        assert sides.max() < 0.65


def test_other_objects_can_be_asked_to_be_whole():
    base = dataclasses.replace(scene_config("tiny"), others=(2, 2))
    strict = dataclasses.replace(base, others_visible=1.0)
    differ = 0
    for seed in range(12):
        hidden, whole = (draw_scene(2, c, np.random.default_rng(seed)) for c in (base, strict))
        assert len(whole.labels) == 3 >= len(hidden.labels)
        if np.array_equal(hidden.mask, whole.mask):  # an arrangement that met the demand anyway
            np.testing.assert_array_equal(hidden.image, whole.image)
        else:
            differ += 1
    assert 0 < differ


def test_the_scenes_of_released_configurations_stay():
    """Their pictures are what numbers in the documentation were measured on."""
    sums = {name: int(scenes(name, 1)[0].mask.sum()) for name in ("tiny", "quickstart", "default")}
    assert sums == {"tiny": 3098, "quickstart": 3071, "default": 39812}


def test_examples_repeat_and_differ_between_splits_and_configurations(tmp_path):
    tiny = Shapes(data_dir=tmp_path, config="tiny")
    items = tiny.items()
    first = tiny.example(items["train"][0])
    again = Shapes(data_dir=tmp_path, config="tiny").example(items["train"][0])
    assert first["image"].getvalue() == again["image"].getvalue()
    assert first["objects"] == again["objects"]
    test = tiny.example(items["test"][0])
    quickstart = Shapes(data_dir=tmp_path, config="quickstart").example(items["train"][0])
    images = {e["image"].getvalue() for e in (first, test, quickstart)}
    assert len(images) == 3


def test_an_example_is_lossless_and_in_opencv_order(tmp_path):
    builder = Shapes(data_dir=tmp_path, config="tiny")
    item = builder.items()["train"][5]
    example = builder.example(item)
    image, mask = decode(example["image"]), decode(example["mask"])
    assert image.shape == (64, 64, 3) and mask.shape == (64, 64)
    assert set(np.unique(mask)) <= set(range(1 + len(SHAPE_NAMES)))
    assert example["label"] == 5
    assert example["name"] == "train/000005"


def test_the_splits_are_balanced_and_as_large_as_configured(tmp_path):
    counts = {c.name: c.splits for c in Shapes.BUILDER_CONFIGS}
    assert counts["tiny"] == {"train": 64, "validation": 32, "test": 32}
    assert set(counts) == {"tiny", "quickstart", "detection", "segmentation", "default"}
    for items in Shapes(data_dir=tmp_path, config="quickstart").items().values():
        labels = np.bincount([i.content % len(SHAPE_NAMES) for i in items])
        assert labels.max() - labels.min() <= 1


@pytest.mark.slow
def test_a_linear_probe_on_pixels_stays_below_half():
    """Ridge regression on 32x32 pixels: shapes are not told by where which colour is."""
    config = scene_config("quickstart")
    count, train = 2400, 1900
    labels = np.arange(count) % len(SHAPE_NAMES)
    pixels = np.stack(
        [
            cv2.resize(
                draw_scene(int(label), config, np.random.default_rng(i)).image,
                (32, 32),
                interpolation=cv2.INTER_AREA,
            )
            for i, label in enumerate(labels)
        ]
    )
    x = pixels.reshape(count, -1).astype(np.float32)
    x = (x - x[:train].mean(0)) / x[:train].std(0)
    targets = np.eye(len(SHAPE_NAMES), dtype=np.float32)[labels]
    gram = x[:train] @ x[:train].T / x.shape[1]
    cross = x[train:] @ x[:train].T / x.shape[1]
    accuracies = []
    for strength in (0.01, 0.1, 1.0, 10.0):
        weights = np.linalg.solve(
            gram + strength * np.eye(train, dtype=np.float32), targets[:train]
        )
        accuracies.append(np.mean((cross @ weights).argmax(1) == labels[train:]))
    assert max(accuracies) < 0.5
    # The probe itself works: it tells the classes of the images that it was fitted to.
    fitted = gram @ np.linalg.solve(gram + 1e-4 * np.eye(train, dtype=np.float32), targets[:train])
    assert np.mean(fitted.argmax(1) == labels[:train]) > 0.95


def test_the_scene_obeys_its_configuration():
    base = scene_config("tiny")
    quiet = dataclasses.replace(base, others=(0, 0), noise=0.0, texture=(0.0, 0.0))
    scene = draw_scene(1, quiet, np.random.default_rng(3))
    assert scene.labels.tolist() == [1]
    # One colour for the square, one for the background, and the blend along the edge.
    colors, counts = np.unique(scene.image.reshape(-1, 3), axis=0, return_counts=True)
    assert np.sort(counts)[-2:].sum() > 0.9 * scene.mask.size
    width = scene.boxes[0, 3] - scene.boxes[0, 1]
    assert base.largest[0] * 0.6 < width <= base.largest[1] + 0.05
    assert len(colors) > 2
