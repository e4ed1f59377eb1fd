"""Names with spaces and letters of any script, data that may not be written, damaged data."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from mobilevit_jax.data.sources import open_split
from mobilevit_jax.tasks import classification

PLACE = "Фото и données (α) 'ü' 日本 %20"


@pytest.fixture
def place(tmp_path):
    directory = tmp_path / PLACE
    directory.mkdir()
    return directory


@pytest.mark.slow
def test_every_command_where_names_are_odd(mobilevit, train_tiny, place, tmp_path):
    rng = np.random.default_rng(0)
    source, data, work = place / "исходные файлы", place / "наборы данных", place / "ход работы"
    for split in ("train", "validation"):
        for name in ("кошка", "chien méchant"):
            folder = source / split / name
            folder.mkdir(parents=True)
            for index in range(8):
                pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
                encoded = cv2.imencode(".png", pixels)[1].tobytes()
                (folder / f"снимок № {index}.png").write_bytes(encoded)
    ran = mobilevit("prepare", "image_folder", *("--source", source, "--name", "pets"),
                    *("--data-dir", data))  # fmt: skip
    assert ran.status == 0, ran.err
    names = {record["name"] for record in open_split("pets", "train", data).records(range(16))}
    assert "train/chien méchant/снимок № 0.png" in names

    options = ["--data.dataset", "pets", "--data.data-dir", data, "--data.validation"]
    options += ["validation", "--data.test", "validation", "--sampler.batch-size", 16]
    ran = train_tiny(work, options)
    assert ran.status == 0, ran.err
    assert {"metrics.jsonl", "learning_curves.png"} <= {path.name for path in work.iterdir()}
    assert str(work) in json.loads(json.dumps(ran.out + ran.err)).replace("\n", "")

    output = place / "результат.json"
    ran = mobilevit("evaluate", *("--weights", work, "--split", "validation", "--output", output))
    assert ran.status == 0, ran.err
    assert json.loads(output.read_text("utf-8"))["count"] == 16
    image = source / "train" / "кошка" / "снимок № 3.png"
    ran = mobilevit("predict", image, "--weights", work, "--json")
    assert ran.status == 0, ran.err
    (answer,) = json.loads(ran.out)
    assert answer["image"] == str(image)
    assert {p["class"] for p in answer["predictions"]} == {"кошка", "chien méchant"}


@pytest.fixture
def damaged(mobilevit, tmp_path) -> Path:
    """A copy of `shapes/tiny` with a bit turned in record 7 of each split."""
    data = tmp_path / "damaged"
    assert mobilevit("prepare", "shapes/tiny", "--data-dir", data).status == 0
    for shard in data.rglob("*array_record*"):
        split = shard.name.split("-")[1].split(".")[0]
        image = open_split("shapes/tiny", split, data).records([7])[0]["image"]
        content = bytearray(shard.read_bytes())
        # A part of it, since the files have headers of their own at every 64 KiB.
        parts = (image[start : start + 60] for start in range(200, len(image) - 60, 60))
        content[content.index(next(part for part in parts if part in content))] ^= 1
        shard.write_bytes(content)
    return data


class TestDamagedRecords:
    def test_training_names_the_record(self, train_tiny, damaged, tmp_path):
        ran = train_tiny(tmp_path / "run", ["--data.data-dir", damaged])
        assert ran.status == 1
        (line,) = [line for line in ran.err.splitlines() if line.startswith("mobilevit: error")]
        assert "cannot read shapes/tiny train in" in line and "record 7: " in line

    def test_or_skips_and_counts_it(self, train_tiny, damaged, tmp_path):
        options = ["--data.data-dir", damaged, "--loader.skip-bad-images"]
        ran = train_tiny(tmp_path / "run", options)
        assert ran.status == 0, ran.err
        assert "skipped 1 image that" in " ".join((ran.out + ran.err).split())
        rows = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
        counts = {row["split"]: row["count"] for row in rows if row["split"] != "train"}
        assert counts == {"validation": 31, "test": 31}


def test_a_thread_that_fails_is_reported_in_one_line(train_tiny, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(classification, "decode_and_augment", broken)
    ran = train_tiny(tmp_path / "run")
    assert ran.status == 1
    (line,) = [line for line in ran.err.splitlines() if "ZeroDivisionError" in line]
    assert line.startswith("mobilevit: error: ZeroDivisionError: division by zero while record ")
    assert "Traceback" not in ran.err


def test_a_data_directory_that_may_not_be_written(mobilevit, train_tiny, tmp_path):
    """For root, whom modes do not bind, the times of the files tell that nobody wrote."""
    data = tmp_path / "read only"
    assert mobilevit("prepare", "shapes/tiny", "--data-dir", data).status == 0
    entries = [data, *data.rglob("*")]
    for path in entries:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in entries}
    try:
        ran = train_tiny(tmp_path / "run", ["--data.data-dir", data])
        assert ran.status == 0, ran.err
        ran = mobilevit("evaluate", "--weights", tmp_path / "run", "--output", tmp_path / "e.json")
        assert ran.status == 0, ran.err
        assert {path: path.stat().st_mtime_ns for path in [data, *data.rglob("*")]} == before
    finally:
        for path in entries:
            path.chmod(0o755)
        shutil.rmtree(data)
