"""What the benchmarks share: results that survive, tables, processes that answer."""

# The scripts are no package; their directory is put on the path below.
# pyright: reportMissingImports=false

import json
import sys
import textwrap
from pathlib import Path

import pytest

from mobilevit_jax.errors import ConfigurationError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def reporting(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import reporting

    return reporting


def test_rows_are_kept_until_settings_change(reporting, tmp_path):
    path = tmp_path / "results.json"
    results = reporting.Results(path, {"size": 8}, {"date": "today"})
    results.add("a", {"x": 1})
    results.add("b", {"x": 2})
    assert json.loads(path.read_text())["date"] == "today"
    assert reporting.Results(path, {"size": 8}, {}).rows == {"a": {"x": 1}, "b": {"x": 2}}
    with pytest.raises(ConfigurationError, match=r"other settings .*'size': 8.*another --output"):
        reporting.Results(path, {"size": 9}, {})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 1}'])
def test_a_file_that_holds_something_else(reporting, tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigurationError, match="x.json holds no results"):
        reporting.Results(tmp_path / "x.json", {}, {})


def test_markdown(reporting):
    assert reporting.markdown(["a", "b"], [["x", 1234.5], [1, 0.123]]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| x | 1234 |",
        "| 1 | 0.12 |",
    ]


@pytest.fixture
def script(tmp_path):
    """A benchmark whose worker adds one, fails by name, or dies."""
    path = tmp_path / "script.py"
    path.write_text(
        textwrap.dedent(
            f"""
            import os
            import sys
            sys.path[:0] = [{str(BENCHMARKS)!r}, {str(BENCHMARKS.parent)!r}]
            from reporting import serve
            from mobilevit_jax.errors import ConfigurationError
            def answer(order):
                print("what a library says")
                if order == "bad":
                    raise ConfigurationError("no such reader")
                if order == "environment":
                    return [os.environ.get(name) for name in ("KEPT", "GIVEN", "TAKEN")]
                if order == "die":
                    sys.exit(7)
                return order + 1
            serve(answer)
            """
        )
    )
    return str(path)


def test_workers(reporting, script):
    worker = reporting.Worker(script, {})
    assert [worker.ask(1), worker.ask(5)] == [2, 6]
    with pytest.raises(ConfigurationError, match="^no such reader$"):
        worker.ask("bad")
    assert worker.ask(7) == 8
    with pytest.raises(ConfigurationError, match="has ended, status 7"):
        worker.ask("die")
    worker.close()


def test_a_worker_has_its_own_environment(reporting, script, monkeypatch):
    for name in ("KEPT", "GIVEN", "TAKEN"):
        monkeypatch.setenv(name, "ours")
    worker = reporting.Worker(script, {}, {"GIVEN": "its own", "TAKEN": None})
    assert worker.ask("environment") == ["ours", "its own", None]
    worker.close()


def test_errors_are_one_line(reporting, capsys):
    with pytest.raises(SystemExit) as raised, reporting.plain_errors():
        raise ConfigurationError("choose another")
    assert raised.value.code == 2 and capsys.readouterr().err == "error: choose another\n"
    with pytest.raises(SystemExit, match="interrupted; what was measured is kept"):
        with reporting.plain_errors():
            raise KeyboardInterrupt


def test_surroundings(reporting, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--tiny"])
    found = reporting.surroundings(["jax", "there-is-no-such-package"], 2)
    assert list(found["versions"]) == ["jax"] and found["command"] == "python x.py --tiny"
    assert found["machine"].endswith("2 cores used")
