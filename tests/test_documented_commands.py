"""The commands that the documents show: each is one that `mobilevit` takes, and some are run."""

import json
import re
import shlex
from pathlib import Path

import pytest

from mobilevit_jax.cli.main import COMMANDS, main
from mobilevit_jax.training.metrics_log import read_metrics
from tests.command_lines import Parsed, parse_only

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/tpu_gpu.md", "docs/resume.md", "experiments/README.md")
GUIDE = "docs/tpu_gpu.md"
EXPERIMENT, STUDY = "experiments/quickstart.py", "experiments/ablations/weight_decay.py"
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_INLINE = re.compile(r"`(mobilevit [a-z][^`]*)`")


def documented(document):
    """Returns the lines after the word `mobilevit` that a document shows, in order."""
    text = (ROOT / document).read_text()
    shown = []
    for language, block in _FENCED.findall(text):
        if language not in ("bash", ""):
            continue
        for line in re.split(r"\n|&&", block.replace("\\\n", " ")):
            command = re.search(r"(?:^|[\s/])mobilevit ([a-z].*)", line)
            shown += [command[1]] if command else []
    outside = _FENCED.sub("", text)
    for command in _INLINE.findall(outside):
        shown += re.findall(r"mobilevit ([a-z].*?)(?:$|&&)", " ".join(command.split()))
    return [cleaned(line) for line in shown]


def cleaned(line):
    """Takes off comments, redirections, and what a shell puts behind."""
    line = re.sub(r"\s#.*|\s(2>&1|[<>]\s*\S+|&)'?(?=\s|$)|'$", "", line).strip()
    return line.removesuffix(" ...")


def with_values(line):
    """Puts values where a reader is to put his own."""
    line = line.replace("--row NAME", "--row recipe")
    line = line.replace("--num-processes N --process-id I", "--num-processes 2 --process-id 0")
    study = line.startswith("sweep") or "--row" in line
    return re.sub(r"\bFILE\b", STUDY if study else EXPERIMENT, line)


COMMAND_LINES = [(doc, line) for doc in DOCUMENTS for line in documented(doc)]


def test_the_documents_are_read():
    counts = {doc: sum(doc == other for other, _ in COMMAND_LINES) for doc in DOCUMENTS}
    assert counts["README.md"] > 30 and counts[GUIDE] > 8, counts
    assert {line.split()[0] for _, line in COMMAND_LINES} == set(COMMANDS)


@pytest.mark.parametrize(("document", "line"), dict.fromkeys(COMMAND_LINES))
def test_is_a_command_that_is_understood(document, line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = shlex.split(with_values(line))
    if words == [words[0]] and words[0] != "models":
        return  # a sentence speaks of the command as such
    with pytest.raises((Parsed, SystemExit)) as ended:
        assert parse_only(words, monkeypatch) == "never", capsys.readouterr().err
    if isinstance(ended.value, SystemExit):
        assert words[-1] == "--help", capsys.readouterr().err


@pytest.mark.slow
def test_the_guides_first_run_and_its_report(tmp_path, monkeypatch, capsys):
    """The commands of the guide that need neither ImageNet nor another machine, as they stand."""
    lines = documented(GUIDE)
    train = next(line for line in lines if line.endswith("--tiny"))
    report = next(line for line in lines if line.startswith("report"))
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    assert main(shlex.split(train)) == 0
    (run,) = (tmp_path / "runs").iterdir()
    rows = read_metrics(run)
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    # Eight classes: the loss of a fresh model is about log 8 in bfloat16 as well.
    assert all(1.5 < row["loss"] < 3.5 for row in rows)
    assert json.loads((run / "timing.json").read_text())["compile_seconds"]

    assert main(shlex.split(train)) == 0  # the same command again
    assert "nothing to do" in capsys.readouterr().err or read_metrics(run) == rows

    assert main(shlex.split(report.replace("WORKDIR", str(run)))) == 0
    assert "mobilevit_s" in (tmp_path / "report" / "index.html").read_text()
