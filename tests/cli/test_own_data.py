"""Data that people keep, from the shell: prepare, train a few steps, evaluate, predict."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.boxes_layout import NAMES, draw, write_coco, write_voc, write_yolo
from tests.data.test_parquet import NAMES as FISH
from tests.data.test_parquet import encoded, rows_of, write

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
WRITERS = {"yolo": write_yolo, "voc_detection": write_voc, "coco": write_coco}
# As the files number the classes; VOC's have names alone, which are sorted.
NUMBERS = {"yolo": (0, 1, 2), "voc_detection": (1, 2, 3), "coco": (5, 10, 15)}


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4
    return [row["loss"] for row in rows if row["split"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize("builder", WRITERS)
def test_boxes_of_ones_own(mobilevit, small_detector, tmp_path, builder):
    source, run, name = WRITERS[builder](tmp_path / "source"), tmp_path / "run", f"own_{builder}"
    names = sorted(NAMES) if builder == "voc_detection" else list(NAMES)
    ran = mobilevit("prepare", builder, "--source", source, "--name", name)
    assert ran.status == 0, ran.err
    assert f"classes: {', '.join(names)}\n" in ran.err

    options = ("--init-from", None, "--model.name", small_detector, "--epochs", 2)
    options += ("--data.dataset", name, "--data.test", None, "--evaluation.every-epochs", 2)
    options += ("--sampler.batch-size", 8, "--evaluation.batch-size", 8, "--workdir", run)
    ran = mobilevit("train", EXPERIMENTS / "detection" / "own.py", "--tiny", *options)
    assert ran.status == 0, ran.err
    assert np.isfinite(losses(run)).all()
    assert json.loads((run / "experiment.json").read_text())["class_names"] == names

    results = tmp_path / "results.json"
    options = ("--score-threshold", 0.001, "--results", results)
    ran = mobilevit("evaluate", "--weights", run, *options)
    assert ran.status == 0, ran.err
    assert {row["category_id"] for row in json.loads(results.read_text())} <= {*NUMBERS[builder]}
    assert len(json.loads(results.read_text())) > 8

    (tmp_path / "photo.jpg").write_bytes(draw("val")[0].image)
    arguments = ("predict", tmp_path / "photo.jpg", "--weights", run, "--score-threshold", 0)
    ran = mobilevit(*arguments, "--json")
    assert ran.status == 0, ran.err
    found = {found["class"] for found in json.loads(ran.out)[0]["detections"]}
    assert found and found <= set(names)


@pytest.mark.slow
def test_parquet(mobilevit, tmp_path):
    source, run = tmp_path / "source", tmp_path / "run"
    write(source / "data" / "train-00000-of-00001.parquet", rows_of(32, size=40))
    write(source / "data" / "validation-00000-of-00001.parquet", rows_of(8, 32, size=40))
    ran = mobilevit("prepare", "parquet", "--source", source, "--name", "fish")
    assert ran.status == 0, ran.err
    assert f"classes: {', '.join(FISH)}\n" in ran.err

    options = ("--data.dataset", "fish", "--data.test", None, "--epochs", 2, "--workdir", run)
    options += ("--sampler.base-size", 32, "--sampler.sizes", 32, "--processor.size", 32)
    options += ("--processor.crop-size", 32, 32)
    ran = mobilevit("train", EXPERIMENTS / "image_folder.py", "--tiny", *options)
    assert ran.status == 0, ran.err
    assert np.isfinite(losses(run)).all()
    ran = mobilevit("evaluate", "--weights", run)
    assert ran.status == 0, ran.err
    (tmp_path / "fish.png").write_bytes(encoded(3, 40))
    ran = mobilevit("predict", tmp_path / "fish.png", "--weights", run, "--json")
    assert ran.status == 0, ran.err
    answers = json.loads(ran.out)[0]["predictions"]
    assert {answer["class"] for answer in answers} == set(FISH)
