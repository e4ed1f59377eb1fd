import io
import re
import sys

from mobilevit_jax.cli import console

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


def test_markup_in_messages_is_shown_as_it_is(capsys):
    console.say("class [bold] of image [0]")
    console.make_console(sys.stdout)
    assert capsys.readouterr().err == "class [bold] of image [0]\n"
