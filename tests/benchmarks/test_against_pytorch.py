"""The comparison with PyTorch: its arithmetic, its process protocol, its shapes, bad input."""

# Neither torch nor transformers need be installed where the types are checked.
# pyright: reportMissingImports=false

import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util

from mobilevit_jax.errors import DataError

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
    from comparison_tables import ratios, table

    row = {
        "work": {"kind": "train", "model": "m", "batch": 2, "size": 8, "dtype": "float32"},
        # A slow moment of the machine in the second round hits both.
        "seconds": {"ours": [1.0, 10.0, 1.0], "eager": [2.0, 20.0, 3.0]},
        "peak_bytes": {"ours": 1, "eager": 2},
    }
    assert ratios(row, "eager") == [2.0, 2.0, 3.0]
    assert table([row]).splitlines()[-1].split("|")[1:] == [
        " train step m 8 x2 float32 ",
        " 1000.0 ",
        " 3000.0 ",
        " 2.00 (2.00 to 3.00) ",
        "",
    ]


@pytest.mark.slow
def test_without_pytorch_and_what_is_there_is_kept(tmp_path):
    output = tmp_path / "results.json"
    in_jax = ("--contenders", "ours", "ours, norms fused", "plain port", "--no-downstream")
    sizes = ("--sizes", "64")  # which the plain port can take
    run(*SMALL, *sizes, *in_jax, "--kinds", "forward", "--output", output)
    ((key, row),) = json.loads(output.read_text())["rows"].items()
    assert key == "forward mobilevit_xxs 64 x1 float32"
    assert set(row["seconds"]) == {"ours", "ours, norms fused", "plain port"}
    assert row["seconds"]["ours"][0] > 0 and row["first_seconds"]["ours"] > 0
    assert row["device"] == "CPU" or "NVIDIA" in row["device"]
    shown, progress = run(*SMALL, *sizes, *in_jax, "--kinds", "forward", "--output", output)
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


def test_runtimes_are_missing(scripts, monkeypatch, capsys):
    import against_pytorch

    monkeypatch.setattr(sys, "argv", ["against_pytorch.py", "--contenders", "ours", "OpenVINO"])
    there = lambda name: name not in ("onnxscript", "openvino")  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", there)
    with pytest.raises(SystemExit):
        against_pytorch.main()
    said = capsys.readouterr().err
    assert re.search(r"onnxscript and openvino cannot .*'.\[runtimes\]'.* leave OpenVINO out", said)


def test_torch_is_missing(scripts, monkeypatch, capsys):
    import against_pytorch

    monkeypatch.setattr(sys, "argv", ["against_pytorch.py"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        against_pytorch.main()
    assert re.search(r"torch and transformers cannot.*\[parity\]", capsys.readouterr().err)


def test_torchvision_is_missing(scripts, monkeypatch):
    import against_pytorch

    there = lambda name: name != "torchvision"  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", there)
    with pytest.raises(against_pytorch.ConfigurationError, match="resnet50 would .* torchvision's"):
        against_pytorch.check(against_pytorch.parse(["--models", "mobilevitv2_050", "resnet50"]))
    ours = ["--models", "resnet50", "--contenders", "ours"]
    against_pytorch.check(against_pytorch.parse(ours))


def test_every_classifier_can_be_compared(scripts):
    from against_pytorch import OTHERS, SIZES
    from contenders import torchvision_name

    import mobilevit_jax as mvj

    # torchvision has one width of the last.
    others = ("ssdlite_", "yolox_", "deeplabv3_", "mobilenetv2_")
    classifiers = {name for name in mvj.list_models() if not name.startswith(others)}
    assert {*(f"mobilevit_{size}" for size in SIZES), *OTHERS} == {*classifiers, "mobilenetv2_100"}
    assert torchvision_name("mobilenetv2_100") == "mobilenet_v2"
    assert torchvision_name("mobilevitv2_100") == ""


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
    def test_training_moves_the_weights(self, contender, monkeypatch, tmp_path):
        import contenders
        import equal_weights
        import torch

        work = contenders.Work("train", "mobilevit_xxs", 2, 32)
        equal_weights.write(work, tmp_path, others=True, runtimes=False)
        kept = []
        make = contenders._torch_model

        def remembered(*arguments):
            kept.append(make(*arguments))
            return kept[-1]

        monkeypatch.setattr(contenders, "_torch_model", remembered)
        call = contenders.prepare(contender, work, tmp_path)
        model = kept[0][1]
        before = [p.detach().clone() for p in model.parameters()]
        call()
        moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert np.mean(moved) > 0.9  # at this size some attention is among one token

    @pytest.mark.parametrize(
        ("name", "size"),
        [
            *(("mobilevit_xxs", 64), ("ssdlite_mobilevit_xxs", 320), ("mobilevitv2_050", 64)),
            *(("deeplabv3_mobilevit_xxs", 64), ("mobilenetv2_100", 64), ("resnet18", 64)),
        ],
    )
    @pytest.mark.parametrize("kind", ["forward", "train"])
    def test_both_sides_compute_the_same(self, kind, name, size, tmp_path):
        from contenders import torchvision_name

        if torchvision_name(name):
            pytest.importorskip("torchvision")
        from contenders import OUR_WEIGHTS, TORCH_WEIGHTS, Work
        from equal_weights import write
        from safetensors.numpy import load_file

        write(Work(kind, name, 1, size), tmp_path, others=True, runtimes=False)  # raises otherwise
        ours, theirs = (load_file(tmp_path / file) for file in (OUR_WEIGHTS, TORCH_WEIGHTS))
        counted = (x.size for key, x in theirs.items() if not key.endswith("num_batches_tracked"))
        assert sum(counted) == sum(x.size for x in ours.values())

    @pytest.mark.parametrize("name", ["mobilevit_xxs", "deeplabv3_mobilevit_xxs"])
    def test_fresh_weights_of_transformers_are_refused(self, name):
        """What was timed once: its activations fade to denormal numbers."""
        from equal_weights import compare
        from torch_models import create

        images = np.random.default_rng(0).random((1, 256, 256, 3), np.float32)
        with pytest.raises(DataError, match="PyTorch's activations are denormal numbers in"):
            compare(create(name).eval(), images, [])

    def test_other_outputs_are_refused(self):
        from equal_weights import compare
        from torch import nn

        images = np.ones((1, 4, 4, 3), np.float32)
        compare(nn.ReLU(), images, [images])
        with pytest.raises(DataError, match="equal weights, but outputs differ by 0.5"):
            compare(nn.ReLU(), images, [2 * images])
        with pytest.raises(DataError, match="equal weights, but outputs differ by nan"):
            compare(nn.ReLU(), images, [images * np.nan])

    @pytest.mark.slow
    def test_a_contender_that_computes_something_else(self, tmp_path):
        import against_pytorch
        import contenders
        import equal_weights

        work = contenders.Work("forward", "mobilevit_xxs", 1, 64)
        equal_weights.write(work, tmp_path, others=True, runtimes=False)
        found = contenders.prepare("eager", work, tmp_path)()
        against_pytorch._check_outputs("eager", found, work, tmp_path)
        with pytest.raises(DataError, match="eager does not compute the same: outputs differ by"):
            against_pytorch._check_outputs("eager", 1.1 * found, work, tmp_path)

    @pytest.mark.slow
    def test_inference_runtimes(self, tmp_path):
        runtimes = ("onnxruntime", "OpenVINO")
        for name in ("onnx", "onnxscript", *map(str.lower, runtimes)):
            pytest.importorskip(name, reason="needs the extra 'runtimes'")
        output = tmp_path / "results.json"
        run(
            *(*SMALL, "--kinds", "forward", "--no-downstream", "--output", output),
            *("--contenders", "ours", *runtimes),
        )
        (row,) = json.loads(output.read_text())["rows"].values()
        for name in runtimes:
            assert row["seconds"][name][0] > 0 and row["peak_bytes"][name] > 0


def test_contenders_of_a_work(scripts):
    from contenders import CONTENDERS, Work, entrants

    trained = entrants(Work("train", "mobilevit_xxs", 1, 64))
    assert set(CONTENDERS) - set(trained) == {"ours, norms fused", "onnxruntime", "OpenVINO"}
    assert entrants(Work("forward", "mobilevit_xxs", 1, 64)) == list(CONTENDERS)
    narrow = entrants(Work("forward", "mobilevit_xxs", 1, 64, "bfloat16"))
    assert set(CONTENDERS) - set(narrow) == {"onnxruntime", "OpenVINO"}
    detector = entrants(Work("forward", "ssdlite_mobilevit_xxs", 1, 64))
    assert set(CONTENDERS) - set(detector) == {"plain port"}
    assert "plain port" not in entrants(Work("train", "mobilevit_xxs", 1, 160))


def test_a_denormal_number_is_found(scripts):
    from equal_weights import refuse_denormals

    x = np.array([0.0, -1.0, 1e-30], np.float32)
    refuse_denormals("ours", {"a": x})
    with pytest.raises(DataError, match=r"ours activations are denormal .* 1 of 2 .*25% of b"):
        refuse_denormals("ours", {"a": x, "b": np.append(x, np.float32(-1e-40))})


# Attention and the norms' sums are computed alike for all sizes of a model.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [("mobilevit_xxs", 64), ("ssdlite_mobilevit_xxs", 128), ("deeplabv3_mobilevit_xxs", 64)],
)
@pytest.mark.parametrize("weights", ["drawn", "initial"])
def test_weights_that_are_timed_keep_activations_at_their_size(scripts, name, size, weights):
    """Those of `mobilevit benchmark`, `scaling.py` and `profile_work.py`, and of a new run."""
    import jax
    from equal_weights import flax_activations, refuse_denormals

    import mobilevit_jax as mvj
    from mobilevit_jax.analysis.programs import draw_variables
    from mobilevit_jax.models.initial import initialise

    model = mvj.create_model(name)
    images = np.random.default_rng(0).random((1, size, size, 3), np.float32)
    if weights == "drawn":
        variables = draw_variables(model)
    else:
        variables = traverse_util.unflatten_dict(initialise(model, jax.random.key(0)))
    apply = partial(model.apply, capture_intermediates=True, mutable="intermediates")
    _, kept = jax.jit(apply)(variables, images)
    activations = flax_activations(kept["intermediates"])
    assert len(activations) > 50
    refuse_denormals("ours", activations)
    least = min(float(np.abs(x).max()) for x in activations.values())
    assert least > (1e-2 if weights == "drawn" else 1e-6)
