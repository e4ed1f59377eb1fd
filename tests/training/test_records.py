import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.errors import DataError
from mobilevit_jax.training.metrics_log import MetricsLog, read_metrics


def write(workdir: Path, steps: list[int], resume_step: int | None = None) -> None:
    with MetricsLog(workdir, resume_step=resume_step) as log:
        for step in steps:
            log.write(step=step, epoch=1, split="train", numbers={"loss": 1 / step})


def events(workdir: Path) -> dict[str, list[tuple[int, float]]]:
    """Reads the scalars back from the event files."""
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            data = data[12 + size + 4 :]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_rows_are_written_as_they_come(tmp_path):
    with MetricsLog(tmp_path / "run") as log:
        numbers = {"loss": jnp.float32(0.5), "top1": np.float64(0.25), "count": 7}
        row = log.write(step=10, epoch=2, split="validation", numbers=numbers)
        expected = dict(step=10, epoch=2, split="validation", loss=0.5, top1=0.25, count=7)
        assert row == expected
        assert read_metrics(tmp_path / "run") == [expected]  # on disk before the end
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert text == (
        '{"step": 10, "epoch": 2, "split": "validation", "loss": 0.5, "top1": 0.25, "count": 7}\n'
    )


def test_numbers_that_are_not_finite_are_null(tmp_path):
    with MetricsLog(tmp_path) as log:
        numbers = {"loss": float("nan"), "norm": jnp.inf}
        log.write(step=1, epoch=1, split="train", numbers=numbers)

    def refuse(token: str):
        raise AssertionError(f"{token} is not JSON")

    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=refuse)["loss"] is None
    assert "train/loss" not in events(tmp_path)


def test_the_same_scalars_go_to_tensorboard(tmp_path):
    write(tmp_path, [1, 2])
    assert events(tmp_path) == {"train/loss": [(1, 1.0), (2, 0.5)]}


def test_a_pair_of_step_and_split_appears_once(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(step=1, epoch=1, split="train", numbers={})
        log.write(step=1, epoch=1, split="test", numbers={})
        with pytest.raises(ValueError, match="step 1 and split 'train' already"):
            log.write(step=1, epoch=1, split="train", numbers={})
    write(tmp_path, [2], resume_step=1)
    with MetricsLog(tmp_path, resume_step=2) as log:
        with pytest.raises(ValueError, match="step 2 and split 'train' already"):
            log.write(step=2, epoch=1, split="train", numbers={})


def test_an_unknown_split_is_refused(tmp_path):
    with MetricsLog(tmp_path) as log, pytest.raises(ValueError, match="train, validation, test"):
        log.write(step=1, epoch=1, split="val", numbers={})


def test_a_resumed_run_has_the_file_of_one_that_was_not_interrupted(tmp_path):
    write(tmp_path / "whole", [1, 2, 3, 4])
    write(tmp_path / "resumed", [1, 2, 3])
    write(tmp_path / "resumed", [3, 4], resume_step=2)
    whole, resumed = ((tmp_path / name / "metrics.jsonl") for name in ("whole", "resumed"))
    assert resumed.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_new_run_drops_the_rows_of_an_old_one(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [5])
    assert [row["step"] for row in read_metrics(tmp_path)] == [5]
    assert events(tmp_path)["train/loss"] == [(5, pytest.approx(0.2))]


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_cut_last_line_is_left_out_and_dropped(tmp_path, cut):
    write(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    write(tmp_path, [2], resume_step=2)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", ["{", '{"step": 1}', "[1]", "3", ""])
def test_another_damaged_line_is_named(tmp_path, line):
    write(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n{second}\n")
    with pytest.raises(DataError, match=r"line 2 of .*metrics\.jsonl is not a row"):
        read_metrics(tmp_path)
    with pytest.raises(DataError, match="line 2"):
        MetricsLog(tmp_path, resume_step=2)
    assert path.read_text().startswith(first)


def test_no_record_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match=f"no metrics.jsonl in {tmp_path}"):
        read_metrics(tmp_path)


def test_an_inactive_log_touches_nothing(tmp_path):
    with MetricsLog(tmp_path / "run", active=False) as log:
        assert log.write(step=1, epoch=1, split="train", numbers={"loss": 1.0})["loss"] == 1.0
    assert list(tmp_path.iterdir()) == []


def test_a_work_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        MetricsLog(tmp_path / "file" / "run")


def test_tensorboard_is_imported_only_to_write():
    code = (
        "import sys; import mobilevit_jax.training.metrics_log as r; assert 'tensorboardX' not in "
        "sys.modules; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
