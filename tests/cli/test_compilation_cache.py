"""The compilation cache in real processes: what a second start compiles, kills, other runs."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock
import jax
import pytest

from mobilevit_jax.cli import compilation_cache
from mobilevit_jax.cli.compilation_cache import DEFAULT_SIZE, mend
from mobilevit_jax.data.prepare import prepare
from tests.cli.conftest import QUICKSTART, TINY

_ROOT = Path(__file__).parents[2]
_JAX = ("JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE")
_JAX += ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "XLA_FLAGS", "XDG_CACHE_HOME")

# Counts what is asked of the cache and found there; the last line of stdout tells.
_COUNT = """
import collections, json, sys
import jax
from mobilevit_jax.cli.runtime import start_jax

events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.split("/")[-1]]))

def report(**more):
    asked = events["compile_requests_use_cache"]
    print(json.dumps(more | {"asked": asked, "found": events["cache_hits"]}))
"""
_TRAIN = f"""{_COUNT}
from mobilevit_jax.cli.main import main
from mobilevit_jax.models.config import ModelConfig
from tests.small import build_small_net

ModelConfig.build = build_small_net
status = main(sys.argv[1:])
report(status=status)
"""
_ADD = f"""{_COUNT}
start_jax(deterministic="deterministic" in sys.argv)
jax.jit(lambda x: x * 2 + 1)(1.0)
names = ("compilation_cache_dir", "compilation_cache_max_size",
         "persistent_cache_min_compile_time_secs")
report(**{{name: getattr(jax.config, "jax_" + name) for name in names}})
"""


def start(script: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in _JAX}
    return subprocess.Popen(
        [sys.executable, "-W", "error:Error:UserWarning", "-c", script, *map(str, arguments)],
        env=environment | {"PYTHONPATH": str(_ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """Returns what the script reported, and what it said on stderr."""
    with process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1]), err


@pytest.fixture
def jax_settings(tmp_path, monkeypatch):
    """An environment without settings of the cache, and JAX's own as they were afterwards."""
    names = ["dir", "max_size"]
    names = [f"jax_compilation_cache_{name}" for name in names]
    names.append("jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name in names:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def setting(name: str) -> Any:
    return getattr(jax.config, f"jax_compilation_cache_{name}")


@pytest.mark.slow
def test_after_two_starts_at_once_on_an_empty_cache_another_compiles_nothing(data_dir, tmp_path):
    prepare("shapes/tiny", data_dir=data_dir)
    variables = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TFDS_DATA_DIR": str(data_dir)}

    def train(name: str) -> subprocess.Popen[str]:
        return start(_TRAIN, "train", QUICKSTART, *TINY, "--workdir", tmp_path / name, **variables)

    with train("one") as one, train("two") as two:
        for process in (one, two):
            ran, err = finish(process)
            assert ran["status"] == 0 and "compilation cache" not in err
            assert ran["found"] < ran["asked"]
    ran, _ = finish(train("three"))
    assert ran["status"] == 0
    assert ran["found"] == ran["asked"] > 5
    assert list((tmp_path / "cache" / "mobilevit_jax" / "compilation").glob("*-cache"))


def test_an_entry_that_a_kill_cut_short_is_compiled_anew_once(tmp_path):
    def add() -> dict[str, Any]:
        return finish(start(_ADD, XDG_CACHE_HOME=str(tmp_path)))[0]

    first = add()
    directory = Path(first["compilation_cache_dir"])
    assert directory == tmp_path / "mobilevit_jax" / "compilation"
    assert first["compilation_cache_max_size"] == DEFAULT_SIZE
    entry, *others = sorted(directory.glob("*-cache"))
    # As a kill leaves it: JAX writes the other file when the entry is whole.
    entry.write_bytes(entry.read_bytes()[:100])
    entry.with_name(entry.name.removesuffix("-cache") + "-atime").unlink()
    second = add()
    assert (second["asked"], second["found"]) == (1 + len(others), len(others))
    assert entry.stat().st_size > 100
    third = add()
    assert third["found"] == third["asked"] == second["asked"]


def test_the_users_own_settings_stay(tmp_path):
    own = tmp_path / "own"
    ran, _ = finish(
        start(
            _ADD,
            XDG_CACHE_HOME=str(tmp_path / "other"),
            JAX_COMPILATION_CACHE_DIR=str(own),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="3600",
        )
    )
    assert ran["compilation_cache_dir"] == str(own)
    assert ran["compilation_cache_max_size"] == -1
    assert ran["persistent_cache_min_compile_time_secs"] == 3600
    assert not (tmp_path / "other").exists()
    assert not list(own.glob("*-cache"))


def test_a_limit_of_the_users_own_holds_for_the_default_directory(tmp_path):
    variables = {"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_MAX_SIZE": "123456"}
    ran, _ = finish(start(_ADD, **variables))
    assert ran["compilation_cache_max_size"] == 123456
    assert ran["compilation_cache_dir"].startswith(str(tmp_path))


def test_without_a_place_to_write_it_says_so_and_compiles(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    ran, err = finish(start(_ADD, XDG_CACHE_HOME=str(tmp_path / "file")))
    assert ran["compilation_cache_dir"] is None and ran["found"] == 0
    (line,) = [line for line in err.splitlines() if "compilation cache" in line]
    assert "$JAX_COMPILATION_CACHE_DIR" in line and str(tmp_path / "file") in line


def test_mending_keeps_whole_entries(tmp_path):
    for name in ("whole-cache", "whole-atime", "cut-cache", "alone-atime", "notes.txt"):
        (tmp_path / name).write_bytes(b"12345678")
    mend(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left - {".lockfile"} == {"whole-cache", "whole-atime", "notes.txt"}


def test_mending_leaves_a_cache_alone_that_others_are_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_LOCK_SECONDS", 0.05)
    (tmp_path / "written-cache").write_bytes(b"1234")
    with filelock.FileLock(tmp_path / ".lockfile"):  # where JAX has its own
        mend(tmp_path)
    assert (tmp_path / "written-cache").exists()
    mend(tmp_path)
    assert not (tmp_path / "written-cache").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, "No locks available"), OSError(errno.ENOSYS, "none")]
)
def test_without_locks_it_is_as_jax_has_it(tmp_path, monkeypatch, jax_settings, error):
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(compilation_cache, "mend", refuse)
    compilation_cache.use_compilation_cache()
    assert setting("max_size") == -1
    assert setting("dir") == str(compilation_cache.default_directory())


def test_a_user_without_a_name_has_no_limit(tmp_path, monkeypatch, jax_settings):
    monkeypatch.setattr(compilation_cache.pwd, "getpwuid", {}.__getitem__)
    (entry := compilation_cache.default_directory() / "whole-cache").parent.mkdir(parents=True)
    entry.write_bytes(b"made without a limit")
    compilation_cache.use_compilation_cache()
    assert setting("max_size") == -1
    assert entry.exists()


def test_determinism_is_a_flag_that_the_installed_xla_knows(tmp_path):
    # XLA ends a process that has a flag it does not know.
    ran, _ = finish(
        start(
            f"{_ADD}\nimport os; report(flags=os.environ['XLA_FLAGS'])",
            "deterministic",
            XDG_CACHE_HOME=str(tmp_path),
            XLA_FLAGS="--xla_force_host_platform_device_count=2",
        )
    )
    assert ran["flags"].split() == [
        "--xla_force_host_platform_device_count=2",
        "--xla_gpu_deterministic_ops=true",
    ]
    assert ran["asked"] > 0
