"""The benchmark of the input pipeline: its tiny form, what is left by an interrupt, bad input."""

# The scripts are no package; their directory is put on the path below.
# pyright: reportMissingImports=false

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobilevit_jax.errors import ConfigurationError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def run(*arguments, status=0):
    """Runs the script; returns its two outputs."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "input_pipeline.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_tiny(tmp_path):
    output = tmp_path / "results.json"
    shown, _ = run("--tiny", "--output", output)
    rows = json.loads(output.read_text())["rows"]
    assert set(rows) == {"readers 1", "stages"}
    assert all(speed > 0 for speeds in rows["readers 1"].values() for speed in speeds)
    for words in ("ours (Grain loader)", "Pillow alone", "entropy decoding"):
        assert words in shown
    again, progress = run("--tiny", "--output", output)
    assert again == shown and progress == ""


def test_speeds_are_compared_round_by_round():
    from input_pipeline import _readers_table
    from readers import OURS, OURS_ALONE, PILLOW

    # The second round was a slow moment of the machine for all.
    row = {
        OURS: [400.0, 40.0, 400.0],
        OURS_ALONE: [500.0, 50.0, 500.0],
        PILLOW: [200.0, 20.0, 200.0],
    }
    assert _readers_table(2, row).splitlines()[-1] == f"| {PILLOW} | 200 | 100 | 2.00 | 2.50 |"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("there/is/none",), "there/is/none is not a directory"),
        (("{empty}",), "holds no .jpg"),
        (("{broken}",), "broken.jpg: the file is damaged"),
        (("--threads", "0"), "--threads must be from 1 to"),
        (("--size", "0"), "--size must be at least 1"),
        (("--seconds", "0"), "--seconds must be above 0"),
    ],
)
def test_bad_input(arguments, words, tmp_path, monkeypatch, capsys):
    import input_pipeline

    for name, files in (("empty", {}), ("broken", {"broken.jpg": b"\xff\xd8\xff"})):
        (tmp_path / name).mkdir()
        for file, data in files.items():
            (tmp_path / name / file).write_bytes(data)
    places = {name: str(tmp_path / name) for name in ("empty", "broken")}
    words_given = [word.format(**places) for word in arguments]
    argv = ["input_pipeline.py", *words_given, "--readers", "Pillow alone"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        input_pipeline.main()
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reader", "words"),
    [
        ("Pillow in a torch DataLoader", r"needs torch, .*\[parity\]"),
        ("tf.data, decode_and_crop_jpeg", "needs tensorflow, .*pip install tensorflow-cpu"),
    ],
)
def test_what_is_not_installed_is_named(reader, words, monkeypatch):
    import readers

    monkeypatch.setattr(readers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=words):
        readers.check_installed(reader)


@pytest.mark.parametrize("reader", ["ours (Grain loader)", "ours, decode and augment alone"])
def test_readers_go_on_for_ever(reader):
    from input_pipeline import read_files
    from readers import Reading, open_reader

    images = open_reader(reader, Reading(read_files(None, 2), 32, 2, 3))
    assert [next(images) for _ in range(5)] == [3] * 5
    images.close()  # pyright: ignore[reportAttributeAccessIssue]
