import io
import re
import sys

import pytest

from mobilevit_jax.cli import console
from mobilevit_jax.cli.commands.prepare import _bars

ROW = {
    "step": 120,
    "epoch": 3,
    "split": "train",
    "loss": 1.23456789,
    "gradient_norm": 2.5,
    "learning_rate": 0.002,
    "images_per_second": 51234.5,
    "data_wait_seconds": 0.01,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(stream: io.StringIO) -> str:
    with console.TrainProgress(200, epochs=5, stream=stream) as progress:
        progress.begin(100)
        for step in range(101, 121):
            progress.update(step, epoch=3, loss=1.5, images_per_second=321.4)
        progress.log(ROW)
    return stream.getvalue()


def test_progress_without_a_terminal_is_one_plain_line_a_row():
    assert run(io.StringIO()) == (
        "epoch 3/5 step 120 train  loss 1.235  lr 0.002  51,234 images/s\n"
    )


def test_a_notebook_that_forces_colours_is_no_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as ipykernel does
    assert "\x1b" not in run(io.StringIO())


def test_progress_on_a_terminal_shows_the_state(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    shown = run(Terminal())
    assert "epoch 3/5 step 120 train" in shown
    for part in ("120/200", "loss 1.5000", "321 images/s", "left"):
        assert part in shown


def test_a_row_that_is_too_long_for_the_terminal_is_folded_between_words(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    progress = console.TrainProgress(200, epochs=5, stream=stream)
    progress.log(ROW)
    lines = stream.getvalue().splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 40
    assert " ".join(" ".join(lines).split()).endswith("loss 1.235 lr 0.002 51,234 images/s")


def test_count():
    assert [console.count(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


def test_an_unknown_loss_keeps_the_last_one(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with console.TrainProgress(10, epochs=1, stream=stream) as progress:
        progress.update(1, epoch=1, loss=2.5)
        progress.update(2, epoch=1)
    assert re.search(r"2/10\S* loss 2\.5000", stream.getvalue())


def test_table_is_not_folded_in_a_pipe(capsys):
    console.print_table(["model", "top1"], [["m" * 150, 0.123456], ["s", 12345678.0]])
    shown = capsys.readouterr().out
    assert "m" * 150 in shown
    assert "0.1235" in shown and "12,345,678" in shown


# Of what users name: classes, files, experiments, data sets.
NAMES = ("[bold]cat", "cat[/x]", "[/]", "a\\[b]", "[link=x]y", ":cat:", "[red", "x" * 300)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(name, capsys):
    console.say(f"class {name}")
    console.print_table([name, "b"], [[name, f"{name} "]], title=name)
    shown = capsys.readouterr()
    assert shown.err == f"class {name}\n"
    assert shown.out.count(name) == 4
    stream = io.StringIO()
    with console.TrainProgress(2, epochs=1, stream=stream) as progress:
        progress.say(name)
        progress.log({"step": 1, "epoch": 1, "split": name})
    assert stream.getvalue().count(name) == 2


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are_on_a_terminal(name, monkeypatch):
    """Folded where they are longer than it is wide, and nothing of them cut off."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "25")  # else rich takes a dumb terminal for 80 columns wide
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    console.print_table(["class", "probability"], [[name, "82.2%"]])
    shown = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert max(map(len, shown.splitlines())) <= 40 and "82.2%" in shown
    assert name in "".join(shown.replace("82.2%", "").split())


def test_what_steers_a_terminal_is_escaped(capsys):
    """Colours, returns, overrides of the direction, bytes that are no UTF-8."""
    name, shown = "a\x1b[31m\rb\u202ec\udcff\nd\u200f", "a\\x1b[31m\\rb\\u202ec\\udcff\\nd\u200f"
    console.say(name)
    console.print_table(["class"], [[name]], title=name)
    with console.TrainProgress(2, epochs=1) as progress:
        progress.say(name)
    printed = capsys.readouterr()
    assert printed.err == 2 * f"{shown}\n" and printed.out.count(shown) == 2


def test_splits_of_any_name_have_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with _bars() as update:
        update("[bold]train[/x]", 1, 2)
    assert "[bold]train[/x]" in stream.getvalue()
