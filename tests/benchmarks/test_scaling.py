"""The benchmark of scaling: what counts as growth, its tiny form, bad input."""

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


def row(x, batch, seconds, multiply_adds):
    more = {"size": 32, "patch_sizes": [2, 2, 2], "devices": 1}
    numbers = {"bytes": 1e6, "compile_seconds": 1.0, "multiply_adds": multiply_adds}
    return {"x": x, "batch": batch, "seconds": seconds, **more, **numbers}


def test_growth_is_time_over_arithmetic():
    from reporting import Results
    from scaling import growth, show

    # All slowed down together in the second round; the last point needs twice its arithmetic.
    rows = [
        row("1", 1, [1.0, 7.0, 1.0], 100.0),
        row("2", 2, [2.0, 14.0, 2.0], 100.0),
        row("big", 1, [8.0, 56.0, 8.0], 400.0),
    ]
    assert [one["beyond"] for one in growth(rows)] == [1.0, 1.0, 2.0]
    assert growth(rows)[1]["ms"] == 1000
    results = Results(None, {}, {})
    results.add("batch forward", rows)
    assert [line.split("|")[-2] for line in show(results).splitlines()[2:]] == [
        " 1.00 ",
        " 1.00 ",
        " **2.00** ",
    ]


@pytest.mark.slow
def test_tiny(tmp_path):
    output, plot = tmp_path / "results.json", tmp_path / "plot.png"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "scaling.py", "--tiny", "--output", output, "--plot", plot],
        capture_output=True,
        text=True,
        timeout=500,
        env={
            **os.environ,
            "PYTHONWARNINGS": "ignore",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        },
    )
    assert done.returncode == 0, done.stderr
    (rows,) = json.loads(output.read_text())["rows"].values()
    assert [one["batch"] for one in rows] == [1, 2]
    assert all(one["seconds"][0] > 0 and one["bytes"] > 0 for one in rows)
    assert rows[0]["multiply_adds"] == rows[1]["multiply_adds"]
    assert plot.read_bytes()[:4] == b"\x89PNG" and "| batch" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sizes", "0"), "--sizes must be at least 1"),
        (("--patches", "2,2"), "three sides each, such as 8,4,2; got '2,2'"),
        (("--patches", "a,b,c"), "three sides each"),
        (("--batch", "6"), "--batch 6 must divide by all of --devices"),
        (("--model", "mobilevit_q"), "unknown model 'mobilevit_q'"),
    ],
)
def test_bad_input(arguments, words, monkeypatch, capsys):
    import scaling

    monkeypatch.setattr(sys, "argv", ["scaling.py", *arguments])
    with pytest.raises(SystemExit) as raised:
        scaling.main()
    assert raised.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.slow
def test_more_memory_than_there_is():
    done = subprocess.run(
        [
            *(sys.executable, BENCHMARKS / "scaling.py", "--series", "batch"),
            *("--work", "forward", "--batches", "1000000", "--size", "256"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 2 and "of memory, and there are" in done.stderr
