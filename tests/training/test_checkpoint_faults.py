"""What damages checkpoints or ends a save half-way: the last good one is found, nothing else."""

import os
import shutil
import signal
import subprocess
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mobilevit_jax.errors import DataError
from mobilevit_jax.training.checkpoint import Checkpoints
from tests.training.saved import assert_equal, make_state, run_child, save


@pytest.mark.parametrize("damage", ["data", "structure", "metadata", "gone"])
def test_a_damaged_checkpoint_is_named_and_spares_the_others(tmp_path, damage):
    save(tmp_path, {1: 0.9, 2: 0.5})
    step = tmp_path / "2"
    if damage == "data":
        for path in (step / "state").rglob("d/*"):
            path.write_bytes(path.read_bytes()[:20])
    elif damage == "structure":
        (step / "state" / "_METADATA").write_text('{"tree_metad')
    elif damage == "metadata":
        (step / "metadata" / "metadata").write_text('{"metr')
    else:
        (step / "state" / "manifest.ocdbt").unlink()
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        with pytest.raises(DataError, match=r"checkpoint 2 in .* cannot be read .*; remove .*/2 "):
            if damage == "metadata":
                checkpoints.metadata(2)
            checkpoints.restore(2, make_state())
        assert_equal(checkpoints.restore(1, make_state()), make_state(1, 1.0))
        assert checkpoints.best()[0] == (1, 0.9)
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.best()[0] == (1, 0.9)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def emptied(content: bytes) -> bytes:
    return b""


def zeroed(content: bytes) -> bytes:
    """As a file system leaves blocks that it had no time to write."""
    return bytes(len(content))


def noise(step: int) -> dict[str, Any]:
    """A state large enough for files of its own."""
    random = np.random.default_rng(step)
    return {"x": random.random((100, 200)), "step": np.int32(step), "y": np.zeros((50, 50))}


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


@pytest.mark.parametrize("harm", [cut, emptied, zeroed, flipped, None])
def test_every_file_of_the_newest_may_be_damaged(tmp_path, harm):
    """It is read as it was saved, or the one before is: never anything else. None removes it."""
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        for step, top1 in ((1, 0.9), (2, 0.5)):
            metadata = {"step": step}
            checkpoints.save(step, noise(step), metadata=metadata, metrics={"top1": top1})
    abstract, fallen_back = noise(0), []
    for path in sorted(path for path in (tmp_path / "2").rglob("*") if path.is_file()):
        content = path.read_bytes()
        if harm is None:
            path.unlink()
        else:
            path.write_bytes(harm(content))
        warnings = []
        with Checkpoints.reader(tmp_path) as checkpoints:
            newest = checkpoints.restore_newest(abstract, warn=warnings.append)
        path.write_bytes(content)
        assert newest is not None
        assert_equal(newest.state, noise(newest.step))
        assert newest.metadata == {"step": newest.step}
        if newest.step == 1:
            fallen_back.append(path)
            (warning,) = warnings
            assert warning.startswith(f"checkpoint 2 in {tmp_path} is damaged (")
            assert warning.endswith("); going on from that of step 1") and "\n" not in warning
        else:
            assert warnings == []
    assert {"metadata", "_METADATA", "manifest.ocdbt"} <= {path.name for path in fallen_back}
    assert any(path.stat().st_size > 100_000 for path in fallen_back)


@pytest.mark.parametrize("lost", ["state", "metadata", "state/d", "."])
def test_a_half_deleted_checkpoint_is_passed_over(tmp_path, lost):
    save(tmp_path, {1: 0.9, 2: 0.8, 3: 0.5}, keep_best=2)
    shutil.rmtree(tmp_path / "3" / lost)
    (tmp_path / "3").mkdir(exist_ok=True)
    warnings = []
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        newest = checkpoints.restore_newest(make_state(), warn=warnings.append)
        assert newest is not None and newest.step == 2 and len(warnings) == 1
        assert checkpoints.steps() == [1, 2] and checkpoints.latest() == 2
        # The run gets to the same step again.
        checkpoints.save(3, make_state(3, 3.0), metadata={"again": True}, metrics={"top1": 0.5})
        newest = checkpoints.restore_newest(make_state(), warn=warnings.append)
        assert newest is not None and newest.metadata == {"again": True} and len(warnings) == 1
        assert_equal(newest.state, make_state(3, 3.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


def test_a_silent_change_of_a_value_is_found(tmp_path):
    """Nothing that the values are stored in need notice it; here the checksum is what changed."""
    save(tmp_path, {1: 0.9, 2: 0.5})
    path = tmp_path / "2" / "metadata" / "metadata"
    text = path.read_text()
    start = text.index('"params/stem/kernel": ') + len('"params/stem/kernel": ')
    path.write_text(f"{text[:start]}1{text[start:]}")
    part = {"params": make_state().params}
    with Checkpoints.reader(tmp_path) as checkpoints:
        with pytest.raises(DataError, match="params/stem/kernel is not what was written"):
            checkpoints.restore(2, part, partial=True)
        bias = {"params": {"head": part["params"]["head"]}}
        checkpoints.restore(2, bias, partial=True)


def test_damage_goes_with_the_next_save(tmp_path):
    save(tmp_path, {1: 0.9, 2: 0.5})
    shutil.rmtree(tmp_path / "2" / "state")
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        checkpoints.restore_newest(make_state(), warn=lambda _: None)
        checkpoints.save(5, make_state(5, 5.0), metadata={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "5"]


@pytest.mark.parametrize("scheduled", [False, True])
def test_none_can_be_read(tmp_path, scheduled):
    save(tmp_path, {1: 0.9, 2: 0.5})
    for step in (1, 2):
        shutil.rmtree(tmp_path / str(step) / "state")
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        with pytest.raises(DataError, match=r"no checkpoint in .* can be read \(2: .*put back"):
            checkpoints.restore_newest(make_state(), scheduled=scheduled, warn=pytest.fail)
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}


def test_another_model_is_an_error_and_not_damage(tmp_path):
    save(tmp_path, {1: 0.9, 2: 0.5})
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        with pytest.raises(DataError, match="checkpoint 2 .* does not fit"):
            checkpoints.restore_newest(make_state(width=4), warn=pytest.fail)


AT_THE_COMMIT = """
    import os, signal, sys, threading
    import numpy as np
    from mobilevit_jax.training.checkpoint import Checkpoints

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    with Checkpoints(sys.argv[1], metric="top1") as checkpoints:
        checkpoints.save(1, {"x": np.arange(4.0)}, metadata={}, metrics={"top1": 0.5})
        checkpoints.wait()
        # The commit is a rename at the very end: die instead of it.
        os.rename = os.replace = die
        import pathlib
        pathlib.Path.rename = pathlib.Path.replace = die
        import etils.epath
        etils.epath.Path("/").__class__.rename = die
        checkpoints.save(2, {"x": np.arange(4.0)}, metadata={}, metrics={"top1": 0.9})
"""


def test_killed_while_saving_leaves_the_earlier_checkpoint(tmp_path):
    result = run_child(AT_THE_COMMIT, tmp_path)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert len(list(tmp_path.iterdir())) == 2  # the half-written one is there,
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]  # ignored,
    assert len(list(tmp_path.iterdir())) == 2
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        assert checkpoints.latest() == 1
        assert [path.name for path in tmp_path.iterdir()] == ["1"]  # and cleared away.


AT_RANDOM = """
    import os, random, signal, sys, time, traceback
    import numpy as np
    from pathlib import Path
    from mobilevit_jax.training.checkpoint import Checkpoints

    def state(step):
        random = np.random.default_rng(step)
        return {"x": random.random((200, 300)), **{f"y{i}": np.full(i, step) for i in range(1, 20)}}

    def run(directory, log):
        with Checkpoints(directory, metric="top1") as checkpoints:
            newest = checkpoints.restore_newest(state(0), warn=lambda text: log.write(text + "\\n"))
            first = newest.step + 1 if newest else 0
            for name, value in state(first - 1).items() if newest else ():
                np.testing.assert_array_equal(newest.state[name], value)
            for step in range(first, 10_000):
                top1 = {"top1": step % 7 / 7}
                checkpoints.save(step, state(step), metadata={"step": step}, metrics=top1)
                if step == first:
                    checkpoints.wait()
                    log.write("saved\\n")

    random.seed(3)
    for trial in range(8):  # forked before there are threads, to import everything only once
        child = os.fork()
        if child == 0:
            try:
                with open(sys.argv[2], "a", buffering=1) as log:
                    run(Path(sys.argv[1]), log)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        deadline = time.monotonic() + 60  # let it save once, and then some
        while Path(sys.argv[2]).read_text().count("saved") <= trial:
            assert time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0)
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


def test_killed_at_random_moments_a_run_goes_on_from_whole_checkpoints(tmp_path):
    directory, log = tmp_path / "checkpoints", tmp_path / "log"
    log.write_text("")
    result = run_child(AT_RANDOM, directory, log)
    assert result.returncode == 0, result.stderr
    assert log.read_text() == 8 * "saved\n"  # and no warning
    with Checkpoints(directory, metric="top1") as checkpoints:
        newest = checkpoints.latest()
        assert newest is not None and newest >= 7
        for step in checkpoints.steps()[-1:]:
            x = checkpoints.restore(step, checkpoints.structure(step))["x"]
            np.testing.assert_array_equal(x, np.random.default_rng(step).random((200, 300)))
        assert {path.name for path in directory.iterdir()} == set(map(str, checkpoints.steps()))


FULL_DISK = """
    import resource, signal, sys
    import numpy as np
    from mobilevit_jax.errors import DataError
    from mobilevit_jax.training.checkpoint import Checkpoints

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    noise = np.random.default_rng(0).random(100_000)
    try:
        with Checkpoints(sys.argv[1], metric="top1") as checkpoints:
            checkpoints.save(1, {"x": noise[:10]}, metadata={})
            checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
            checkpoints.save(2, {"x": noise}, metadata={})
    except DataError as error:
        print(error)
"""


def test_a_disk_that_takes_no_more_is_one_clear_error(tmp_path):
    """A limit on the size of files stands in for the full disk."""
    result = run_child(FULL_DISK, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        f"could not write a checkpoint to {tmp_path} (File too large); make space or see why, and "
        "run the same command again to go on from step 1\n"
    )
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]


SMALL_DISK = """
    import os, sys
    from pathlib import Path
    import numpy as np
    from mobilevit_jax.errors import DataError
    from mobilevit_jax.training.checkpoint import Checkpoints

    disk = Path(sys.argv[1])
    noise = np.random.default_rng(0).random(100_000)

    def state(value):
        return {"x": noise + value, "step": np.int32(value)}

    def left():
        return os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize

    def fill(space):
        (disk / "filler").write_bytes(bytes(left() - space))

    for step, space in enumerate([400_000, 40_000, 4_096, 0], 2):
        try:
            with Checkpoints(disk / "checkpoints", metric="top1") as checkpoints:
                if step == 2:
                    checkpoints.save(1, state(1), metadata={"x": 1})
                    checkpoints.wait()
                if space == 0:  # to replace the record takes space too
                    fill(0)
                    checkpoints.save(1, state(1), metadata={"x": 2}, replace=True)
                fill(space)
                checkpoints.save(step, state(step), metadata={})
        except DataError as error:
            print(error)
        newest = Checkpoints.reader(disk / "checkpoints").restore_newest(state(0), warn=print)
        assert newest.step == newest.state["step"] == 1 and newest.metadata == {"x": 1}
        assert np.array_equal(newest.state["x"], noise + 1)
        (disk / "filler").unlink()
    with Checkpoints(disk / "checkpoints", metric="top1") as checkpoints:
        checkpoints.save(2, state(2), metadata={})
    assert os.listdir(disk / "checkpoints") == ["2"]
"""


@pytest.fixture
def small_disk(tmp_path) -> tuple[str, ...]:
    """The beginning of a command that sees a disk of 5 MB at `tmp_path`."""
    mount = f"mount -t tmpfs -o size=5m none '{tmp_path}'"
    unshare = ("unshare", "--user", "--map-root-user", "--mount")
    try:
        subprocess.run([*unshare, "sh", "-c", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk may be mounted here: {error}")
    return (*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh")


def test_a_full_disk_at_any_point_of_a_save(tmp_path, small_disk):
    result = run_child(SMALL_DISK, tmp_path, prefix=small_disk)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.startswith(f"could not write a checkpoint to {tmp_path}/checkpoints (")
        assert "No space left on device" in line and line.endswith("to go on from step 1")


def test_a_checkpoint_stays_whole_while_its_record_is_replaced(tmp_path, monkeypatch):
    save(tmp_path, {1: 0.5})

    def fail(*_):
        raise OSError(5, "Input/output error")

    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        state = checkpoints.restore(1, jax.eval_shape(make_state))
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", fail)
            with pytest.raises(DataError, match=r"could not write .*Input/output error"):
                checkpoints.save(1, state, metadata={"new": True}, replace=True)
        assert checkpoints.metadata(1) == {"step": 1}
        checkpoints.save(1, state, metadata={"new": True}, replace=True)
        assert checkpoints.metadata(1) == {"new": True}
    assert [path.name for path in (tmp_path / "1" / "metadata").glob("*.tmp")] == []


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    """Or a good checkpoint would be passed over, and removed with the next save."""
    save(tmp_path, {1: 0.9, 2: 0.5})

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", fail)
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        with pytest.raises(MemoryError):
            checkpoints.restore_newest(make_state(), warn=pytest.fail)
        assert checkpoints.steps() == [1, 2]
