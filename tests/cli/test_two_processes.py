"""`mobilevit train` in two processes: one run, from its start to its end."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import QUICKSTART, TINY
from tests.processes import finish, free_address, start

COMMAND = "tests.cli.small_command"


def free_job() -> int:
    """Returns a number of a Slurm job whose port, as JAX computes it, is free."""
    for job in range(os.getpid() % 4096, 2 * 4096):
        with socket.socket() as free:
            try:
                free.bind(("", job % 4096 + 61440))
                return job
            except OSError:
                continue
    raise AssertionError("no free port")


def train(
    workdir: Path, data_dir: Path, *options: object, devices: int = 2, **environment: object
) -> subprocess.Popen[str]:
    command = ["train", QUICKSTART, *TINY, "--workdir", workdir, *options]
    environment["TFDS_DATA_DIR"] = data_dir
    return start(COMMAND, command, devices=devices, environment=environment)


@pytest.mark.slow
def test_slurm_tells_the_processes_of_one_another(tmp_path):
    """Each draws its data into a directory of its own; they share the work directory."""
    run, job = tmp_path / "run", free_job()
    processes = [
        train(
            run,
            tmp_path / f"data{index}",
            SLURM_JOB_ID=job,
            SLURM_STEP_NODELIST="localhost",
            SLURM_NTASKS=2,
            SLURM_PROCID=index,
            SLURM_LOCALID=index,
        )
        for index in range(2)
    ]
    outputs = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    rows = [[line for line in out.splitlines() if "count 32" in line] for out in outputs]
    assert len(rows[0]) == 2  # validation and test, every image once
    for first, second in zip(*rows, strict=True):
        assert first.split("evaluation")[0] == second.split("evaluation")[0]
    assert "4 cpu devices" in outputs[0] and "4 cpu devices" in outputs[1]
    assert "predict with" in outputs[0] and "predict with" not in outputs[1]
    assert (run / "checkpoints" / "1").is_dir()
    written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    splits = ["train", "validation", "test"]
    assert [(row["step"], row["split"]) for row in written] == [(1, split) for split in splits]


@pytest.mark.slow
def test_one_that_is_killed_ends_the_other(tmp_path, data_dir):
    """At once, as its connections break; with several devices each, one may wait for another."""
    address = free_address()
    processes = [
        train(
            tmp_path / "run",
            data_dir,
            *("--coordinator", address, "--num-processes", 2, "--process-id", index),
            *("--epochs", 5000, "--log-every", 1, "--checkpoint.every-epochs", 5000),
            *("--data.validation", "None", "--lost-after", 300),
            devices=1,
        )
        for index in range(2)
    ]
    try:
        assert processes[1].stdout is not None
        lines = iter(processes[1].stdout.readline, "")
        seen = [next(line for line in lines if "step 3" in line)]
        processes[1].send_signal(signal.SIGKILL)
        since = time.monotonic()
        output = processes[0].communicate(timeout=120)[0]
    finally:
        finish(processes)
    assert seen and time.monotonic() - since < 110  # much of it on a busy machine
    assert processes[0].returncode == 1, output
    error = [line for line in output.splitlines() if line.startswith("mobilevit: error:")]
    assert len(error) == 1 and "process 0 lost another one" in error[0]
    assert "start all of them again" in error[0] and "Traceback" not in output


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--process-id", 0], ["--coordinator HOST:PORT"]),
        (["--coordinator", "localhost:1", "--num-processes", 2], ["--process-id I"]),
        (
            ["--coordinator", "here:1", "--num-processes", 2, "--process-id", 2],
            ["--process-id must be 0 or more and below --num-processes 2; got 2"],
        ),
        (["--coordinator", "here:1", "--process-id", -1], ["--process-id must be 0 or more; got"]),
        (["--coordinator", "here:1", "--num-processes", 0], ["--num-processes must be at least 1"]),
        (["--num-processes", 2, "--no-join"], ["--no-join"]),
        (["--lost-after", 0], ["--lost-after must be at least 1"]),
    ],
)
def test_wrong_options(train_tiny, tmp_path, options, parts):
    ran = train_tiny(tmp_path / "run", options)
    assert ran.status == 2 and not (tmp_path / "run").exists()
    for part in parts:
        assert part in ran.err
