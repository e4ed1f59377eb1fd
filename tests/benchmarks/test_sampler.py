"""The benchmark of the sampler: the paper's numbers of updates, its tiny form, bad input."""

# The scripts are no package; their directory is put on the path below.
# pyright: reportMissingImports=false

import argparse
import json
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


def test_epochs_and_compilation(tmp_path, monkeypatch, capsys):
    """All but the processes, with a model that compiles in a second."""
    import sampler

    from mobilevit_jax.data.prepare import prepare
    from mobilevit_jax.models.config import ModelConfig
    from tests.small import build_small_net

    class Here:
        """A worker that needs no process."""

        def __init__(self, script, task, environment):
            assert "JAX_COMPILATION_CACHE_DIR" in environment
            self.options = argparse.Namespace(**json.loads(json.dumps(task))["options"])

        def ask(self):
            return sampler.compile_scales_once(self.options)

        def close(self):
            pass

    monkeypatch.setattr(ModelConfig, "build", build_small_net)
    monkeypatch.setattr(sampler, "Worker", Here)
    monkeypatch.setattr(
        sampler, "start", lambda options: prepare(options.dataset, data_dir=options.data_dir)
    )
    output = tmp_path / "results.json"
    arguments = ("--tiny", "--data-dir", str(tmp_path / "data"), "--output", str(output))
    monkeypatch.setattr(sys, "argv", ["sampler.py", *arguments])
    sampler.main()
    results = json.loads(output.read_text())
    assert set(results["rows"]) == {"plan", "epoch 0", "compile", "compiled"}
    for row in results["rows"]["epoch 0"].values():
        assert row["updates"] == 4 and row["images"] == 16 and row["seconds"] > 0
    assert set(results["rows"]["compile"]["cold"]["each"]) == {"32x32"}
    shown = capsys.readouterr().out
    assert "| paper, multi-scale |" in shown and "| warm |" in shown
    monkeypatch.setattr(sampler, "Run", None)  # nothing is measured again
    sampler.main()
    assert capsys.readouterr().out == shown


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
