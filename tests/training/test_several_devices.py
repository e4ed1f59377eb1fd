"""The same run on one device, on four, and by two processes with two devices each.

A run that moves between them goes on as if it had stayed: 1 device, 2 processes with 4, 2 devices.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.tasks.classification import ClassificationTask
from mobilevit_jax.training.metrics_log import read_metrics
from tests.processes import finish, free_address, start
from tests.training.one_of_several import STEPS, detect, experiment, run

DRIVER = "tests.training.one_of_several"


class Ended(NamedTuple):
    """What a process left behind."""

    status: int
    output: str
    found: dict[str, Any]


class Runs(NamedTuple):
    """All that the tests look at."""

    place: Path
    one: Ended
    two: list[Ended]
    last: Ended
    four: dict[str, Any]


def perform(place: Path, data_dir: Path, name: str, tasks: list[dict[str, Any]], devices: int):
    """Runs the tasks, one in a process, and returns how each ended."""
    results = [place / f"{name}{index}.json" for index in range(len(tasks))]
    processes = [
        start(DRIVER, [json.dumps({"data_dir": str(data_dir), **task}), result], devices=devices)
        for task, result in zip(tasks, results, strict=True)
    ]
    outputs = finish(processes)
    for output, result in zip(outputs, results, strict=True):
        assert result.exists(), output
    return [
        Ended(process.returncode, output, json.loads(result.read_text()))
        for process, output, result in zip(processes, outputs, results, strict=True)
    ]


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory) -> Runs:
    """The runs, each in the order of the devices that it moves to."""
    place = tmp_path_factory.mktemp("devices")

    def of(name: str, stop_at: int | None = None) -> dict[str, Any]:
        return {"directory": str(place / name), "stop_at": stop_at}

    alone = {"place": None, "runs": [of("one"), of("moved", stop_at=3)]}
    (one,) = perform(place, data_dir, "one", [alone], devices=1)
    address = free_address()
    both = [
        # A signal reaches the second process alone; after step 8 the first one hears of it.
        {
            "place": [address, 2, index],
            "runs": [of("two"), of("moved", stop_at=5 if index else None)],
            "detect": True,
            "disagree": True,
        }
        for index in range(2)
    ]
    two = perform(place, data_dir, "two", both, devices=2)
    (last,) = perform(place, data_dir, "last", [{"place": None, "runs": [of("moved")]}], devices=2)
    return Runs(place, one, two, last, run(experiment(data_dir), place / "four"))


@pytest.mark.slow
def test_losses_are_those_of_one_device(runs):
    expected = runs.one.found["runs"][0]["losses"]
    assert len(set(expected)) == STEPS - 1
    for losses in (runs.four["losses"], *(ended.found["runs"][0]["losses"] for ended in runs.two)):
        assert losses[:5] == pytest.approx(expected[:5], rel=1e-4)
    assert runs.two[0].found["runs"][0]["losses"] == runs.two[1].found["runs"][0]["losses"]


@pytest.mark.slow
def test_only_the_first_process_writes(runs):
    rows = read_metrics(runs.place / "two")
    assert rows == runs.two[0].found["runs"][0]["rows"]
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, STEPS + 1))
    assert len(list((runs.place / "two" / "tensorboard").iterdir())) == 1
    assert (runs.place / "two0.detections").exists()
    assert not (runs.place / "two1.detections").exists()


@pytest.mark.slow
def test_a_run_goes_on_where_it_is_moved_to(runs):
    """From 1 process to 2 and back; plan, batches and learning rate stay what they were."""
    said = [
        *(runs.one.found["runs"][1]["said"][-1:]),
        *(line for ended in runs.two for line in ended.found["runs"][1]["said"]),
        *(runs.last.found["runs"][0]["said"]),
    ]
    spoken = [line for line in said if re.match("stopped|resuming", line)]
    assert [re.findall(r"stopped|resuming|step \d+", line) for line in spoken] == [
        ["stopped", "step 3"],
        *[["resuming", "step 3"], ["stopped", "step 8"]] * 2,
        ["resuming", "step 8"],
    ]
    stayed, moved = (read_metrics(runs.place / name) for name in ("one", "moved"))
    for before, after in zip(stayed, moved, strict=True):
        assert [after[k] for k in ("step", "epoch", "split")] == [
            before[k] for k in ("step", "epoch", "split")
        ]
        assert after.get("learning_rate") == before.get("learning_rate")
        # Rounding grows under AdamW, but other images would be far off.
        assert after["loss"] == pytest.approx(before["loss"], rel=2e-2)
    assert moved[4]["loss"] == pytest.approx(stayed[4]["loss"], rel=1e-4)


def test_a_batch_that_does_not_divide_is_refused(data_dir, tmp_path):
    own = experiment(data_dir)
    odd = replace(own.sampler, batch_size=18)
    with pytest.raises(ConfigurationError, match="batch of 18 .* 4 devices.* nearest .* 16 or 20"):
        run(experiment(data_dir, sampler=odd), tmp_path)


@pytest.mark.slow
def test_detections_of_two_hosts_are_those_of_one(runs, tmp_path):
    expected = detect(tmp_path / "detections")
    for ended in runs.two:
        assert ended.found["detected"] == expected
    written = (runs.place / "two0.detections").read_bytes()
    assert written == (tmp_path / "detections").read_bytes()


@pytest.mark.slow
def test_processes_that_disagree_stop_at_the_start(runs):
    for index, ended in enumerate(runs.two):
        line = ended.output.strip().splitlines()[-1]
        assert "process 1 of 2 does not agree with process 0 on the run" in line, ended.output
        assert "(experiment.seed: 0 -> 1; plan: " in line
        assert ended.status == 2
        assert not (runs.place / f"two{index}.run").exists()


def test_other_data_have_another_fingerprint(data_dir):
    """Two copies of a data set have the same; the size alone would not tell these splits apart."""
    own = experiment(data_dir)
    halves = [
        replace(own, data=replace(own.data, train=f"train[{half}]")) for half in (":32", "32:")
    ]
    found = [ClassificationTask(one).fingerprints() for one in (*halves, halves[0])]
    assert found[0] == found[2] and found[0]["train"]["examples"] == 32
    assert found[0]["train"]["examples"] == found[1]["train"]["examples"]
    assert found[0]["train"]["digest"] != found[1]["train"]["digest"]
    assert found[0]["test"] == found[1]["test"]


@pytest.mark.slow
def test_a_process_alone_meets_nobody(runs):
    assert runs.one.status == runs.last.status == 0
    assert "joining" not in runs.one.output and "joining" in runs.two[0].output
