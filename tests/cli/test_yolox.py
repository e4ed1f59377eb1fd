"""A YOLOX from the shell, on a small backbone: the README's commands, from labels to boxes."""

import json
from pathlib import Path

import numpy as np
import pytest

from mobilevit_jax.data.decode import read_image
from tests.data.boxes_layout import NAMES, draw, write_yolo

EXPERIMENTS = Path(__file__).parents[2] / "experiments" / "detection"


@pytest.mark.slow
def test_boxes_of_ones_own(mobilevit, small_detector, tmp_path):
    source, run = write_yolo(tmp_path / "source"), tmp_path / "run"
    ran = mobilevit("prepare", "yolo", "--source", source, "--name", "own_yolox")
    assert ran.status == 0, ran.err

    options = ("--init-from", None, "--epochs", 2)
    options += ("--model.name", small_detector.replace("ssdlite", "yolox"))
    options += ("--data.dataset", "own_yolox", "--data.test", None, "--workdir", run)
    options += ("--detection.close-mosaic", 1, "--evaluation.every-epochs", 2)
    options += ("--sampler.batch-size", 8, "--sampler.sizes", 64, "--evaluation.batch-size", 8)
    ran = mobilevit("train", EXPERIMENTS / "yolox_own.py", "--tiny", *options)
    assert ran.status == 0, ran.err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if row["split"] == "train"]
    assert all(np.isfinite(row["loss"]) for row in training)
    assert training[0]["l1_loss"] == 0 < training[-1]["l1_loss"]  # the last epoch's

    results = tmp_path / "results.json"
    options = ("--score-threshold", 0.0001, "--results", results, "--class-agnostic", True)
    ran = mobilevit("evaluate", "--weights", run, "--size", 96, *options)
    assert ran.status == 0, ran.err
    assert {row["category_id"] for row in json.loads(results.read_text())} <= {0, 1, 2}
    ran = mobilevit("evaluate", "--weights", run, "--size", 100)
    assert ran.status == 2 and "multiples of 32" in ran.err and ran.err.count("\n") < 3

    image = draw("val")[0].image
    (tmp_path / "photo.jpg").write_bytes(image)
    shown = tmp_path / "shown.png"
    arguments = ("predict", tmp_path / "photo.jpg", "--weights", run, "--score-threshold", 0)
    ran = mobilevit(*arguments, "--json", "--plot", shown)
    assert ran.status == 0, ran.err
    (answer,) = json.loads(ran.out)
    height, width = read_image(tmp_path / "photo.jpg", channel_order="rgb").shape[:2]
    for found in answer["detections"]:
        x1, y1, x2, y2 = found["box"]
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height and found["class"] in NAMES
    assert answer["detections"] and np.std(read_image(shown, channel_order="rgb")) > 10


@pytest.mark.usefixtures("real_model")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--processor.crop-size", 80, 80, "--processor.size", 80, 80), "multiples of 32"),
        (("--sampler.sizes", 48), "multiples of 32"),
        (("--processor.no-do-pad",), "letterboxed images"),
        (("--detection.match-threshold", 0.4), "a setting of a single-shot detector"),
        (("--epochs", 1, "--detection.close-mosaic", 1), "lower detection.close_mosaic"),
    ],
)
def test_what_is_refused_before_anything_is_written(mobilevit, tmp_path, options, message):
    run = tmp_path / "run"
    arguments = ("train", EXPERIMENTS / "yolox_shapes.py", "--tiny", "--workdir", run, *options)
    ran = mobilevit(*arguments)
    assert ran.status == 2 and message in ran.err, ran.err
    assert not run.exists()
