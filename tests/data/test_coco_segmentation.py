"""COCO's instances as masks of VOC's classes."""

import json
import math
from typing import Any

import numpy as np
import pytest

from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.masks import decode_mask, to_segmentation
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.data.voc_names import VOC_OF_COCO, class_names_voc
from mobilevit_jax.errors import DataError
from tests.data.coco_layout import HEIGHT, WIDTH, annotation, content, encoded, write_split

# pycocotools hands NumPy 2 an array in the manner of NumPy 1.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

DOG, PERSON, TOOTHBRUSH, CAR = 18, 1, 90, 3
DOG_OF_VOC, PERSON_OF_VOC, CAR_OF_VOC = 12, 15, 7


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def source_with(tmp_path, annotations: list[dict]):
    return write_split(tmp_path / "source", "val2017", content() | {"annotations": annotations})


def masks_of(data_dir, split: str = "validation") -> dict[str, np.ndarray]:
    opened = open_split("coco_segmentation", split, data_dir)
    records = [to_segmentation(r) for r in opened.records(range(len(opened)))]
    return {r["name"]: decode_mask(r["mask"], name=r["name"]) for r in records}


def first_mask(tmp_path, data_dir, annotations: list[dict]) -> np.ndarray:
    prepare("coco_segmentation", source=source_with(tmp_path, annotations), data_dir=data_dir)
    return masks_of(data_dir)["000000000010.jpg"]


def fails(source, data_dir, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        prepare("coco_segmentation", source=source, data_dir=data_dir)
    assert "\n" not in str(caught.value)
    assert list(data_dir.rglob("*")) == []


def test_the_first_of_overlapping_instances_wins(tmp_path, data_dir):
    drawn = first_mask(
        tmp_path,
        data_dir,
        [
            annotation(5, 10, DOG, [4, 3, 10, 12]),
            annotation(1, 10, TOOTHBRUSH, [0, 0, 40, 30]),
            annotation(2, 10, PERSON, [8, 6, 20, 20]),
        ],
    )
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[6:26, 8:28] = PERSON_OF_VOC
    expected[3:15, 4:14] = DOG_OF_VOC
    np.testing.assert_array_equal(drawn, expected)


def test_what_is_stored(tmp_path, data_dir):
    source = source_with(tmp_path, [annotation(1, 10, CAR, [4, 3, 10, 12])])
    info = prepare("coco_segmentation", source=source, data_dir=data_dir)
    assert info.splits == {"validation": 3} and info.class_names == class_names_voc()
    masks = masks_of(data_dir)
    # Images that show nothing of VOC are kept.
    assert {name: int(mask.max()) for name, mask in masks.items()} == {
        "000000000010.jpg": CAR_OF_VOC,
        "000000000011.jpg": 0,
        "000000000012.jpg": 0,
    }
    record = next(
        r
        for r in open_split("coco_segmentation", "validation", data_dir).records(range(3))
        if r["name"] == "000000000010.jpg"
    )
    assert record["image"] == encoded(10)


def test_several_polygons_and_holes_by_run_length(tmp_path, data_dir):
    two = [[2, 2, 8, 2, 8, 6, 2, 6], [20, 10, 30, 10, 30, 20, 20, 20]]
    ring = np.zeros((HEIGHT, WIDTH), np.uint8)
    ring[10:28, 5:18] = 1
    ring[14:20, 8:14] = 0
    # Counted down the columns, starting with zeros.
    flat = np.concatenate([[0], ring.ravel(order="F"), [2]])
    changes = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], changes])).tolist()
    code = {"size": [HEIGHT, WIDTH], "counts": counts}
    drawn = first_mask(
        tmp_path,
        data_dir,
        [
            annotation(1, 10, DOG, [0, 0, 1, 1], segmentation=two),
            annotation(2, 10, PERSON, [0, 0, 1, 1], segmentation=code, iscrowd=1),
        ],
    )
    expected = ring * PERSON_OF_VOC
    expected[2:6, 2:8] = DOG_OF_VOC
    expected[10:20, 20:30] = DOG_OF_VOC
    np.testing.assert_array_equal(drawn, expected)


def test_a_compressed_run_length_code(tmp_path, data_dir):
    from pycocotools import mask as coco_mask

    region = np.zeros((HEIGHT, WIDTH), np.uint8)
    region[4:9, 6:30] = 1
    code: dict[str, Any] = dict(coco_mask.encode(np.asfortranarray(region)))
    code["counts"] = code["counts"].decode()
    drawn = first_mask(
        tmp_path, data_dir, [annotation(1, 10, CAR, [6, 4, 24, 5], segmentation=code)]
    )
    np.testing.assert_array_equal(drawn, region * CAR_OF_VOC)


def test_polygons_without_area_are_left_out_and_counted(tmp_path, data_dir):
    source = source_with(
        tmp_path,
        [
            annotation(
                1, 10, DOG, [0, 0, 1, 1], segmentation=[[1, 2, 3, 4], [1, 1, 9, 1, 9, 9, 5]]
            ),
            annotation(2, 10, TOOTHBRUSH, [0, 0, 1, 1], segmentation=[[1]]),
            annotation(3, 11, CAR, [0, 0, 1, 1], segmentation=[]),
            annotation(4, 12, CAR, [4, 3, 10, 12]),
        ],
    )
    info = prepare("coco_segmentation", source=source, data_dir=data_dir)
    what = "polygons that are empty or not of three points and more left out"
    called = "images, called 'val2017' in the source"
    assert info.notes == {"validation": {what: 3, called: 3}}
    assert [mask.any() for _, mask in sorted(masks_of(data_dir).items())] == [False, False, True]


@pytest.mark.parametrize(
    ("segmentation", "match"),
    [
        (None, "has no segmentation"),
        ([[1, 2, 3, 4, math.nan, 6]], "not finite, or far outside"),
        ([[1, 2, 3, 4, "x", 6]], "polygon that is not a list of numbers"),
        ([1, 2, 3, 4, 5, 6], "polygon that is not a list of numbers"),
        ([[1, 2, 3, 4, 1e9, 6]], "not finite, or far outside"),
        ({"size": [WIDTH, HEIGHT], "counts": [1200]}, r"mask of size \[40, 30\].*\[30, 40\]"),
        ({"size": None, "counts": [1200]}, "mask of size None"),
        ({"size": 5, "counts": [1200]}, "mask of size 5"),
        ({"size": [HEIGHT, WIDTH], "counts": [7]}, "does not fill its image: 7 pixels .* 1200"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "damaged run-length code"),
        ({"size": [HEIGHT, WIDTH], "counts": None}, "damaged run-length code"),
        ({"size": [HEIGHT, WIDTH], "counts": [1300, -100]}, "damaged run-length code"),
        ([[1, 2, 3, 4, 10**400, 6]], "polygon that is not a list of numbers"),
    ],
)
def test_regions_that_cannot_be_are_named(tmp_path, data_dir, segmentation, match):
    bad = annotation(44, 11, PERSON, [0, 0, 1, 1], segmentation=segmentation)
    fails(source_with(tmp_path, [bad]), data_dir, f"val2017.json: annotation 44 .*{match}")


def test_a_code_that_ends_before_its_image(tmp_path, data_dir):
    """pycocotools would fill up the mask with whatever is in the memory."""
    from pycocotools import mask as coco_mask

    small: Any = coco_mask.encode(np.ones((20, 30), np.uint8, order="F"))["counts"]
    code = {"size": [HEIGHT, WIDTH], "counts": small.decode()}
    bad = annotation(44, 11, PERSON, [0, 0, 1, 1], segmentation=code)
    source = source_with(tmp_path, [annotation(1, 10, CAR, [4, 3, 10, 12]), bad])
    fails(source, data_dir, "val2017.json: annotation 44 .* 600 pixels instead of 30 x 40 = 1200")
    info = prepare("coco_segmentation", source=source, data_dir=data_dir, skip_bad_images=True)
    assert info.splits == {"validation": 2} and info.skipped == {"validation": 1}
    metadata = json.loads((info.directory / "metadata.json").read_text())
    assert metadata["skipped"] == {"validation": ["val2017/000000000011.jpg"]}


def test_a_split_that_shows_no_class(tmp_path, data_dir):
    source = source_with(tmp_path, [annotation(1, 10, TOOTHBRUSH, [0, 0, 9, 9])])
    fails(
        source, data_dir, "no mask of the split 'validation' .* shows a class: .* are 0, but 0 is"
    )


def test_other_categories_than_cocos(tmp_path, data_dir):
    what = content()
    what["categories"][5]["name"] = "stapler"
    source = write_split(tmp_path / "source", "val2017", what)
    fails(source, data_dir, "category 85 is 'stapler'; the table from COCO to VOC")


def test_real_images(shared_data, data_dir):
    source = shared_data / "coco128"
    assert prepare("coco_segmentation", source=source, data_dir=data_dir).splits == {"train": 128}
    masks = masks_of(data_dir, "train")
    truth = json.loads((source / "annotations" / "instances_train2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    expected: dict[str, set[int]] = {name: set() for name in masks}
    areas = dict.fromkeys(masks, 0.0)
    for entry in truth["annotations"]:
        label = VOC_OF_COCO.get(entry["category_id"])
        if label:
            expected[names[entry["image_id"]]].add(label)
            areas[names[entry["image_id"]]] += entry["area"]
    whole = 0
    for name, mask in masks.items():
        found = set(np.unique(mask).tolist()) - {0}
        assert found <= expected[name]
        whole += found == expected[name]  # an instance may be hidden by others
        assert np.count_nonzero(mask) <= 1.05 * areas[name] + 30
        data = (source / "train2017" / name).read_bytes()
        assert decode_image(data, name=name).shape[:2] == mask.shape
    assert whole >= 125
    drawn = sum(np.count_nonzero(mask) for mask in masks.values())
    assert drawn > 0.85 * sum(areas.values())
