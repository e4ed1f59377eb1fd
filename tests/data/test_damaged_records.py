"""Damage in prepared data sets, and threads that fail: named, skipped and counted, never silent."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.loader import LoaderConfig, SkippedImages, load_batches
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sampler import plan_evaluation
from mobilevit_jax.data.sources import dataset_info, open_split
from mobilevit_jax.errors import DataError
from tests.data.test_loader import MemorySplit, wait_for_no_threads

DAMAGED = (5, 40)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    prepare("shapes/tiny", data_dir=place)
    return place


def images_of(place) -> list[bytes]:
    split = open_split("shapes/tiny", "train", place)
    return [record["image"] for record in split.records(range(len(split)))]


@pytest.fixture(scope="module")
def damaged(whole, tmp_path_factory) -> Path:
    """A copy in which one bit is turned in the files' chunks of two records."""
    place = tmp_path_factory.mktemp("damaged") / "data"
    shutil.copytree(whole, place)
    (shard,) = place.rglob("*-train.array_record*")
    data = bytearray(shard.read_bytes())
    for record in DAMAGED:
        # A part of it, since the files have headers of their own at every 64 KiB.
        data[data.index(images_of(whole)[record][200:260])] ^= 1
    shard.write_bytes(data)
    return place


def load_example(record, record_id, planned):
    image = decode_image(record["image"], name=record["name"])
    return {"image": image[:8, :8], "id": np.int32(record_id)}


def load(split, *, skip, load=load_example, threads=2, batch=16):
    config = LoaderConfig(threads=threads, skip_bad_images=skip)
    skipped = SkippedImages()
    plan = plan_evaluation(len(split), 8, 8, batch)
    with load_batches(split, plan, load, config, skipped=skipped) as batches:
        return list(batches), skipped


class TestRecords:
    def test_the_record_is_named(self, damaged):
        split = open_split("shapes/tiny", "train", damaged)
        with pytest.raises(
            DataError, match="record 5: .*hash mismatch.*prepare it again"
        ) as caught:
            load(split, skip=False)
        assert "\n" not in str(caught.value) and "shapes/tiny train in" in str(caught.value)
        assert wait_for_no_threads()

    @pytest.mark.parametrize("threads", [1, 3])
    def test_or_skipped_and_counted(self, whole, damaged, threads):
        split = open_split("shapes/tiny", "train", damaged)
        batches, skipped = load(split, skip=True, threads=threads)
        assert skipped.count == 2 and sorted(skipped.reasons) == list(DAMAGED)
        assert "record 40" in skipped.reasons[40]
        good = np.concatenate([b["id"][b["weight"] == 1] for b in batches])
        np.testing.assert_array_equal(good, np.delete(np.arange(64), DAMAGED))
        clean, _ = load(open_split("shapes/tiny", "train", whole), skip=False)
        for a, b in zip(batches, clean, strict=True):
            kept = a["weight"] == 1
            np.testing.assert_array_equal(a["image"][kept], b["image"][kept])

    def test_a_batch_of_nothing_else_borrows(self, damaged):
        split = open_split("shapes/tiny", "train", damaged)
        batches, skipped = load(split, skip=True, batch=1)
        assert skipped.count == 2
        assert [b["weight"][0] for b in batches].count(0) == 2

    def test_in_one_of_joined_data_sets(self, damaged):
        split = open_split("shapes/tiny+shapes/tiny", "validation,train", damaged)
        batches, skipped = load(split, skip=True)
        assert sorted(skipped.reasons) == [32 + record for record in DAMAGED]
        with pytest.raises(DataError, match="record 5: "):
            load(split, skip=False)
        assert sum(b["weight"].sum() for b in batches) == 96 - 2

    def test_other_records_are_read_as_before(self, whole, damaged):
        split, images = open_split("shapes/tiny", "train", damaged), images_of(whole)
        for record in (4, 6, 39, 41, 63):
            assert split.records([record])[0]["image"] == images[record]
        with pytest.raises(DataError, match="record 40: "):
            split.records([6, 40, 5])


def test_bits_turned_anywhere_in_the_files(whole, tmp_path):
    """Of each file of the data set: right records, or a DataError."""
    images = images_of(whole)
    place = Path(shutil.copytree(whole, tmp_path / "copy"))
    rng = np.random.default_rng(0)
    named = 0
    files = [path for path in place.rglob("*") if path.is_file() and "-test." not in path.name]
    assert len(files) >= 4
    for path in files:
        original = path.read_bytes()
        for _ in range(12):
            changed = bytearray(original)
            changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            try:
                dataset_info("shapes/tiny", place)
                split = open_split("shapes/tiny", "train", place)
                records = split.records(range(len(split)))
            except ValueError as error:  # DataError; a changed name makes a ConfigurationError
                assert "\n" not in str(error) and len(str(error)) < 1000, error
                named += "record " in str(error)
                continue
            assert [record["image"] for record in records] == images[: len(records)]
        path.write_bytes(original)
    assert named >= 5


class TestThreads:
    def fail(self, error):
        def load(record, record_id, planned):
            if record_id == 17:
                raise error
            return {"id": np.int32(record_id)}

        return load

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("kind", [KeyError, MemoryError, RuntimeError])
    def test_an_unexpected_exception_comes_once_with_its_record(self, kind, threads, capfd):
        error = kind("two\nlines")
        with pytest.raises(kind) as caught:
            load(MemorySplit(50), skip=True, load=self.fail(error), threads=threads, batch=5)
        assert caught.value is error
        assert error.__notes__ == ["while record 17 (image_17.png) was being made into an example"]
        assert wait_for_no_threads()
        assert capfd.readouterr() == ("", "")

    def test_stop_iteration_is_no_end_of_the_data(self):
        """It would end an epoch early without a word."""
        with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
            load(MemorySplit(50), skip=True, load=self.fail(StopIteration()), batch=5)
        assert isinstance(caught.value.__cause__, StopIteration)

    def test_an_exit_in_a_thread_does_not_hang(self):
        done = []

        def take():
            with pytest.raises(BaseException):  # noqa: B017  whichever Grain makes of it
                load(MemorySplit(20), skip=False, load=self.fail(SystemExit(3)), batch=5)
            done.append(True)

        taker = threading.Thread(target=take, daemon=True)
        taker.start()
        taker.join(20)
        assert done

    def test_a_split_that_fails(self):
        class Broken(MemorySplit):
            def records(self, ids):
                raise OSError(5, "Input/output error", "/data/shard-0")

        with pytest.raises(OSError, match="Input/output error"):
            load(Broken(10), skip=True, batch=5)


AUDIT = """
import os, sys
from pathlib import Path
place = os.path.realpath(sys.argv[1])
tried = []
def hook(event, arguments):
    writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime",
                       "os.truncate", "os.link", "os.symlink")
    if event == "open":
        path, mode, flags = arguments
        made = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        writes = bool((flags or 0) & made) or any(c in (mode or "") for c in "wax+")
    if writes and isinstance(arguments[0], (str, os.PathLike)):
        if os.path.realpath(arguments[0]).startswith(place):
            tried.append((event, str(arguments[0])))
sys.addaudithook(hook)
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import dataset_info, list_prepared, open_split
prepare("shapes/tiny", data_dir=place)  # it is there already
assert list_prepared(place)
dataset_info("shapes/tiny", place)
split = open_split("shapes/tiny", "train", place)
assert len(split.records(range(64))) == 64
assert not tried, tried
"""


def test_reading_writes_nothing_into_the_data_directory(whole, tmp_path):
    """Where even root may not write, this is what counts; others are refused by the modes too."""
    place = Path(shutil.copytree(whole, tmp_path / "read only"))
    entries = [place, *place.rglob("*")]
    for path in entries:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in entries}
    try:
        subprocess.run([sys.executable, "-c", AUDIT, place], check=True)
        assert {path: path.stat().st_mtime_ns for path in [place, *place.rglob("*")]} == before
    finally:
        for path in entries:
            path.chmod(0o755)
