"""`mobilevit benchmark`: prints and writes all of its numbers, and nothing else is left."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import QUICKSTART, TINY

SHAPES = Path(QUICKSTART).parent / "detection" / "shapes.py"


def test_every_number_is_printed_and_written(mobilevit, quickstart, tiny, tmp_path):
    output = tmp_path / "speed.json"
    batch = ["--sampler.batch-size", 16, "--sampler.base-size", 32]
    ran = mobilevit("benchmark", quickstart, *tiny, *batch, "--steps", 3, "--output", output)
    assert ran.status == 0, ran.err
    assert ran.out.startswith("quickstart-tiny: mobilevit_xxs, 3 steps\n")
    report = json.loads(output.read_text())
    assert report.keys() == {
        *("loader", "compile_seconds", "step_seconds", "step", "run", "data_wait", "expected"),
        "parts_seconds",
    }
    assert report["parts_seconds"] == {}
    assert report["step"].keys() == report["step_seconds"].keys() == {"32x32"}
    assert report["step"]["32x32"] == pytest.approx(16 / report["step_seconds"]["32x32"])
    assert report["expected"] == pytest.approx(report["step"]["32x32"])
    assert 0 <= report["data_wait"] < 1
    shown = {line.split("  ")[1]: line.split() for line in ran.out.splitlines() if "  " in line}
    for name, number in (
        ("loader alone", report["loader"]),
        ("whole run", report["run"]),
        ("steps of the run, no waiting", report["expected"]),
    ):
        assert number > 0
        assert float(shown[name][-1].replace(",", "")) == pytest.approx(number, rel=1e-3)
    step = [float(cell.replace(",", "")) for cell in shown["step at 32x32"][-3:]]
    seconds = report["step_seconds"]["32x32"], report["compile_seconds"]["32x32"]
    assert step == pytest.approx([report["step"]["32x32"], 1000 * seconds[0], seconds[1]], rel=1e-3)
    assert f"the run waits for data {report['data_wait']:.1%} of its time\n" in ran.err
    assert ran.err.endswith(f"written to {output}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


@pytest.mark.slow
def test_a_detector_is_measured_with_its_matching_and_its_suppression(
    mobilevit, small_detector, tmp_path
):
    output = tmp_path / "speed.json"
    small = [*TINY, "--data.data-dir", tmp_path / "data"]
    small += ["--model.name", small_detector, "--model.dropout", None]
    ran = mobilevit("benchmark", SHAPES, *small, "--steps", 1, "--output", output)
    assert ran.status == 0, ran.err
    parts = json.loads(output.read_text())["parts_seconds"]
    assert list(parts) == [
        "forward pass of 32 images",
        "matching 8 objects in each of 32 images",
        "decoding and NMS of 32 images",
    ]
    for name, seconds in parts.items():
        (line,) = (line for line in ran.out.splitlines() if name in line)
        assert float(line.split()[-1].replace(",", "")) == pytest.approx(1e3 * seconds, rel=1e-3)


def test_a_run_shorter_than_the_default(mobilevit, quickstart, tiny):
    ran = mobilevit("benchmark", quickstart, *tiny)
    assert ran.status == 0
    assert ran.out.startswith("quickstart-tiny: mobilevit_xxs, 1 step\n")


@pytest.mark.parametrize("steps", [0, 2])
def test_steps_that_the_run_does_not_have(mobilevit, quickstart, tiny, steps):
    ran = mobilevit("benchmark", quickstart, *tiny, "--steps", steps)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.endswith(
        f"mobilevit: error: --steps must be from 1 to the run's 1; got {steps}\n"
    )
