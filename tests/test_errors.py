"""Messages that a user can act upon."""

import errno
from pathlib import Path

import pytest

from mobilevit_jax.cli.main import describe
from mobilevit_jax.config import Experiment
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.errors import (
    ConfigurationError,
    check_local,
    naming,
    nearest,
    quoted,
    unknown_name,
)
from mobilevit_jax.training.workdir import open_workdir


def test_an_unknown_name_comes_with_the_nearest_and_the_known():
    error = unknown_name("colour", "gren", ["red", "green", "blue"])
    assert isinstance(error, ConfigurationError)
    assert str(error) == "unknown colour 'gren' (did you mean 'green'?); known: blue, green, red"


def test_a_long_list_is_cut():
    message = str(unknown_name("letter", "?", "abcdefghijklmnop"))
    assert message == "unknown letter '?'; known: a, b, c, d, e, f, g, h, i, j, k, l, ..."


def test_nothing_is_near():
    assert nearest("xyz", ["epochs", "seed"]) == ""


def test_quoted_values_are_cut_in_sight():
    assert quoted("a  b ") == "'a  b '" and quoted(5) == "5"
    assert quoted("x" * 100, 10) == "'xxxx ...'" and quoted("it's" * 100, 10) == '"it\'s ..."'
    assert quoted([1] * 100, 10) == "[1, 1, ..."
    assert nearest("x" * 99, ["x" * 100]) == f" (did you mean '{'x' * 74} ...'?)"


def test_a_write_that_fails_says_where(tmp_path):
    with pytest.raises(OSError) as caught, naming(tmp_path / "metrics.jsonl"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert describe(caught.value) == f"No space left on device: {tmp_path / 'metrics.jsonl'}"


def test_a_name_that_is_there_stays(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path / "other"):
        (tmp_path / "gone").read_text()
    assert describe(caught.value) == f"No such file or directory: {tmp_path / 'gone'}"


@pytest.mark.parametrize("path", ["gs://b/runs", Path("gs://b/runs"), "s3://a", "file:/a"])
def test_addresses_are_no_local_paths(path):
    with pytest.raises(ConfigurationError, match="the place .* is an address"):
        check_local(path, "the place")


@pytest.mark.parametrize("path", ["runs/a", "/runs:1/a", "C:/runs", Path("a:b"), "~/x", "."])
def test_local_paths_pass(path):
    check_local(path, "the place")


def test_no_directory_is_made_of_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="the work directory gs:/bucket"):
        open_workdir(Path("gs://bucket"), Experiment(name="any"), ())
    with pytest.raises(ConfigurationError, match="the data directory gs://bucket"):
        prepare("shapes/quickstart", data_dir="gs://bucket")
    assert not list(tmp_path.iterdir())
