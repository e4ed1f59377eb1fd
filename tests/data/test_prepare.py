"""Preparing: all or nothing, once, with clear errors, and without TensorFlow."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time

import cv2
import numpy as np
import pytest

from mobilevit_jax.cli.commands import prepare as command
from mobilevit_jax.data import prepare as prepare_module
from mobilevit_jax.data.builders.base import ordered_map
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import dataset_info, open_split
from mobilevit_jax.errors import ConfigurationError, DataError


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "source" / split / name
            folder.mkdir(parents=True)
            for index in range(4):
                image = rng.integers(0, 256, (9, 8, 3), np.uint8)
                cv2.imwrite(str(folder / f"{index}.png"), image)
    return tmp_path / "source"


def run_python(code: str, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command_line, capture_output=True, text=True, timeout=120, **options)


def files_in(directory) -> dict[str, int]:
    return {str(p.relative_to(directory)): p.stat().st_mtime_ns for p in directory.rglob("*")}


def test_a_second_call_returns_what_is_there(data_dir):
    first = prepare("shapes/tiny", data_dir=data_dir)
    assert first.name == "shapes/tiny"
    assert first.directory == data_dir / "shapes" / "tiny" / "1.0.0"
    assert first.splits == {"train": 64, "validation": 32, "test": 32}
    before = files_in(data_dir)
    assert prepare("shapes/tiny", data_dir=data_dir) == first
    assert files_in(data_dir) == before
    assert {path.split("/")[0] for path in before} == {"shapes"}


def test_tiny_is_quick(data_dir):
    start = time.process_time()
    prepare("shapes/tiny", data_dir=data_dir)
    assert time.process_time() - start < 20


def test_no_temporary_directory_is_left(data_dir, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(prepare_module.tempfile, "tempdir", str(tmp_path / "scratch"))
    prepare("shapes/tiny", data_dir=data_dir)
    assert files_in(tmp_path / "scratch") == {}


def test_progress_reaches_the_count_of_every_split(data_dir):
    seen = []
    prepare("shapes/tiny", data_dir=data_dir, progress=lambda *row: seen.append(row))
    assert {(split, total) for split, _, total in seen} == {
        ("train", 64),
        ("validation", 32),
        ("test", 32),
    }
    assert all((split, total, total) in seen for split, _, total in seen)


def test_the_data_directory_of_the_environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    prepare("shapes/tiny")
    assert dataset_info("shapes/tiny").directory.is_relative_to(data_dir)


def test_a_name_of_its_own(source, data_dir):
    info = prepare("image_folder", source=source, data_dir=data_dir, name="pets")
    assert info.name == "pets"
    assert len(open_split("pets", "train", data_dir)) == 8
    with pytest.raises(ConfigurationError, match="no data set 'image_folder'"):
        dataset_info("image_folder", data_dir)


def test_another_source_under_the_same_name(source, data_dir, tmp_path):
    prepare("image_folder", source=source, data_dir=data_dir, name="pets")
    other = tmp_path / "other"
    with pytest.raises(DataError, match=f"prepared from {source}, not from {other}; choose"):
        prepare("image_folder", source=other, data_dir=data_dir, name="pets")
    with pytest.raises(DataError, match="was not prepared by imagenet"):
        prepare("imagenet", source=source, data_dir=data_dir, name="pets")


def test_the_source_may_be_gone_once_it_is_prepared(source, data_dir):
    first = prepare("image_folder", source=source, data_dir=data_dir)
    source.rename(source.with_name("moved"))
    assert prepare("image_folder", source=source, data_dir=data_dir) == first
    assert prepare("image_folder", data_dir=data_dir) == first


@pytest.mark.parametrize(
    ("dataset", "options", "match"),
    [
        ("shape", {}, "unknown data set builder 'shape' .did you mean 'shapes'"),
        ("shapes", {}, "choose shapes/tiny, shapes/quickstart, .*shapes/default"),
        ("shapes/tinny", {}, "unknown configuration of shapes 'tinny' .did you mean 'tiny'"),
        ("shapes/tiny", {"source": "x"}, "takes no --source"),
        ("shapes/tiny", {"name": "x"}, "takes no --name"),
        ("shapes/tiny", {"skip_bad_images": True}, "takes no --skip-bad-images"),
        ("image_folder/x", {"source": "x"}, "image_folder has no configurations"),
        ("image_folder", {"source": "x", "name": "../x"}, "name '../x' must be a letter"),
        ("image_folder", {"source": "x", "name": "shapes"}, "belongs to another builder"),
    ],
)
def test_arguments_that_do_not_fit(data_dir, dataset, options, match):
    with pytest.raises(ConfigurationError, match=match):
        prepare(dataset, data_dir=data_dir, **options)
    assert not data_dir.exists()


def test_a_failure_leaves_nothing_and_the_next_call_starts_anew(data_dir):
    def stop(split: str, done: int, total: int) -> None:
        if split == "validation":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("shapes/tiny", data_dir=data_dir, progress=stop)
    assert files_in(data_dir) == {}
    assert prepare("shapes/tiny", data_dir=data_dir).splits["test"] == 32


def test_a_failure_spares_the_other_configurations(data_dir, monkeypatch):
    prepare("shapes/tiny", data_dir=data_dir)
    before = set(files_in(data_dir))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_module, "_write", fail)
    with pytest.raises(DataError, match="No space left on device"):
        prepare("shapes/quickstart", data_dir=data_dir)
    assert set(files_in(data_dir)) == before


KILLED = """
import os, signal, sys
from mobilevit_jax.data.prepare import prepare
def stop(split, done, total):
    if split == "validation":
        os.kill(os.getpid(), signal.SIGKILL)
prepare("shapes/tiny", data_dir=sys.argv[1], progress=stop)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_run_leaves_nothing_under_the_name_and_is_cleaned_up(data_dir):
    killed = run_python(KILLED, data_dir)
    assert killed.returncode == -signal.SIGKILL
    left = list((data_dir / "shapes" / "tiny").iterdir())
    assert left and all(path.name.startswith("incomplete.") for path in left)
    with pytest.raises(ConfigurationError, match="no data set"):
        dataset_info("shapes/tiny", data_dir)
    prepare("shapes/tiny", data_dir=data_dir)
    assert [p.name for p in (data_dir / "shapes" / "tiny").iterdir()] == ["1.0.0"]


LIMITED = """
import resource, sys
from mobilevit_jax.data.prepare import prepare
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    prepare("shapes/tiny", data_dir=sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_write_that_the_system_refuses(data_dir):
    """A limit on the size of files fails inside of array_record, as a full disk does."""
    result = run_python(LIMITED, data_dir)
    assert result.stdout.startswith(f"DataError cannot write to the data directory {data_dir}:")
    assert "File too large" in result.stdout
    assert result.stdout.count("\n") == 1
    assert files_in(data_dir) == {}


def test_too_little_free_space_is_noticed_first(data_dir, monkeypatch):
    usage = prepare_module.shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="GiB free, but shapes needs about 0.0 GiB"):
        prepare("shapes/tiny", data_dir=data_dir)
    assert files_in(data_dir) == {}


def test_a_data_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        DataError, match="cannot write to the data directory .*file/data: Not a dir"
    ):
        prepare("shapes/tiny", data_dir=tmp_path / "file" / "data")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_without_permission(data_dir):
    data_dir.mkdir(mode=0o500)
    with pytest.raises(DataError, match="cannot write to the data directory .*Permission denied"):
        prepare("shapes/tiny", data_dir=data_dir)


TWICE = """
import sys
from mobilevit_jax.data.prepare import prepare
calls = []
info = prepare("shapes/tiny", data_dir=sys.argv[1], progress=lambda *row: calls.append(row))
print(sum(info.splits.values()), bool(calls))
"""


def test_two_processes_prepare_it_once(data_dir):
    command_line = [sys.executable, "-c", TWICE, str(data_dir)]
    both = [subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = sorted(process.communicate(timeout=120)[0].strip() for process in both)
    assert outputs == ["128 False", "128 True"]
    assert os.listdir(data_dir) == ["shapes"]


def test_a_lock_that_a_killed_process_left_is_taken(data_dir):
    data_dir.mkdir()
    (data_dir / ".shapes-tiny.lock").touch()
    prepare("shapes/tiny", data_dir=data_dir)
    assert os.listdir(data_dir) == ["shapes"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(data_dir, monkeypatch, code):
    def missing(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", missing)
    assert sum(prepare("shapes/tiny", data_dir=data_dir).splits.values()) == 128
    assert os.listdir(data_dir) == ["shapes"]


# TFDS and etils ask in several ways whether TensorFlow is installed; this answers all of them.
WITHOUT_TENSORFLOW = """
import sys
from importlib.machinery import PathFinder
class Hidden(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] == "tensorflow"
        return None if hidden else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Hidden if finder is PathFinder else finder for finder in sys.meta_path]
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import open_split
source, data_dir = sys.argv[1:]
prepare("shapes/tiny", data_dir=data_dir)
prepare("image_folder", source=source, data_dir=data_dir, name="pets")
for name in ("shapes/tiny", "pets"):
    split = open_split(name, "train[:50%]", data_dir)
    print(name, len(split), len(split.records(range(len(split)))))
print([name for name in sys.modules if name.partition(".")[0] == "tensorflow"])
"""


def test_no_tensorflow(source, data_dir):
    result = run_python(WITHOUT_TENSORFLOW, source, data_dir)
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["shapes/tiny 32 32", "pets 4 4", "[]"]


def test_parquet_where_array_record_is_missing(data_dir, monkeypatch):
    # More records than TFDS writes in a batch: 4.9.10 by itself loses some of them.
    from mobilevit_jax.data.builders.shapes import Shapes

    config = next(c for c in Shapes.BUILDER_CONFIGS if c.name == "tiny")
    monkeypatch.setattr(config, "splits", {"train": 450})
    monkeypatch.setattr(prepare_module, "find_spec", lambda _: None)
    info = prepare("shapes/tiny", data_dir=data_dir)
    assert [p.name for p in info.directory.glob("*train*")] == [
        "shapes-train.parquet-00000-of-00001"
    ]
    split = open_split("shapes/tiny", "train", data_dir)
    names = {record["name"] for record in split.records(range(len(split)))}
    assert len(split) == len(names) == 450


def test_large_data_sets_have_several_shards(data_dir, monkeypatch):
    from mobilevit_jax.data.builders import base

    whole = prepare("shapes/tiny", data_dir=data_dir / "whole")
    monkeypatch.setattr(base, "SHARD_BYTES", 100_000)
    info = prepare("shapes/tiny", data_dir=data_dir / "shards")
    assert len(list(info.directory.glob("shapes-train*"))) == 5
    splits = [open_split("shapes/tiny", "train", i.directory.parents[2]) for i in (whole, info)]
    labels = [[r["label"] for r in split.records(range(64))] for split in splits]
    assert labels[0] == labels[1]


def test_ordered_map_keeps_the_order_and_stops_at_an_error():
    started = []

    def halve(value: int) -> float:
        started.append(value)
        return 10 / (500 - value)

    results = ordered_map(halve, range(10_000))
    assert next(results) == 10 / 500
    with pytest.raises(ZeroDivisionError):
        for _ in results:
            pass
    assert len(started) < 2000


def test_the_command_prints_where_and_how_many(source, data_dir, capsys):
    (source / "train" / "cat" / "bad.jpg").write_bytes(b"")
    options = ["--source", str(source), "--data-dir", str(data_dir), "--name", "pets"]
    assert command.main(["image_folder", *options, "--skip-bad-images"]) == 0
    captured = capsys.readouterr()
    assert f"pets (2 classes) is in {data_dir / 'pets' / '1.0.0'}" in captured.out
    rows = [line.split() for line in captured.out.splitlines()]
    assert ["train", "8", "1"] in rows
    assert ["test", "8", "0"] in rows
    assert "metadata.json" in captured.err
    assert "\x1b" not in captured.out + captured.err


def test_the_command_lists(data_dir, capsys):
    assert command.main(["--list", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr().out == f"prepared in {data_dir}: 0\n"
    prepare("shapes/tiny", data_dir=data_dir)
    assert command.main(["--list", "--data-dir", str(data_dir)]) == 0
    assert "shapes/tiny" in capsys.readouterr().out


def test_the_command_needs_a_data_set():
    with pytest.raises(ConfigurationError, match="name a data set: shapes, image_folder"):
        command.main([])
    with pytest.raises(SystemExit) as caught:
        command.main(["shapes/tiny", "--sauce", "x"])
    assert caught.value.code == 2


def test_real_images(shared_data, tmp_path, data_dir):
    """A few files of a real image folder survive the trip byte for byte."""
    import tarfile

    archive = shared_data / "cifar10.tar.xz"
    if not archive.exists():
        pytest.skip("needs cifar10.tar.xz in MOBILEVIT_SHARED_DATA")
    originals = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".jpg"):
                file = tar.extractfile(member)
                assert file is not None
                parts = member.name.split("/")[-3:]
                originals["/".join(["train", *parts[1:]])] = file.read()
            if len(originals) == 40:
                break
    for name, data in originals.items():
        path = tmp_path / "real" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    prepare("image_folder", source=tmp_path / "real", data_dir=data_dir)
    split = open_split("image_folder", "train", data_dir)
    stored = {record["name"]: record["image"] for record in split.records(range(len(split)))}
    assert stored == originals
