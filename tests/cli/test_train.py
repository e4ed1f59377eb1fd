"""`mobilevit train`: what it writes and prints, stopping and going on, the second start."""

import json
import os
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from mobilevit_jax.cli.console import TrainProgress
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.prepare import prepare

CLOCK = ("_seconds", "_per_second", "_bytes")
EPOCHS = ("--epochs", 3, "--log-every", 1, "--sampler.batch-size", 32, "--sampler.base-size", 32)


def rows_of(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def without_clock(directory):
    return [
        {name: value for name, value in row.items() if not name.endswith(CLOCK)}
        for row in rows_of(directory)
    ]


def contents(directory):
    """Returns the files and when they were written; the lock is taken by every start."""
    files = {str(p.relative_to(directory)): p.stat().st_mtime_ns for p in directory.rglob("*")}
    return {name: written for name, written in files.items() if name != ".lock"}


def test_a_run_leaves_everything_in_its_directory(trained):
    assert trained.ran.status == 0, trained.ran.err
    names = {path.name for path in trained.directory.iterdir()}
    assert names == {
        ".lock",
        "checkpoints",
        "experiment.json",
        "learning_curves.png",
        "metrics.jsonl",
        "tensorboard",
        "timing.json",
        "example.png",
    }
    record = json.loads((trained.directory / "experiment.json").read_text())
    assert record["experiment"]["name"] == "quickstart-tiny"
    assert record["experiment"]["sampler"]["sizes"] == [32]
    assert len(record["class_names"]) == 8
    assert {"python", "jax", "flax", "mobilevit-jax"} <= record["versions"].keys()
    assert (trained.directory / "learning_curves.png").read_bytes()[:4] == b"\x89PNG"
    assert list((trained.directory / "tensorboard").glob("events.*"))


def test_what_a_run_says(trained):
    assert "quickstart-tiny after 1 epoch, averaged (EMA) weights" in trained.ran.out
    for split in ("validation", "test"):
        assert any(line.split()[:2] == [split, "32"] for line in trained.ran.out.splitlines())
    lines = trained.ran.err.splitlines()
    assert lines[0].startswith("mobilevit_xxs, 8 classes of shapes/tiny, 1 epoch, 1 step, 4 cpu de")
    assert lines[1] == "compiling 32x32, batch 64 (1/1)"
    run = trained.directory
    assert lines[-1] == f"predict with: mobilevit predict {run}/example.png --weights {run}"
    assert decode_image((run / "example.png").read_bytes(), name="example").shape == (64, 64, 3)
    assert "\x1b" not in trained.ran.out + trained.ran.err


def test_the_rows_of_metrics(trained):
    rows = rows_of(trained.directory)
    assert [row["split"] for row in rows] == ["train", "validation", "test"]
    assert all(list(row)[:3] == ["step", "epoch", "split"] for row in rows)
    assert len({(row["step"], row["split"]) for row in rows}) == len(rows)
    metrics = {"step", "epoch", "split", "loss", "top1", "top5"}
    clock = {"images_per_second", "step_seconds", "data_wait_seconds"}
    assert rows[0].keys() == metrics | {"gradient_norm", "learning_rate"} | clock
    for row in rows[1:]:
        assert row.keys() == metrics | {"count", "evaluation_seconds"}
        assert row["count"] == 32 and 0 <= row["top1"] <= row["top5"] <= 1
        assert row["top1"] * 32 == round(row["top1"] * 32)


def test_the_second_start_of_a_finished_run_changes_nothing(trained, train_tiny):
    kept = ("metrics.jsonl", "timing.json", "experiment.json")
    before = {name: (trained.directory / name).read_bytes() for name in kept}
    again = train_tiny(trained.directory)
    assert again.status == 0
    assert "compiling" not in again.err
    assert again.out == trained.ran.out
    assert {name: (trained.directory / name).read_bytes() for name in kept} == before


def test_the_directory_of_another_experiment(trained, train_tiny):
    before = contents(trained.directory)
    ran = train_tiny(trained.directory, ["--optimizer.weight-decay", 0.1, "--seed", 5])
    assert ran.status == 2 and ran.err.count("\n") == 1
    assert f"{trained.directory} belongs to another experiment" in ran.err
    assert "optimizer.weight_decay: 0.01 -> 0.1; seed: 0 -> 5" in ran.err
    assert "choose another --workdir" in ran.err
    assert contents(trained.directory) == before


def test_the_default_directory(mobilevit, quickstart, tiny, tmp_path):
    assert mobilevit("train", quickstart, *tiny, "--name", "mine").status == 0
    assert (tmp_path / "runs" / "mine" / "metrics.jsonl").exists()


def test_overrides_reach_the_run(train_tiny, tmp_path):
    options = ["--data.test", "None", "--ema.decay", 0, "--schedule.warmup-steps", 0]
    ran = train_tiny(tmp_path / "run", [*options, "--schedule.peak", 0.5])
    assert ran.status == 0
    assert "raw weights" in ran.out
    rows = rows_of(tmp_path / "run")
    assert [row["split"] for row in rows] == ["train", "validation"]
    assert rows[0]["learning_rate"] == 0.5


def test_tiny_on_a_data_set_without_the_splits_of_the_drawn_one(data_dir, train_tiny, tmp_path):
    for index, name in enumerate(("[bold]cat", "dog[0]")):
        (folder := tmp_path / "mine" / "train" / name).mkdir(parents=True)
        for number in range(8):
            pixels = np.full((40, 40, 3), 100 * index + number, np.uint8)
            cv2.imwrite(str(folder / f"{number}.png"), pixels)
    prepare("image_folder", data_dir=data_dir, source=tmp_path / "mine", name="unsplit")
    options = ["--data.dataset", "unsplit", "--sampler.batch-size", 4]
    ran = train_tiny(tmp_path / "run", options)
    assert ran.status == 0, ran.err
    for split in ("validation", "test"):
        assert f"unsplit has no split {split}, and the run goes without" in ran.err
    assert {row["split"] for row in rows_of(tmp_path / "run")} == {"train"}
    ran = train_tiny(tmp_path / "named", [*options, "--data.test=test"])
    assert ran.status == 2 and "unknown split of unsplit 'test'" in ran.err


def stop_at(step, monkeypatch):
    """Sends this process a SIGTERM when a step is shown."""
    update = TrainProgress.update

    def interrupted(self, done, **shown):
        update(self, done, **shown)
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainProgress, "update", interrupted)


@pytest.mark.slow
def test_a_signal_saves_and_the_same_command_goes_on(train_tiny, tmp_path, monkeypatch):
    whole = train_tiny(tmp_path / "whole", EPOCHS)
    assert whole.status == 0
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        stopped = train_tiny(tmp_path / "run", EPOCHS)
    assert stopped.status == 3
    assert "stopped by a signal after step 3; saved" in stopped.err
    assert stopped.err.endswith("run the same command again to go on\n")
    assert stopped.out == ""
    finished = train_tiny(tmp_path / "run", EPOCHS)
    assert finished.status == 0
    assert f"resuming from step 3 in {tmp_path / 'run'}" in finished.err
    assert finished.out == whole.out
    assert without_clock(tmp_path / "run") == without_clock(tmp_path / "whole")
    assert len(without_clock(tmp_path / "run")) == 6 + 3 + 1  # steps, validations, test


SMALL = """
import sys
from mobilevit_jax.cli.main import main
from mobilevit_jax.models.config import ModelConfig
from tests.small import build_small_net
ModelConfig.build = build_small_net
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts Python with a small network in the place of MobileViT."""
    command = [sys.executable, "-c", SMALL + code, *map(str, arguments)]
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    # A compilation cache of its own: what a full disk leaves in it is of use to nobody.
    cache = str(arguments[-1]) + "-cache"
    environment = {**os.environ, "PYTHONPATH": root, "JAX_COMPILATION_CACHE_DIR": cache}
    return subprocess.Popen(
        command, text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_a_process_that_is_terminated(quickstart, tiny, tmp_path):
    command = ["train", quickstart, *tiny, "--workdir", tmp_path / "run", *EPOCHS]
    many = [*command[:-7], 10_000, *command[-6:]]
    process = start("sys.exit(main(sys.argv[1:]))", *many)
    assert process.stderr is not None
    for line in process.stderr:
        if "step 2 train" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "Traceback" not in err
    assert err.endswith("run the same command again to go on\n")


FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_full_disk_and_the_next_start(quickstart, tiny, tmp_path, data_dir, mobilevit):
    """A limit on the size of files refuses a write in the middle, as a full disk does."""
    assert mobilevit("prepare", "shapes/tiny").status == 0
    command = ["train", quickstart, *tiny, "--workdir", tmp_path / "run"]
    _, err = (process := start(FULL, *command)).communicate(timeout=120)
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert last.startswith(f"mobilevit: error: could not write a checkpoint to {tmp_path / 'run'}")
    assert last.endswith("to go on from the start")
    # Orbax' other writes fail as well, and report it in their own way.
    assert "Traceback" not in err and "Event loop" not in err
    process = start("sys.exit(main(sys.argv[1:]))", *command)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "quickstart-tiny after 1 epoch" in out
    assert len(rows_of(tmp_path / "run")) == 3


def test_a_run_that_diverges_is_one_line(train_tiny, tmp_path):
    ran = train_tiny(tmp_path / "run", ["--schedule.start", 1e30, "--schedule.peak", 1e30, *EPOCHS])
    assert ran.status == 1
    line = ran.err.splitlines()[-1]
    assert line.startswith("mobilevit: error: the loss") and "is not finite" in line
    assert "Traceback" not in ran.err


def test_a_directory_that_lost_its_checkpoints_starts_anew(train_tiny, tmp_path):
    assert train_tiny(tmp_path / "run").status == 0
    before = without_clock(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    ran = train_tiny(tmp_path / "run")
    assert ran.status == 0 and "resuming" not in ran.err
    assert without_clock(tmp_path / "run") == before
