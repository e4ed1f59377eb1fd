import numpy as np
import pytest

from mobilevit_jax.tasks.detection.average_precision import METRICS, coco_metrics


def truth(*boxes: tuple[float, float, float, float], **more) -> list[dict]:
    """Returns annotations of category 2, the first in image 5 and so on."""
    return [
        {
            "id": place + 1,
            "image_id": 5 + place,
            "category_id": 2,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        | more
        for place, box in enumerate(boxes)
    ]


def result(image: int, box: tuple[float, float, float, float], score: float) -> dict:
    return {"image_id": image, "category_id": 2, "bbox": list(box), "score": score}


def test_categories_and_sizes_without_objects_do_not_count():
    box = (0, 0, 40, 40)
    found = coco_metrics([5, 6], (1, 2), truth(box), [result(5, box, 0.5)])
    assert found == {name: pytest.approx(1) for name in ("map", "map50", "map75", "map_medium")}


def test_each_overlap_counts(capsys):
    # 40 of 50 rows: an overlap of 0.8, enough for seven of the ten thresholds.
    found = coco_metrics([5], (2,), truth((0, 0, 50, 50)), [result(5, (0, 0, 50, 40.1), 0.5)])
    assert [found[name] for name in ("map", "map50", "map75")] == pytest.approx([0.7, 1, 1])
    assert capsys.readouterr().out == ""


def test_a_false_alarm_matters_by_its_score():
    box, elsewhere = (0, 0, 50, 50), (200, 200, 50, 50)
    for score, expected in ((0.1, 1), (0.9, 0.5)):
        results = [result(5, box, 0.5), result(5, elsewhere, score)]
        found = coco_metrics([5], (2,), truth(box), results)
        assert found["map50"] == pytest.approx(expected)


def test_images_without_a_detection_count_as_missed():
    box = (0, 0, 50, 50)
    found = coco_metrics([5, 6], (2,), truth(box, box), [result(5, box, 0.5)])
    assert found["map"] == pytest.approx(51 / 101)  # precision 1 at recall 0 to 0.5


def test_nothing_at_all():
    assert coco_metrics([5], (2,), [], []) == {}
    found = coco_metrics([5], (2,), truth((0, 0, 9, 9)), [])
    assert found == {name: 0 for name in (*METRICS[:3], "map_small")}
    assert all(np.isfinite(value) for value in found.values())
