"""Which records an example is made of, and what becomes of bad ones."""

# The stand-ins are no `Split` for pyright.
# pyright: reportArgumentType=false

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mobilevit_jax.data.annotations import for_training, pad_objects, to_detection
from mobilevit_jax.data.loader import LoaderConfig, SkippedImages, load_batches
from mobilevit_jax.data.mosaic import Labelled, MosaicConfig
from mobilevit_jax.data.mosaic_examples import mosaic_example
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sampler import PlannedBatch, Scale, plan_epoch, plan_evaluation
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.errors import DataError
from tests.tasks.detection.stand_ins import MemorySplit

SIZES = [(40 + 5 * i, 90 - 5 * i) for i in range(12)]
OBJECTS = [[([5, 5, 30, 25], 1 + i % 3, False), ([10, 20, 35, 38], 3, False)] for i in range(12)]
STILL = MosaicConfig(
    rotation=0, scale=(0.5, 0.5), shear=0, translate=0, distort_probability=0, flip_probability=0
)


class CountingSplit(MemorySplit):
    """Notes what is asked for."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.asked = []

    def records(self, ids):
        self.asked.append(list(ids))
        return super().records(ids)


def make(split, record_id, *, epoch=0, seed=0, config=None, size=(64, 64), **options):
    (record,) = MemorySplit.records(split, [record_id])
    planned = PlannedBatch(size[0], size[1], np.array([record_id]), epoch)
    config = config or MosaicConfig()
    return mosaic_example(split, record, record_id, planned, config, seed=seed, **options)


def same(a: Labelled, b: Labelled) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_seed_epoch_and_record_say_it_all():
    split = MemorySplit(SIZES, OBJECTS)
    made = {
        (seed, epoch, record): make(split, record, epoch=epoch, seed=seed)
        for seed in (0, 1)
        for epoch in (0, 1)
        for record in (0, 7)
    }
    for (seed, epoch, record), example in made.items():
        assert same(example, make(split, record, epoch=epoch, seed=seed))
    assert len({example.image.tobytes() for example in made.values()}) == 8


def test_three_others_are_read_at_once_and_each_is_as_likely():
    split = CountingSplit(SIZES, OBJECTS)
    for epoch in range(400):
        make(split, 3, epoch=epoch, config=STILL, size=(16, 16))
    assert [len(ids) for ids in split.asked] == [3] * 400
    counts = np.bincount(np.concatenate(split.asked), minlength=12)
    assert len(counts) == 12 and counts.min() > 60 and counts.max() < 140  # 100 each
    split.asked.clear()
    config = MosaicConfig(mixup_probability=1)
    make(split, 3, config=config)
    assert [len(ids) for ids in split.asked] == [4]


def test_the_four_images_of_a_mosaic():
    """A picture's level is its number, so the pixels say which are there."""
    split = CountingSplit(SIZES, OBJECTS)
    config, shown = replace(STILL, scale=(1, 1)), []  # which moves pixels, and blends none
    for epoch in range(20):
        found = make(split, 11, epoch=epoch, config=config, pad_value=200)
        four = {11, *split.asked[-1]}
        seen = set(np.unique(found.image).tolist()) - {200}
        assert seen <= four
        shown.append(len(seen) / len(four))
    assert np.mean(shown) > 0.9


def test_the_last_epochs_have_no_mosaic():
    split = CountingSplit(SIZES, OBJECTS)
    found = make(split, 4, config=STILL, mosaic=False)  # 60 x 70
    assert split.asked == []
    assert (found.image[:54] == 4).all() and (found.image[54:] == 114).all()
    np.testing.assert_allclose(found.boxes[:, [0, 2]] * 70, [[5, 30], [10, 35]], rtol=1e-5)
    np.testing.assert_allclose(
        found.boxes[:, [1, 3]] * 64 / 54 * 60, [[5, 25], [20, 38]], rtol=1e-5
    )


def test_crowds_and_boxes_without_area_take_no_part():
    objects = [[([5, 5, 30, 25], 1, False), ([0, 0, 39, 39], 2, True), ([9, 9, 9, 20], 3, False)]]
    split = MemorySplit([(40, 40)], objects)
    for epoch in range(10):
        assert set(make(split, 0, epoch=epoch).labels.tolist()) == {1}


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_the_order_of_the_channels(order):
    split = MemorySplit([(32, 32)], [[([5, 5, 30, 25], 1, False)]])
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 2] = 255
    split._records[0]["image"] = cv2.imencode(".png", red)[1].tobytes()
    found = make(split, 0, config=STILL, channel_order=order)
    assert (found.image[..., order.index("r")] > 100).all()


def load_all(split, plan, config=STILL, *, skip=True, skipped=None, threads=2, **options):
    def load(record, record_id, planned):
        image, boxes, labels = mosaic_example(split, record, record_id, planned, config, seed=5)
        padded = pad_objects(boxes, labels, 8)
        return {"image": image, "boxes": padded.boxes, "labels": padded.labels}

    loader = LoaderConfig(threads=threads, skip_bad_images=skip)
    with load_batches(split, plan, load, loader, skipped=skipped, **options) as batches:
        return list(batches)


def test_a_bad_image_among_the_others_is_named():
    split = MemorySplit(SIZES, OBJECTS, bad=(6,))
    with pytest.raises(DataError, match=r"^6\.png: "):
        load_all(split, plan_epoch(0, 0, 12, (Scale(32, 32, 4),)), skip=False)


def test_an_example_with_a_bad_image_is_skipped_and_counted():
    split, skipped = CountingSplit(SIZES, OBJECTS, bad=(6,)), SkippedImages()
    plan = plan_epoch(0, 0, 12, (Scale(32, 32, 4),))
    batches = load_all(split, plan, skipped=skipped)
    bad = 0
    for planned, batch in zip(plan, batches, strict=True):
        for record_id, weight in zip(planned.ids.tolist(), batch["weight"], strict=True):
            split.asked.clear()
            try:
                make(split, record_id, seed=5, config=STILL, size=(32, 32))
            except DataError:
                assert record_id == 6 or 6 in split.asked[-1]
                bad += 1
                assert weight == 0
            else:
                assert weight == 1
    assert 1 < skipped.count == bad < 12
    assert all(reason.startswith("6.png: ") for reason in skipped.reasons.values())


def test_threads_hosts_and_resuming_change_nothing():
    split = MemorySplit(SIZES, OBJECTS, bad=(6,))
    plan = plan_epoch(3, 1, 12, (Scale(32, 32, 4), Scale(64, 64, 2)))
    whole = load_all(split, plan, threads=1)
    later = load_all(split, plan, threads=3, start=1)
    for expected, batch in zip(whole[1:], later, strict=True):
        for name, array in expected.items():
            np.testing.assert_array_equal(batch[name], array)
    parts = [load_all(split, plan, host=host, hosts=2) for host in range(2)]
    for step, expected in enumerate(whole):
        counts = expected["weight"] > 0
        for name, array in expected.items():
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined[counts], array[counts])


def test_coco128(shared_data, tmp_path):
    """Real photographs: every box stays inside, and of the classes that the split has."""
    prepare("coco", source=shared_data / "coco128", data_dir=tmp_path, name="coco128")
    split = open_split("coco128", "train", tmp_path)
    (planned, _), *_ = plan_evaluation(len(split), 160, 160, 16)
    objects = 0
    for record_id in planned.ids.tolist():
        (record,) = split.records([record_id])
        made = mosaic_example(split, record, record_id, planned, MosaicConfig(), seed=0)
        assert (made.boxes >= 0).all() and (made.boxes <= 1).all()
        assert (made.labels >= 1).all() and (made.labels <= 80).all()
        objects += len(made.labels)
        own = mosaic_example(
            split, record, record_id, planned, MosaicConfig(), seed=0, mosaic=False
        )
        _, labels = for_training(to_detection(record, record_id))
        assert set(own.labels.tolist()) <= set(labels.tolist())
        assert own.image.shape == (160, 160, 3)
    assert objects > 100
