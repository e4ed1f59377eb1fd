"""What is to be measured on a GPU: the script's commands are such that there are.

It also has to run where JAX, Flax, Optax and PyTorch are, and nothing that reads data.
"""

import importlib.util
import json
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
    arrays = re.findall(r"^ *(\w+)=\((.+)\)$", text, re.MULTILINE)
    assert [name for name, _ in arrays] == ["common", "both", "contenders"]
    for name, words in arrays:
        text = text.replace(f'"${{{name}[@]}}"', words)
    values = {"$directory": "out", "$model": "mobilevit_s", "$work": "train"}
    for name, value in values.items():
        text = text.replace(name, value)
    lines = re.findall(r"^ *measure \S+ (?:profile )?((?:limited \d+ )?.*)$", text, re.MULTILINE)
    return [shlex.split(line.partition("||")[0]) for line in lines]


def limits():
    """Returns the seconds that the parts of the quick form may take."""
    return [int(words[1]) for words in commands() if words[0] == "limited"]


def test_its_commands_are_understood(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = []
    for words in commands():
        program, *arguments = words[2:] if words[0] == "limited" else words
        if program == "mobilevit":
            with pytest.raises(Parsed):
                parse_only(arguments, monkeypatch)
            found.append("mobilevit")
        else:
            name = Path(arguments[0]).stem
            options = importlib.import_module(name).parse(arguments[1:])
            found.append(getattr(options, "kinds", [name])[0])
    assert found == [
        *("train", "profile_work", "forward"),
        *("forward", "train", "train", "mobilevit", "profile_work"),
    ]


def test_the_quick_form_ends_within_a_quarter_of_an_hour():
    (grace,) = re.findall(r"--kill-after (\d+) ", SCRIPT.read_text())
    assert len(limits()) == 3
    assert sum(limits()) + len(limits()) * int(grace) < 15 * 60


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    out = tmp_path / "out"
    no_gpu = "not a GPU; pip install -e"
    for arguments, words in (
        *(([], "usage: "), (["--quick"], "usage: ")),
        *(([out], no_gpu), (["--quick", out], no_gpu)),
    ):
        ran = subprocess.run(
            [SCRIPT, *arguments],
            env={**os.environ, "PATH": path, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 1 and words in ran.stderr, ran.stderr
        assert ran.stderr.count("\n") == 1 and not out.exists()


PYTHON = """#!/bin/sh
case $1 in
    -) exit 0 ;;  # there is a GPU
    */profile_work.py) test "$XLA_FLAGS" = "--xla_gpu_enable_command_buffer= $FLAGS" || exit 1 ;;
esac
echo "$1" | tee -a "$CALLS"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_a_part_that_fails_is_named_and_made_again(tmp_path):
    (tmp_path / "python3").write_text(PYTHON)
    (tmp_path / "python3").chmod(0o755)
    out, calls = tmp_path / "out", tmp_path / "calls"

    def run(flags):
        variables = {"XLA_FLAGS": "--a", "FLAGS": flags, "CALLS": str(calls)}
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [SCRIPT, "--quick", out],
            env={**os.environ, **variables, "PATH": path},
            capture_output=True,
            text=True,
        )

    ran = run("--another")
    assert ran.returncode == 1 and "not finished: quick_profile; the same" in ran.stderr
    assert {path.name for path in out.iterdir()} == {"quick_train.md", "quick_forward.md"}
    calls.unlink()
    ran = run("--a")
    assert ran.returncode == 0 and ran.stderr == ""
    assert calls.read_text() == (out / "quick_profile.md").read_text()


# What reads data sets or command lines, and none of which a measurement needs.
ABSENT = (
    *("grain", "tensorflow_datasets", "array_record", "orbax", "tyro", "tensorboardX"),
    *("cv2", "PIL", "matplotlib", "pycocotools"),
)
HIDDEN = f"""
import json, sys
sys.path[:0] = {[str(BENCHMARKS), str(BENCHMARKS.parent)]}
sys.modules.update(dict.fromkeys({ABSENT}))
"""
PROFILE = """
from mobilevit_jax.analysis import programs
def reached(setting): raise SystemExit(f"compiling {setting}")
programs.compile_program = reached
import profile_work
profile_work.measure(profile_work.parse(["mobilevit_xxs", "--batch", "4"]))
"""
# Up to where the step is compiled, which takes a minute.
WORKERS = """
import io
from mobilevit_jax.training import compile
def reached(*arguments): raise SystemExit("compiling the step")
compile.lower = reached
from against_pytorch import worker
for task in json.loads(sys.argv[1]):
    sys.stdin = io.StringIO("null\\n")
    try:
        worker(task)
    except SystemExit as reason:
        print("> stopped:", reason)
"""


def run_without_them(code, *arguments):
    """Runs a program where the modules of `ABSENT` are not to be found."""
    return subprocess.run(
        [sys.executable, "-c", HIDDEN + code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "XLA_FLAGS": ""},  # one device
    )


def test_a_profile_needs_nothing_that_reads_data():
    ran = run_without_them(PROFILE)
    assert "compiling mobilevit_xxs train 256x256, batch 4, float32" in ran.stderr, ran.stderr


@pytest.mark.slow
def test_workers_need_nothing_that_reads_data(tmp_path):
    names = ["ours", "plain port"]
    if all(map(importlib.util.find_spec, ("torch", "transformers"))):
        names.append("eager channels-last")
    task = {"directory": str(tmp_path), "cores": sorted(os.sched_getaffinity(0))}
    tasks = []
    for kind in ("forward", "train"):  # whose weights are the same
        work = {"kind": kind, "model": "mobilevit_xxs", "batch": 2, "size": 64}
        writer = [{"contenders": names}] if kind == "forward" else []
        who = (*writer, *({"contender": name} for name in names))
        tasks += [{**task, "work": work, **one} for one in who]
    ran = run_without_them(WORKERS, json.dumps(tasks))
    assert ran.returncode == 0 and "error" not in ran.stdout, ran.stdout + ran.stderr
    answers = [line for line in ran.stdout.splitlines() if line.startswith("> ")]
    assert len(answers) == len(tasks)
    steps = [task["work"]["kind"] == "train" and task["contender"] in names[:2] for task in tasks]
    assert [answer == "> stopped: compiling the step" for answer in answers] == steps
