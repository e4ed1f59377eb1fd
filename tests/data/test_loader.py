import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from mobilevit_jax.data.augment import AugmentConfig, augment, example_rng
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.loader import LoaderConfig, SkippedImages, choose_threads, load_batches
from mobilevit_jax.data.sampler import (
    PlannedBatch,
    RunPlan,
    Scale,
    plan_epoch,
    plan_evaluation,
)
from mobilevit_jax.errors import ConfigurationError, DataError

TABLE = (Scale(16, 16, 12), Scale(24, 24, 6), Scale(32, 16, 4))


class MemorySplit:
    """Encoded images in memory; those whose ids are in `bad` are no images."""

    def __init__(self, count=50, bad=()):
        self.images = []
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 28, 3), np.uint8)
            self.images.append(cv2.imencode(".png", pixels)[1].tobytes())
        for i in bad:
            self.images[i] = b"no image"

    def __len__(self):
        return len(self.images)

    def records(self, ids):
        return [{"image": self.images[i], "label": i, "name": f"image_{i}.png"} for i in ids]


def load_example(record, record_id, planned):
    image = decode_image(record["image"], name=record["name"])
    rng = example_rng(0, 0, record_id)
    image = augment(image, rng, planned.height, planned.width, AugmentConfig())
    return {"image": image, "label": np.int32(record["label"])}


def load_all(plan, split=None, threads=2, skip=False, load=load_example, **options):
    config = LoaderConfig(threads=threads, skip_bad_images=skip)
    with load_batches(split or MemorySplit(), plan, load, config, **options) as batches:
        return list(batches)


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def wait_for_no_threads(seconds=5.0):
    end = time.monotonic() + seconds
    while loader_threads() and time.monotonic() < end:
        time.sleep(0.01)
    return not loader_threads()


def test_batches_follow_the_plan():
    plan = plan_epoch(3, 1, 50, TABLE)
    batches = load_all(plan)
    assert len(batches) == len(plan) > 3
    for planned, batch in zip(plan, batches, strict=True):
        assert batch.keys() == {"image", "label", "weight"}
        assert batch["image"].shape == (len(planned.ids), planned.height, planned.width, 3)
        assert batch["image"].dtype == np.uint8 and batch["weight"].dtype == np.float32
        np.testing.assert_array_equal(batch["label"], planned.ids.astype(np.int32))
        assert batch["label"].dtype == np.int32 and (batch["weight"] == 1).all()
        record = MemorySplit().records([int(planned.ids[-1])])[0]
        expected = load_example(record, int(planned.ids[-1]), planned)
        np.testing.assert_array_equal(batch["image"][-1], expected["image"])


def test_threads_do_not_change_anything():
    def uneven(record, record_id, planned):
        time.sleep(0.002 * (record_id % 3))  # so that batches finish out of order
        return load_example(record, record_id, planned)

    plan = plan_epoch(0, 0, 50, TABLE)
    assert_same(load_all(plan, threads=4, load=uneven), load_all(plan, threads=1))


def test_start_resumes():
    plan = plan_epoch(0, 0, 50, TABLE)
    whole = load_all(plan)
    assert_same(load_all(plan, start=2), whole[2:])
    assert load_all(plan, start=len(plan)) == []


@pytest.mark.parametrize("start", [-1, 2])
def test_start_outside_the_plan(start):
    plan = plan_evaluation(4, 8, 8, 4)
    with pytest.raises(ConfigurationError, match=f"step {start} of a plan of 1"):
        load_batches(MemorySplit(4), plan, load_example, LoaderConfig(), start=start)


def test_hosts_share_each_batch():
    plan = plan_epoch(0, 0, 50, TABLE)
    hosts = [load_all(plan, host=host, hosts=2) for host in range(2)]
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*hosts, strict=True)
    ]
    assert_same(joined, load_all(plan))


def test_hosts_that_do_not_fit():
    plan = [PlannedBatch(8, 8, np.arange(4))]
    with pytest.raises(ConfigurationError, match="batch of 4 does not divide among 3 hosts"):
        load_batches(MemorySplit(), plan, load_example, LoaderConfig(), hosts=3)
    with pytest.raises(ConfigurationError, match="host must be from 0 to 1"):
        load_batches(MemorySplit(), plan, load_example, LoaderConfig(), host=2, hosts=2)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_evaluation_weighs_every_record_once(hosts):
    plan = plan_evaluation(13, 16, 16, 8)
    labels = []
    for host in range(hosts):
        for batch in load_all(plan, MemorySplit(13), host=host, hosts=hosts):
            assert batch["image"].shape == (8 // hosts, 16, 16, 3)
            labels += batch["label"][batch["weight"] == 1].tolist()
    assert sorted(labels) == list(range(13))


def test_padding_is_not_decoded():
    seen = []

    def counting(record, record_id, planned):
        seen.append(record_id)
        return load_example(record, record_id, planned)

    load_all(plan_evaluation(9, 8, 8, 8), MemorySplit(9), load=counting)
    assert sorted(seen) == list(range(9))


@pytest.mark.parametrize("threads", [1, 3])
def test_bad_image_is_raised_as_itself_with_its_name(threads):
    plan = plan_evaluation(50, 8, 8, 5)
    config = LoaderConfig(threads=threads)
    batches = load_batches(MemorySplit(bad=[17]), plan, load_example, config)
    taken = []
    with pytest.raises(DataError, match=r"^image_17\.png: ") as caught:
        for batch in batches:
            taken.append(batch)
    assert len(taken) == 3  # everything before it came through
    assert type(caught.value) is DataError
    assert wait_for_no_threads()
    assert list(batches) == []


def test_any_other_error_is_raised_as_itself_even_when_skipping():
    def broken(record, record_id, planned):
        raise KeyError("boxes")

    with pytest.raises(KeyError, match="boxes"):
        load_all(plan_evaluation(8, 8, 8, 4), skip=True, load=broken)


def test_bad_images_are_replaced_and_counted():
    split = MemorySplit(bad=[3, 4, 30])
    skipped = SkippedImages()
    plan = plan_evaluation(50, 16, 16, 10)
    batches = load_all(plan, split, skip=True, skipped=skipped)
    first = batches[0]
    assert first["weight"].tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 1, 1]
    assert first["label"][3] not in (3, 4)
    clean = load_all(plan)[0]
    for row in (3, 4):  # a whole other example, image and label
        other = int(first["label"][row])
        np.testing.assert_array_equal(first["image"][row], clean["image"][other])
    assert skipped.count == 3
    assert sorted(skipped.reasons) == [3, 4, 30]
    assert skipped.reasons[30].startswith("image_30.png: ")
    assert sum(batch["weight"].sum() for batch in batches) == 47


def test_bad_images_count_when_their_batch_is_taken():
    config = LoaderConfig(threads=2, skip_bad_images=True)
    plan = plan_evaluation(50, 8, 8, 5)
    split = MemorySplit(bad=[2, 7, 8])
    with load_batches(split, plan, load_example, config) as batches:
        counts = []
        for _ in batches:
            counts.append(batches.skipped.count)
    assert counts[:3] == [1, 3, 3]


def test_skipping_does_not_depend_on_threads():
    plan, split = plan_epoch(0, 0, 50, TABLE), MemorySplit(bad=range(0, 50, 3))
    one = load_all(plan, split, threads=1, skip=True)
    assert_same(load_all(plan, split, threads=4, skip=True), one)


@pytest.mark.parametrize("bad", [[8], [4, 5, 6, 7, 8]])
def test_a_batch_without_a_good_image_borrows_one(bad):
    skipped = SkippedImages()
    plan = plan_evaluation(9, 8, 8, 4)  # the last batch holds record 8 and padding
    batches = load_all(plan, MemorySplit(9, bad), skip=True, skipped=skipped)
    assert (batches[-1]["weight"] == 0).all()
    assert set(batches[-1]["label"].tolist()) <= set(range(4))
    assert skipped.count == len(bad)


def test_a_borrowed_image_is_the_same_after_resuming():
    plan, split = plan_evaluation(9, 8, 8, 4), MemorySplit(9, [8])
    whole = load_all(plan, split, skip=True)
    assert_same(load_all(plan, split, skip=True, start=2), whole[2:])


def test_nothing_but_bad_images():
    with pytest.raises(DataError, match=r"no image could be decoded .*image_\d\.png"):
        load_all(plan_evaluation(8, 8, 8, 4), MemorySplit(8, range(8)), skip=True)


def test_leaving_early_leaves_no_threads():
    plan = plan_epoch(0, 0, 50, (Scale(8, 8, 2),))
    with load_batches(MemorySplit(), plan, load_example, LoaderConfig(threads=3)) as batches:
        next(batches)
        assert loader_threads()
    assert wait_for_no_threads()
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize("steps", [1, 4])
def test_closing_stops_in_the_middle_of_a_batch(steps):
    started, taken = threading.Event(), []

    def slow(record, record_id, planned):
        started.set()
        time.sleep(0.02)
        return load_example(record, record_id, planned)

    plan = plan_evaluation(500, 8, 8, 500) * steps  # ten seconds a batch if it were finished
    batches = load_batches(MemorySplit(500), plan, slow, LoaderConfig(threads=1))
    taker = threading.Thread(target=lambda: taken.append(list(batches)))
    taker.start()
    assert started.wait(5)
    batches.close()
    taker.join(3)
    assert taken == [[]]  # the waiting thread saw the end, no error
    assert wait_for_no_threads(3)


def test_dropping_the_iterator_stops_its_threads():
    plan = plan_epoch(0, 0, 50, (Scale(8, 8, 2),))
    batches = load_batches(MemorySplit(), plan, load_example, LoaderConfig(threads=2))
    next(batches)
    del batches
    assert wait_for_no_threads()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"image": np.zeros((8, 9), np.uint8)}, r"'image' as uint8 \(8, 9\) after uint8 \(8, 8\)"),
        ({"image": np.zeros((8, 8), np.int32)}, r"'image' as int32"),
        ({"other": np.zeros((8, 8), np.uint8)}, r"same keys .* \['other'\]"),
    ],
)
def test_examples_that_do_not_stack(second, message):
    def load(record, record_id, planned):
        return {"image": np.zeros((8, 8), np.uint8)} if record_id == 0 else second

    with pytest.raises(ValueError, match=message):
        load_all(plan_evaluation(2, 8, 8, 2), load=load)


@pytest.mark.parametrize(
    ("batch_bytes", "config", "expected"),
    [
        (2**20, LoaderConfig(threads=4), (4, 8)),
        (2**30, LoaderConfig(threads=8, memory_gib=6), (6, 6)),
        (2**30, LoaderConfig(threads=4, memory_gib=6), (4, 6)),
        (2**32, LoaderConfig(threads=4, memory_gib=1), (1, 1)),
    ],
)
def test_threads_and_read_ahead_stay_in_the_budget(batch_bytes, config, expected):
    assert choose_threads(batch_bytes, config) == expected


def test_threads_come_from_the_machine():
    threads, batches = choose_threads(1, LoaderConfig())
    assert threads >= 1 and batches == 2 * threads


def test_read_ahead_is_bounded():
    made = []

    def counting(record, record_id, planned):
        made.append(record_id)
        return load_example(record, record_id, planned)

    plan = plan_evaluation(50, 8, 8, 1)
    with load_batches(MemorySplit(), plan, counting, LoaderConfig(threads=2)) as batches:
        next(batches)
        time.sleep(0.3)
        assert len(made) <= 1 + 4  # the one taken and two for each thread
        next(batches)


def test_reading_ahead_does_not_stop_at_the_end_of_an_epoch():
    made = []

    def counting(record, record_id, planned):
        made.append(planned.epoch)
        return load_example(record, record_id, planned)

    plan = RunPlan(0, 100, 4, (Scale(8, 8, 2),))  # two steps an epoch
    with load_batches(MemorySplit(4), plan, counting, LoaderConfig(threads=2)) as batches:
        next(batches)
        end = time.monotonic() + 5
        while len(made) < 2 + 8 and time.monotonic() < end:
            time.sleep(0.01)
    assert sorted(made)[:8] == [0, 0, 0, 0, 1, 1, 1, 1] and max(made) <= 2


def test_a_plan_is_not_looked_through_beforehand():
    asked = []

    class Watched(RunPlan):
        def __getitem__(self, step):
            asked.append(step)
            return super().__getitem__(step)

    plan = Watched(0, 10_000, 50, TABLE)
    config = LoaderConfig(threads=1)
    with load_batches(MemorySplit(), plan, load_example, config, start=500) as batches:
        taken = next(batches)
    assert taken["label"].tolist() == plan[500].ids.tolist()
    assert set(asked) <= {500, 501, 502}
    with pytest.raises(ConfigurationError, match="batch of 4 does not divide among 3 hosts"):
        load_batches(MemorySplit(), plan, load_example, config, hosts=3)


def test_invalid_settings():
    with pytest.raises(ConfigurationError, match="threads"):
        LoaderConfig(threads=0)
    with pytest.raises(ConfigurationError, match="memory_gib"):
        LoaderConfig(memory_gib=0)


def test_a_plain_script_needs_no_flags_and_prints_nothing():
    script = """
import numpy as np
from mobilevit_jax.data.loader import LoaderConfig, load_batches
from mobilevit_jax.data.sampler import plan_evaluation

class Split:
    def records(self, ids):
        return [{} for _ in ids]

def load(record, record_id, planned):
    return {"label": np.int32(record_id)}

plan = plan_evaluation(40, 8, 8, 4)
batches = load_batches(Split(), plan, load, LoaderConfig(threads=2))
next(batches)  # and leave without closing
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
