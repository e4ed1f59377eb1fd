import subprocess
import sys
import types

import pytest

import mobilevit_jax
from mobilevit_jax.cli import main as cli
from mobilevit_jax.errors import ConfigurationError, DataError, TrainingError


def install_command(monkeypatch: pytest.MonkeyPatch, run):
    """Puts a function in the place of `mobilevit train`."""
    module = types.ModuleType("mobilevit_jax.cli.commands.train")
    module.main = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mobilevit_jax.cli.commands.train", module)


def raises(error: BaseException):
    def run(argv: list[str]) -> int:
        raise error

    return run


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(argv, capsys):
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: mobilevit COMMAND")
    for command in ("train", "evaluate", "predict", "prepare", "models", "benchmark"):
        assert f"\n  {command} " in shown


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mobilevit {mobilevit_jax.__version__}\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_commands_are_importable(command):
    module = __import__(f"mobilevit_jax.cli.commands.{command}", fromlist=["main"])
    assert callable(module.main)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("trian", "'train'"), ("predictt", "'predict'"), ("--versoin", "'--version'")],
)
def test_unknown_command_suggests_the_nearest(given, nearest, capsys):
    assert cli.main([given]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert given in captured.err and f"did you mean {nearest}" in captured.err


def test_arguments_and_status_pass_through(monkeypatch):
    seen = []
    install_command(monkeypatch, lambda argv: seen.append(argv) or 3)
    assert cli.main(["train", "experiment.py", "--debug", "--seed", "1"]) == 3
    assert seen == [["experiment.py", "--seed", "1"]]


def test_what_follows_two_dashes_is_left_alone(monkeypatch):
    seen = []
    install_command(monkeypatch, lambda argv: seen.append(argv) or 0)
    assert cli.main(["train", "--debug", "--", "--debug"]) == 0
    assert seen == [["--", "--debug"]]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigurationError("no such option"), 2, "no such option"),
        (DataError("photo.jpg is cut short"), 1, "photo.jpg is cut short"),
        (TrainingError("the loss is nan at step 7"), 1, "the loss is nan at step 7"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "Permission denied: /x/y"),
        (KeyboardInterrupt(), 1, "interrupted"),
        (RuntimeError("two\nlines"), 1, "RuntimeError: two lines (--debug shows the traceback)"),
        (AssertionError(), 1, "AssertionError (--debug shows the traceback)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_one_line_and_a_status(error, status, line, monkeypatch, capsys):
    install_command(monkeypatch, raises(error))
    assert cli.main(["train"]) == status
    assert capsys.readouterr().err == f"mobilevit: error: {line}\n"


def test_debug_shows_the_traceback(monkeypatch, capsys):
    install_command(monkeypatch, raises(ConfigurationError("no such option")))
    assert cli.main(["train", "--debug"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "in run" in shown and "no such option" in shown


def test_usage_errors_of_a_command_keep_their_status(monkeypatch):
    install_command(monkeypatch, raises(SystemExit(2)))
    with pytest.raises(SystemExit) as caught:
        cli.main(["train"])
    assert caught.value.code == 2


def test_a_reader_that_goes_away_is_no_traceback():
    code = (
        "import sys; from mobilevit_jax.cli import main as cli;"
        "cli.help_text = lambda: 'x' * 1_000_000; sys.exit(cli.main(['--help']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_python_dash_m_is_the_same_command():
    command = [sys.executable, "-m", "mobilevit_jax", "modles"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("mobilevit: error: unknown command 'modles'")
