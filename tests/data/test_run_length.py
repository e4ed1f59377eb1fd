"""Run-length codes: COCO's own are read like pycocotools does, and damaged ones are refused."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mobilevit_jax.data.builders.run_length import draw_runs, read_runs
from mobilevit_jax.errors import DataError

SIZE = (30, 40)


def region(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Returns a bool mask of blobs, or of single pixels, empty or full."""
    rng = np.random.default_rng(seed)
    side = (1, 3, 11)[seed % 3]
    coarse = rng.random((size[0] // side + 1, size[1] // side + 1)) < (seed % 11) / 10
    return coarse.repeat(side, 0).repeat(side, 1)[: size[0], : size[1]]


def text_of(mask: np.ndarray) -> str:
    counts: Any = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
    return counts.decode()


@pytest.mark.parametrize("size", [SIZE, (1, 1), (1, 50), (50, 1), (400, 500)])
def test_texts_are_read_like_pycocotools_does(size):
    for seed in range(44):
        mask = region(seed, size)
        drawn = draw_runs(read_runs(text_of(mask), size, "it"), size)
        assert drawn.dtype == bool
        np.testing.assert_array_equal(drawn, mask)


def test_lists_are_read_like_texts():
    counts = [0, 5, 30, 1, 0, 7, 1157]
    code: Any = {"size": list(SIZE), "counts": counts}
    expected = coco_mask.decode(coco_mask.frPyObjects(code, *SIZE))
    drawn = draw_runs(read_runs(counts, SIZE, "it"), SIZE)
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(read_runs([1200.0], SIZE, "it"), [1200])


DAMAGED = {
    "cut": text_of(region(16))[:-3],
    "of a smaller image": text_of(region(16, (20, 30))),
    "of a larger image": text_of(region(16, (60, 40))),
    "longer": text_of(region(16)) + "1",
    "ends within a number": text_of(region(16)) + "P",
    "empty": "",
    "space": " ",
    "line break": text_of(region(16)) + "\n",
    "not ASCII": "é" + text_of(region(16)),
    "half a character": "\ud800",
    "letters beyond the 64": "xyz",
    "a number without end": "o" * 40 + "0",
    "negative": "O" + text_of(region(16)),
    "null": None,
    "number": 1200,
    "object": {},
    "empty list": [],
    "list that is short": [600],
    "list that is long": [600, 601],
    "negative run": [1300, -100],
    "fraction": [600.5, 599.5],
    "not finite": [float("nan")],
    "infinite": [float("inf")],
    "texts": ["1200"],
    "nulls": [None, 1200],
    "truths": [True],
    "truths among numbers": [True, 1199],
    "nested": [[600, 600]],
    "ragged": [[600], 600],
    "huge": [10**30],
    "sums to the right by overflow": [2**63 - 1, 2**63 - 1, 1202],
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_damaged_codes_are_refused(fault):
    with pytest.raises(DataError, match="^file: annotation 7 has a .*run-length code") as caught:
        read_runs(DAMAGED[fault], SIZE, "file: annotation 7")
    assert "\n" not in str(caught.value)
