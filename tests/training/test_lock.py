import errno
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import filelock
import pytest

from mobilevit_jax.base.run_files import LOCK
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training.lock import hold, locked

HOLDER = """
    import os, sys, time
    from pathlib import Path
    from mobilevit_jax.training.lock import hold, locked

    with locked(Path(sys.argv[1]), warn=print):
        if os.fork() == 0:  # such as a worker that outlives the run
            print(os.getpid(), flush=True)
        time.sleep(600)
"""


def refuse(workdir: Path, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        with locked(workdir, warn=pytest.fail):
            pass


def test_a_second_run_is_refused_and_a_crash_leaves_no_lock(tmp_path):
    workdir = tmp_path / "runs" / "für später"
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(workdir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        forked = int(holder.stdout.readline())
        try:
            message = rf"another run is at work in .*für später \(process {holder.pid} on .+\); "
            refuse(workdir, message)
            refuse(workdir, message)  # the first refusal has not changed what it says
        finally:
            holder.kill()
            holder.wait()
        try:
            with locked(workdir, warn=pytest.fail):
                refuse(workdir, rf"process {os.getpid()} on")
        finally:
            os.kill(forked, signal.SIGKILL)
    assert [path.name for path in workdir.iterdir()] == [LOCK]


def test_it_ends_with_the_block_however_that_ends(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError):
            with locked(tmp_path, warn=pytest.fail):
                raise KeyError
    with locked(tmp_path, warn=pytest.fail):
        pass
    with locked(tmp_path / "another", warn=pytest.fail), locked(tmp_path, warn=pytest.fail):
        pass


def test_a_holder_that_said_nothing(tmp_path):
    """A full disk, or the moment before it says who it is."""
    with filelock.FileLock(tmp_path / LOCK):
        refuse(tmp_path, f"another run is at work in {tmp_path}; wait for it")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"(process 1 on elsewhere)"])
def test_what_stands_in_the_file_locks_nothing(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with locked(tmp_path, warn=pytest.fail):
        assert f"process {os.getpid()} on" in (tmp_path / LOCK).read_text()


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="no directory that root cannot write")
def test_a_directory_that_may_not_be_written():
    refuse(Path("/sys/kernel"), "the work directory /sys/kernel may not be written; choose another")


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(OSError, match="file"):
            with locked(tmp_path / place, warn=pytest.fail):
                pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, code):
    """No such one can be mounted here."""

    def missing(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", missing)
    warnings = []
    with locked(tmp_path, warn=warnings.append), locked(tmp_path, warn=warnings.append):
        pass
    assert len(warnings) == 2
    assert warnings[0].startswith(f"the file system of {tmp_path} has no locks (")


def test_another_error_of_the_file_system_is_an_error(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"):
        with locked(tmp_path, warn=pytest.fail):
            pass


@pytest.mark.parametrize("name", ["[bold]x", "a*", "what?", "a\\b"])
def test_a_path_where_checkpoints_could_not_be_read(tmp_path, name):
    """Orbax finds the parts of a checkpoint by a pattern that begins with the directory."""
    with (
        pytest.raises(ConfigurationError, match="in its path, and checkpoints there could not be"),
        hold(tmp_path / name / "run", pytest.fail),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
