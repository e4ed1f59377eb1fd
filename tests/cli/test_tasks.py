"""Detection and segmentation from the shell: train, evaluate, predict, with real networks."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.data.decode import read_image
from tests.data.street_scenes import NAMES, SIZE, write_streets
from tests.data.test_parquet import streets_of, write_pairs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("real_model")]

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def train(mobilevit, task: str, directory: Path, *options: object):
    return mobilevit(
        *("train", EXPERIMENTS / task / "shapes.py", "--tiny", "--workdir", directory),
        *("--evaluation.batch-size", 32, *options),
    )


def test_detection(mobilevit, small_detector, tmp_path, test_images):
    run = tmp_path / "run"
    model = ("--model.name", small_detector, "--model.dropout", None)
    ran = train(mobilevit, "detection", run, *model)
    assert ran.status == 0, ran.err
    assert "mAP@.50" in ran.out and "predict with" in ran.err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert all(np.isfinite(row["loss"]) for row in rows if row["split"] == "train")

    results, plots = tmp_path / "results.json", tmp_path / "examples.png"
    ran = mobilevit("evaluate", "--weights", run, "--results", results, "--plots", plots)
    assert ran.status == 0, ran.err
    (path,) = run.glob("evaluation-*.json")
    evaluated = json.loads(path.read_text())
    assert evaluated["count"] == 32 and 0 <= evaluated["map"] <= evaluated["map50"] <= 1
    assert set(json.loads(results.read_text())[0]) == {"image_id", "category_id", "bbox", "score"}
    assert np.std(read_image(plots, channel_order="rgb")) > 10

    later = (
        "--convention",
        "later",
        "--score-threshold",
        0.02,
        "--output",
        tmp_path / "later.json",
    )
    ran = mobilevit("evaluate", "--weights", run, *later)
    assert ran.status == 0, ran.err
    chosen = json.loads((tmp_path / "later.json").read_text())
    assert (chosen["convention"], chosen["score_threshold"]) == ("later", 0.02)

    arguments = ("predict", *test_images[:2], "--weights", run, "--score-threshold", 0)
    ran = mobilevit(*arguments, "--json", "--plot", tmp_path / "found.png")
    assert ran.status == 0, ran.err
    answers = json.loads(ran.out)
    for answer, image in zip(answers, test_images, strict=False):
        height, width = read_image(image, channel_order="rgb").shape[:2]
        assert (answer["height"], answer["width"]) == (height, width)
        assert answer["detections"]
        for found in answer["detections"]:
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
            assert (
                found["class"] in json.loads((run / "experiment.json").read_text())["class_names"]
            )
    assert np.std(read_image(tmp_path / "found.png", channel_order="rgb")) > 10

    ran = mobilevit("predict", test_images[0], "--weights", run, "--top", 3)
    assert (
        ran.status == 2
        and "--top is for classification; these weights are for detection" in ran.err
    )


@pytest.mark.usefixtures("small_networks")
def test_segmentation(mobilevit, tmp_path, test_images):
    run = tmp_path / "run"
    ran = train(mobilevit, "segmentation", run)
    assert ran.status == 0, ran.err
    assert "mIoU" in ran.out

    plots = tmp_path / "examples.png"
    ran = mobilevit("evaluate", "--weights", run, "--plots", plots)
    assert ran.status == 0, ran.err
    (path,) = run.glob("evaluation-*.json")
    evaluated = json.loads(path.read_text())
    assert evaluated["count"] == 32 and 0 <= evaluated["miou"] <= 1
    assert set(evaluated["iou"]) <= {"background", *evaluated["iou"]} and evaluated["iou"]
    assert np.std(read_image(plots, channel_order="rgb")) > 10

    masks = tmp_path / "masks"
    arguments = ("predict", *test_images[:2], "--weights", run, "--masks", masks)
    ran = mobilevit(*arguments, "--json", "--plot", tmp_path / "found.png")
    assert ran.status == 0, ran.err
    for answer, image in zip(json.loads(ran.out), test_images, strict=False):
        with Image.open(answer["mask"]) as file, Image.open(image) as original:
            assert file.mode == "P" and file.size == original.size
            mask = np.asarray(file)
        shares = np.bincount(mask.ravel(), minlength=9) / mask.size
        for item in answer["classes"]:
            assert item["share"] == pytest.approx(shares[item["index"]])
        assert sum(item["share"] for item in answer["classes"]) == pytest.approx(1)
    assert np.std(read_image(tmp_path / "found.png", channel_order="rgb")) > 10

    ran = mobilevit("evaluate", "--weights", run, "--results", "results.json")
    assert ran.status == 2 and "--results is for detections" in ran.err


@pytest.mark.parametrize(
    "builder", ["mask_folder", pytest.param("parquet", marks=pytest.mark.slow)]
)
def test_own_classes(mobilevit, tmp_path, data_dir, builder):
    """The commands that README shows, from images and masks to a predicted one."""
    source = write_streets(tmp_path / "streets", splits=("train",), count=30)
    name = f"my_{builder}"
    if builder == "parquet":
        write_pairs(source / "data" / "train.parquet", streets_of(30))
        (source / "label_colors.txt").rename(source / "classes.txt")
    ran = mobilevit(
        *("prepare", builder, "--source", source, "--name", name),
        *("--validation-share", 0.3),
    )
    assert ran.status == 0, ran.err
    assert ran.out.startswith(f"{name} (11 classes) is in ")
    (drawn,) = re.findall(r"validation: (\d+) of 30 images of train, drawn by", ran.err)
    run = tmp_path / "run"
    ran = mobilevit(
        *("train", EXPERIMENTS / "segmentation" / "mask_folder.py", "--tiny", "--workdir", run),
        *("--data.dataset", name, "--data.test", "None", "--epochs", 3),
    )
    assert ran.status == 0, ran.err
    assert "mIoU" in ran.out and f"11 classes of {name}" in ran.err

    plots = tmp_path / "examples.png"
    ran = mobilevit("evaluate", "--weights", run, "--plots", plots)
    assert ran.status == 0, ran.err
    (path,) = run.glob("evaluation-*.json")
    evaluated = json.loads(path.read_text())
    assert evaluated["count"] == int(drawn)
    assert tuple(evaluated["iou"]) == NAMES  # class 0 is one of them, void is not
    assert evaluated["miou"] == pytest.approx(np.mean(list(evaluated["iou"].values())))
    assert np.std(read_image(plots, channel_order="rgb")) > 10

    image = next((source / "train" / "images").iterdir())
    ran = mobilevit("predict", image, "--weights", run, "--masks", tmp_path / "masks", "--json")
    assert ran.status == 0, ran.err
    (answer,) = json.loads(ran.out)
    assert {item["class"] for item in answer["classes"]} <= set(NAMES)
    assert all(NAMES[item["index"]] == item["class"] for item in answer["classes"])
    with Image.open(answer["mask"]) as mask:
        assert mask.size == (SIZE[1], SIZE[0]) and mask.mode == "P"

    ran = mobilevit("convert", run, tmp_path / "model")
    assert ran.status == 0, ran.err
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {str(index): name for index, name in enumerate(NAMES)}
    assert config["semantic_loss_ignore_index"] == 255
    ran = mobilevit("predict", image, "--weights", tmp_path / "model", "--json")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)[0]["classes"] == answer["classes"]


def test_settings_of_another_task_are_refused(mobilevit, tmp_path):
    for option, value in (("loss.label-smoothing", 0.3), ("augment.cutmix-alpha", 1.0)):
        options = ("--tiny", f"--{option}", value, "--workdir", tmp_path / "run")
        ran = mobilevit("train", EXPERIMENTS / "detection" / "shapes.py", *options)
        assert ran.status == 2
        name = option.replace("-", "_")
        assert f"ssdlite_mobilevit_xxs, which is for detection: {name}; leave that out" in ran.err
        assert not (tmp_path / "run").exists()
