"""The comparison with PyTorch: its arithmetic, its process protocol, its shapes, bad input."""

# Neither torch nor transformers need be installed where the types are checked.
# pyright: reportMissingImports=false

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ("--models", "xxs", "--batches", "1", "--sizes", "32", "--rounds", "1", "--seconds", "0")


@pytest.fixture
def scripts(monkeypatch):
    """The directory of the scripts, to import from as they do."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def run(*arguments, status=0):
    """Runs the script; returns its two outputs."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "against_pytorch.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        timeout=500,
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def test_ratios_are_medians_of_rounds(scripts):
    from against_pytorch import ratio, table

    row = {
        "work": {"kind": "train", "model": "m", "batch": 2, "size": 8, "dtype": "float32"},
        # A slow moment of the machine in the second round hits both.
        "seconds": {"ours": [1.0, 10.0, 1.0], "eager": [2.0, 20.0, 3.0]},
        "peak_bytes": {"ours": 1, "eager": 2},
    }
    assert ratio(row, "eager") == 2.0
    assert table([row]).splitlines()[-1].split("|")[1:] == [
        " train step m 8 x2 float32 ",
        " 1000.0 ",
        " 3000.0 ",
        " 2.00 ",
        "",
    ]


def test_ours_alone_and_what_is_there_is_kept(tmp_path):
    output = tmp_path / "results.json"
    only_ours = ("--contenders", "ours", "ours, norms fused", "--no-downstream")
    run(*SMALL, *only_ours, "--kinds", "forward", "--output", output)
    ((key, row),) = json.loads(output.read_text())["rows"].items()
    assert key == "forward mobilevit_xxs 32 x1 float32"
    assert set(row["seconds"]) == {"ours", "ours, norms fused"}
    assert row["seconds"]["ours"][0] > 0 and row["first_seconds"]["ours"] > 0
    assert row["device"] == "CPU" or "NVIDIA" in row["device"]
    shown, progress = run(*SMALL, *only_ours, "--kinds", "forward", "--output", output)
    assert json.loads(output.read_text())["rows"] == {key: row} and progress == ""
    assert key in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--threads", "0"), "--threads must be from 1 to"),
        (("--rounds", "0"), "must be at least 1"),
        (("--batches", "0"), "must be at least 1"),
        (("--contenders", "eager"), "must have 'ours'"),
    ],
)
def test_bad_input(arguments, words):
    assert words in run(*arguments, status=2)[1]


def test_contenders_on_different_devices_are_refused(scripts):
    from against_pytorch import ConfigurationError, _check_devices

    _check_devices({"ours": "CPU", "eager": "CPU"})
    _check_devices({"ours": "NVIDIA H200", "eager": "NVIDIA H200 (another name of it)"})
    with pytest.raises(ConfigurationError, match="ours on CPU, eager on NVIDIA H200; .*'cuda'"):
        _check_devices({"ours": "CPU", "eager": "NVIDIA H200"})


def test_every_size_is_a_row(scripts):
    from against_pytorch import parse, work_of

    options = parse(["--kinds", "train", "--models", "xs", "--sizes", "160", "320"])
    assert list(map(str, work_of(options))) == [
        "train step mobilevit_xs 160 x16 float32",
        "train step mobilevit_xs 320 x16 float32",
    ]


def test_torch_is_missing(scripts, monkeypatch, capsys):
    import against_pytorch

    monkeypatch.setattr(sys, "argv", ["against_pytorch.py"])
    monkeypatch.setattr(against_pytorch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        against_pytorch.main()
    assert re.search(r"torch and transformers cannot.*\[parity\]", capsys.readouterr().err)


@pytest.mark.parity
class TestTorch:
    """What needs torch."""

    @pytest.fixture(autouse=True)
    def _torch(self, scripts):
        pytest.importorskip("torch")
        pytest.importorskip("transformers")

    @pytest.mark.slow
    def test_turns(self, tmp_path):
        output = tmp_path / "results.json"
        contenders = ("ours", "eager", "eager channels-last")
        run(
            *SMALL,
            *("--kinds", "forward", "--no-downstream", "--output", output),
            *("--contenders", *contenders),
        )
        rows = list(json.loads(output.read_text())["rows"].values())
        assert [row["work"]["model"] for row in rows] == ["mobilevit_xxs"]
        for row in rows:
            assert set(row["seconds"]) == set(contenders)
            assert all(value > 0 for value in row["peak_bytes"].values())

    def test_pytorch_is_asked_and_not_jax(self, monkeypatch):
        import against_pytorch
        import jax
        import torch_models  # noqa: F401 (imports jax)

        monkeypatch.setattr(jax, "devices", None)
        monkeypatch.setattr(jax, "local_devices", None)
        assert against_pytorch._torch_device()
        assert against_pytorch._torch_peak(lambda: None, 0) > 0

    @pytest.mark.parametrize("contender", ["eager", "eager channels-last"])
    def test_training_moves_the_weights(self, contender, monkeypatch):
        import contenders
        import torch

        work = contenders.Work("train", "mobilevit_xxs", 2, 32)
        kept = []
        make = contenders._torch_model

        def remembered(*arguments):
            kept.append(make(*arguments))
            return kept[-1]

        monkeypatch.setattr(contenders, "_torch_model", remembered)
        call = contenders.prepare(contender, work)
        model = kept[0][1]
        before = [p.detach().clone() for p in model.parameters()]
        call()
        moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert np.mean(moved) > 0.9  # at this size some attention is among one token

    @pytest.mark.parametrize(
        ("name", "size"), [("ssdlite_mobilevit_xxs", 320), ("deeplabv3_mobilevit_xxs", 64)]
    )
    def test_the_same_work(self, name, size):
        import jax
        import torch
        from torch_models import create

        import mobilevit_jax as mvj

        model = mvj.create_model(name)
        images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        ours = jax.eval_shape(model.apply, variables, images)
        theirs = create(name).eval()
        with torch.inference_mode():
            found = theirs(torch.zeros(1, 3, size, size))
        if isinstance(found, tuple):
            assert [x.shape for x in ours] == [tuple(x.shape) for x in found]
        else:
            assert ours.shape == tuple(found.permute(0, 2, 3, 1).shape)
        count = sum(p.size for p in jax.tree.leaves(variables["params"]))
        assert sum(p.numel() for p in theirs.parameters()) == count
