"""The benchmark of the sampler: the paper's numbers of updates, its tiny form, bad input."""

# The scripts are no package; their directory is put on the path below.
# pyright: reportMissingImports=false

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "sampler", raising=False)


def test_updates_of_the_papers_recipe():
    from sampler import AREA, CVNETS, STANDARD, plan

    rows = plan(3)
    assert rows[STANDARD] == {"updates": 1252 * 300, "pixels": 1.0}
    assert rows[CVNETS]["updates"] == pytest.approx(256_500, rel=0.02)
    assert rows[AREA]["updates"] == pytest.approx(277_000, rel=0.02)
    assert rows[AREA]["pixels"] < rows[CVNETS]["pixels"] < 1


def test_ratios_are_medians_of_rounds():
    from sampler import SAMPLERS, STANDARD, _epochs_table

    def epoch(slowness):
        return {
            name: {
                "updates": 10 if name == STANDARD else 7,
                "images": 100 if name == STANDARD else 104,
                "seconds": slowness * (2.0 if name == STANDARD else 1.5),
            }
            for name in SAMPLERS
        }

    lines = _epochs_table([epoch(1), epoch(9), epoch(1)], {STANDARD: 5.0}).splitlines()
    standard, cvnets, _, paper = ([c.strip() for c in line.split("|")[1:-1]] for line in lines[2:])
    assert standard[4:] == ["1.00", "1.00", "1.00", "5.00"]
    assert cvnets[4:] == ["0.70", "0.75", "0.72", ""]
    assert paper[4:6] == ["0.62", "0.71"]


@pytest.mark.slow
def test_tiny(tmp_path):
    output = tmp_path / "results.json"
    environment = {
        **os.environ,
        "PYTHONWARNINGS": "ignore",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    arguments = ("--tiny", "--data-dir", tmp_path / "data", "--output", output)
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "sampler.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=500,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    assert set(rows) == {"plan", "epoch 0", "compile", "compiled"}
    assert {row["updates"] for row in rows["epoch 0"].values()} == {4}
    cold, warm = rows["compile"]["cold"], rows["compile"]["warm"]
    key = "XLA, or reading the cache"
    assert warm["of that"][key] < cold["of that"][key]
    assert "| paper, multi-scale |" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--images", "0"), "--images must be at least 1"),
        (("--plan-epochs", "301"), "at most 300"),
        (("--model", "mobilevit_q"), "unknown model 'mobilevit_q'"),
        (("--sizes", "64", "64"), "sizes must be different"),
    ],
)
def test_bad_input(arguments, words, monkeypatch, capsys):
    import sampler

    monkeypatch.setattr(sys, "argv", ["sampler.py", *arguments])
    with pytest.raises(SystemExit) as raised:
        sampler.main()
    assert raised.value.code == 2 and words in capsys.readouterr().err
