"""Checkpoints and the lock of a run of two processes, which must always go the same way."""

import shutil
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mobilevit_jax.training.checkpoint import Checkpoints
from mobilevit_jax.training.lock import locked
from tests.training.saved import run_child

# Gloo writes to the standard output as well, in the middle of lines.
OWN_OUTPUT = """
    import sys
    sys.stdout = open(sys.argv.pop(), "w", buffering=1)
"""


def run_hosts(code: str, *arguments: object) -> list[list[str]]:
    """Runs a program in two processes and returns the lines that each prints.

    They get a port and their number last.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with ThreadPoolExecutor(2) as pool, tempfile.TemporaryDirectory() as directory:

        def run(process: int) -> list[str]:
            output = Path(directory, str(process))
            result = run_child(OWN_OUTPUT + code, *arguments, port, process, output)
            assert result.returncode == 0, result.stderr
            return output.read_text().splitlines()

        return list(pool.map(run, range(2)))


SAVE_AND_RESTORE = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from mobilevit_jax.training.checkpoint.averaging import average
    from mobilevit_jax.training.checkpoint import Checkpoints

    directory, port, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
    jax.distributed.initialize(f"localhost:{port}", 2, process)

    def step(state, x):
        return jax.tree.map(lambda leaf: leaf + jax.lax.psum(x, "batch").astype(leaf.dtype), state)

    step = jax.pmap(step, "batch", in_axes=(None, 0), out_axes=None)
    state = {"x": np.zeros(3, np.float32), "n": np.int32(0)}
    with Checkpoints(directory, metric="top1") as checkpoints:
        for count in (1, 2):
            state = step(state, jnp.ones(jax.local_device_count()))
            checkpoints.save(count, state, metadata={}, metrics={"top1": count / 2})
        back = checkpoints.restore(2, state)
        more = step(back, jnp.ones(jax.local_device_count()))
        checkpoints.save(3, more, metadata={"pending": True}, extra=True)
        checkpoints.save(3, more, metadata={}, metrics={"top1": 0.5}, replace=True)
    with Checkpoints.reader(directory) as checkpoints:
        mean = average(checkpoints, [2], {"x": state["x"]})
        assert checkpoints.metadata(3) == {} and checkpoints.steps(scheduled=True) == [2, 3]
    devices = jax.device_count()
    assert devices == 2 * jax.local_device_count()
    np.testing.assert_array_equal(back["x"], np.full(3, 2.0 * devices))
    np.testing.assert_array_equal(more["n"], 3 * devices)
    np.testing.assert_array_equal(mean["x"], back["x"])
    print("done")
"""


def test_two_hosts_save_and_restore_together(tmp_path):
    assert run_hosts(SAVE_AND_RESTORE, tmp_path) == [["done"], ["done"]]
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 3]


DISAGREE = """
    import os, signal, sys, time
    from pathlib import Path
    import jax, numpy as np
    from mobilevit_jax.errors import ConfigurationError
    from mobilevit_jax.training.checkpoint import Checkpoints
    from mobilevit_jax.training.lock import locked

    directory, port, process = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    jax.distributed.initialize(f"localhost:{port}", 2, process)
    try:
        with locked(directory, warn=print):
            print("not refused")
    except ConfigurationError as error:
        print(str(error).replace(str(directory), "it"))
    with locked(directory / "other", warn=print):
        print("locked")

    # Each sees a copy of its own, and in turn one of them is damaged or lacks a step.
    abstract = {"x": np.zeros(50)}
    for copies in (("whole", "cut"), ("cut", "whole"), ("whole", "short"), ("short", "whole")):
        with Checkpoints(directory / copies[process], metric="top1") as checkpoints:
            warnings = []
            newest = checkpoints.restore_newest(abstract, warn=warnings.append)
            np.testing.assert_array_equal(newest.state["x"], np.full(50, newest.step))
            print(newest.step, checkpoints.steps(), *(line[:12] for line in warnings))

    with Checkpoints(directory / "whole", metric="top1") as checkpoints:
        step = 0
        while not checkpoints.reached_preemption(step):
            assert step < 1000
            if step == 5 and process == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            step += 1
            time.sleep(0.03 * (1 + process))
        print("stopped after", step)
"""


def test_two_hosts_that_see_different_things_go_the_same_way(tmp_path):
    with Checkpoints(tmp_path / "whole", metric="top1", keep_best=3) as checkpoints:
        for step in (1, 2, 3):
            state, top1 = {"x": np.full(50, float(step))}, {"top1": step / 9}
            checkpoints.save(step, state, metadata={}, metrics=top1)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "3" / "state" / "manifest.ocdbt").write_bytes(b"")
    shutil.copytree(tmp_path / "whole", tmp_path / "short")
    shutil.rmtree(tmp_path / "short" / "3")
    with locked(tmp_path, warn=print):
        first, second = run_hosts(DISAGREE, tmp_path)
    assert first[0].startswith("another run is at work in it (process ")
    assert second[0] == "the first process could not lock it; its error says why"
    fallen_back = "2 [1, 2] checkpoint 3"
    expected = ["locked", fallen_back, fallen_back, fallen_back, "2 [1, 2]"]
    assert first[1:-1] == second[1:-1] == expected
    # The notice reached one of them; both stop after the same step.
    assert first[-1] == second[-1]
    assert 5 <= int(first[-1].removeprefix("stopped after ")) < 1000
