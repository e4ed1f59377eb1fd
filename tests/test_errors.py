"""Messages that a user can act upon."""

import errno

import pytest

from mobilevit_jax.cli.main import describe
from mobilevit_jax.errors import ConfigurationError, naming, nearest, unknown_name


def test_an_unknown_name_comes_with_the_nearest_and_the_known():
    error = unknown_name("colour", "gren", ["red", "green", "blue"])
    assert isinstance(error, ConfigurationError)
    assert str(error) == "unknown colour 'gren' (did you mean 'green'?); known: blue, green, red"


def test_a_long_list_is_cut():
    message = str(unknown_name("letter", "?", "abcdefghijklmnop"))
    assert message == "unknown letter '?'; known: a, b, c, d, e, f, g, h, i, j, k, l, ..."


def test_nothing_is_near():
    assert nearest("xyz", ["epochs", "seed"]) == ""


def test_a_write_that_fails_says_where(tmp_path):
    with pytest.raises(OSError) as caught, naming(tmp_path / "metrics.jsonl"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert describe(caught.value) == f"No space left on device: {tmp_path / 'metrics.jsonl'}"


def test_a_name_that_is_there_stays(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path / "other"):
        (tmp_path / "gone").read_text()
    assert describe(caught.value) == f"No such file or directory: {tmp_path / 'gone'}"
