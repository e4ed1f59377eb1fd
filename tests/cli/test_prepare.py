"""`mobilevit prepare` for data sets with boxes and masks: what it prints, and its faults."""

from tests.data.coco_layout import annotation, content, write_split


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


def test_a_source_of_another_layout(mobilevit, tmp_path):
    for builder in ("coco", "coco_segmentation", "voc_segmentation"):
        ran = mobilevit("prepare", builder, "--source", tmp_path, "--data-dir", tmp_path / "data")
        assert ran.status == 1 and len(ran.err.strip().splitlines()) == 1
        assert str(tmp_path) in ran.err
        ran = mobilevit("prepare", builder)
        assert ran.status == 2 and f"{builder} needs --source" in ran.err
