"""`mobilevit prepare` for data sets with boxes and masks: what it prints, and its faults."""

import json

from tests.data.coco_layout import annotation, content, write_split
from tests.data.test_image_folder import write_folder


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_coco(mobilevit, tmp_path):
    what = content()
    what["annotations"].append(annotation(1004, 11, 3, [35, 5, 20, 10]))
    source = write_split(tmp_path / "source", "val2017", what)
    place = ("--source", source, "--data-dir", tmp_path / "data")
    ran = mobilevit("prepare", "coco", *place)
    assert ran.status == 0
    assert ran.out.startswith("coco (80 classes) is in ")
    assert "classes: person, bicycle, car" in ran.err
    assert ["validation", "3", "0"] in words(ran.out)
    assert "validation: 1 boxes cut off at the edge of their image" in ran.err
    ran = mobilevit("prepare", "--list", "--data-dir", tmp_path / "data")
    assert ["coco", "1.0.0", "80", "validation", "3"] in words(ran.out)


def test_boxes_as_corners(mobilevit, tmp_path):
    what = content()
    what["annotations"][1]["bbox"] = [30, 20, -10, -15]
    source = write_split(tmp_path / "source", "train2017", what)
    ran = mobilevit("prepare", "coco", "--source", source, "--data-dir", tmp_path / "data")
    assert ran.status == 1 and ran.out == ""
    assert len(ran.err.strip().splitlines()) == 1
    assert "annotation 1002" in ran.err and "(x, y, width, height)" in ran.err


def test_a_drawn_validation_split_is_told_and_trained_with(mobilevit, tmp_path, train_tiny):
    source = write_folder(tmp_path / "source", splits=("train",), count=40)
    prepare = ("prepare", "image_folder", "--source", source, "--name", "drawn_pets")
    ran = mobilevit(*prepare, "--validation-share", 1.0)
    assert ran.status == 2 and "--validation-share must be above 0 and below 1" in ran.err
    ran = mobilevit(*prepare, "--validation-share", 0.25)
    assert ran.status == 0, ran.err
    counts = {row[0]: int(row[1]) for row in words(ran.out) if len(row) == 3 and row[2] == "0"}
    assert sum(counts.values()) == 80 and 8 < counts["validation"] < 32
    told = f"validation: {counts['validation']} of 80 images of train, drawn by"
    assert told in ran.err
    run = tmp_path / "run"
    data = ("--data.dataset", "drawn_pets", "--data.test", "None")
    ran = train_tiny(run, data)
    assert ran.status == 0, ran.err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"train", "validation"}
    assert {row["count"] for row in rows if row["split"] == "validation"} == {counts["validation"]}


def test_a_source_of_another_layout(mobilevit, tmp_path):
    boxes = ("coco", "yolo", "voc_detection")
    for builder in (*boxes, "coco_segmentation", "voc_segmentation", "mask_folder", "parquet"):
        ran = mobilevit("prepare", builder, "--source", tmp_path, "--data-dir", tmp_path / "data")
        assert ran.status == 1 and len(ran.err.strip().splitlines()) == 1
        assert str(tmp_path) in ran.err
        ran = mobilevit("prepare", builder)
        assert ran.status == 2 and f"{builder} needs --source" in ran.err
