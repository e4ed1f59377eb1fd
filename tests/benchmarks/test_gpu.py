"""What is to be measured on a GPU: the script's commands are such that there are."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_lines import Parsed, parse_only

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu.sh"


def commands():
    """Returns the words of each command that the script measures."""
    text = SCRIPT.read_text().replace("\\\n", " ")
    arrays = re.findall(r"^(\w+)=\((.*)\)$", text, re.MULTILINE)
    assert [name for name, _ in arrays] == ["both", "contenders"]
    for name, words in arrays:
        text = text.replace(f'"${{{name}[@]}}"', words)
    values = {"$directory": "out", "$model": "mobilevit_s", "$work": "train"}
    for name, value in values.items():
        text = text.replace(name, value)
    return [
        shlex.split(line)[2:] for line in text.splitlines() if re.match(r" *measure \S+ ", line)
    ]


def test_its_commands_are_understood(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = []
    for program, *arguments in commands():
        if program == "mobilevit":
            with pytest.raises(Parsed):
                parse_only(arguments, monkeypatch)
            found.append("mobilevit")
        else:
            name = Path(arguments[0]).stem
            options = importlib.import_module(name).parse(arguments[1:])
            found.append(getattr(options, "kinds", [name])[0])
    assert found == ["forward", "train", "train", "mobilevit", "profile_work"]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for arguments, words in ([], "usage: "), ([tmp_path / "out"], "not a GPU; pip install -e"):
        ran = subprocess.run(
            [SCRIPT, *arguments],
            env={**os.environ, "PATH": path, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 1 and words in ran.stderr, ran.stderr
    assert not (tmp_path / "out").exists()
