"""Event files for TensorBoard: written at once, in order, and never waited for."""

import resource
import signal
import time
from pathlib import Path

import pytest

from mobilevit_jax.training.metrics_log import MetricsLog
from mobilevit_jax.training.tensorboard import Board
from tests.training.test_records import events


def write(directory: Path, step: int, **options) -> str:
    board = Board(directory / "tensorboard", **options)
    board.add_scalar("train/loss", 1 / step, step)
    board.flush()
    board.close()
    return board.path.name


def test_scalars_are_there_after_a_flush(tmp_path):
    board = Board(tmp_path / "tensorboard")
    board.add_scalar("train/loss", 0.5, 3)
    board.flush()
    assert events(tmp_path) == {"train/loss": [(3, 0.5)]}
    board.close()


def test_a_clock_that_goes_back_leaves_files_in_their_order(tmp_path, monkeypatch):
    first = write(tmp_path, 1)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    second = write(tmp_path, 2, purge_step=2)
    third = write(tmp_path, 4, purge_step=3)
    assert first < second < third
    assert events(tmp_path) == {"train/loss": [(1, 1.0), (2, 0.5), (4, 0.25)]}


@pytest.mark.parametrize("jump", [-3e6, -1e9, 1e9])
def test_a_clock_that_jumps_does_not_stop_the_log(tmp_path, monkeypatch, jump):
    """By more than a month it ended the thread that wrote, and the run waited for it for ever."""
    now = time.time()
    with MetricsLog(tmp_path) as log:
        for step in range(1, 30):
            if step == 5:
                monkeypatch.setattr(time, "time", lambda: now + jump)
            log.write(step=step, epoch=1, split="train", numbers={"loss": 1.0, "norm": 2.0})
    assert len(events(tmp_path)["train/loss"]) == 29


def test_a_full_disk_is_an_error_and_no_hang(tmp_path):
    board = Board(tmp_path / "tensorboard")
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            for step in range(500):
                board.add_scalar("train/loss", 1.0, step)
                board.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename == str(board.path)
    board.close()
