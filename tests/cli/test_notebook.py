"""`%mobilevit` in a notebook: what a command prints and how it fails."""

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from mobilevit_jax.cli import notebook


def test_is_a_magic_after_load_ext(capsys):
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "mobilevit_jax.cli.notebook")
    shell.run_line_magic("mobilevit", "--version")
    assert capsys.readouterr().out.startswith("mobilevit ")


def test_progress_and_errors_go_to_the_output(capsys):
    with pytest.raises(UsageError, match="%mobilevit train ended with status 2"):
        notebook.run("train nowhere.py")
    printed = capsys.readouterr()
    assert "no experiment file nowhere.py" in printed.out
    assert not printed.err


def test_help_is_no_failure(capsys):
    notebook.run("predict --help")
    assert "usage: mobilevit predict" in capsys.readouterr().out


def test_options_that_tyro_refuses_fail(capsys):
    with pytest.raises(UsageError, match="%mobilevit models ended with status 2"):
        notebook.run("models --no-such-option")
    assert "no-such-option" in capsys.readouterr().out


def test_words_are_quoted_as_in_a_shell(capsys):
    with pytest.raises(UsageError, match="ended with status 2"):
        notebook.run("train 'two words.py'")
    assert "no experiment file two words.py" in capsys.readouterr().out
    with pytest.raises(UsageError, match="No closing quotation"):
        notebook.run("train 'two")
