import dataclasses
import json
import logging
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.training.averaging import average
from mobilevit_jax.training.checkpoint import Checkpoints


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    opt_state: Any
    ema: Any = None


def make_state(step: int = 0, value: float = 1.0, width: int = 3, ema: bool = False) -> State:
    params = {
        "stem": {"kernel": jnp.full((2, width), value, jnp.float32)},
        "head": {"bias": jnp.full((width,), -value, jnp.bfloat16)},
    }
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(1e-3))
    return State(
        step=jnp.int32(step),
        params=params,
        opt_state=optimizer.init(params),
        ema=params if ema else None,
    )


def save(directory: Path, values: Mapping[int, float | None], **options: Any) -> None:
    """Saves a state a step, with `top1` where it is not None."""
    with Checkpoints(directory, metric="top1", **options) as checkpoints:
        for step, top1 in values.items():
            metrics = None if top1 is None else {"top1": top1, "loss": 1.0}
            checkpoints.save(step, make_state(step, step), metadata={"step": step}, metrics=metrics)


def assert_equal(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)
    assert jax.tree.structure(left) == jax.tree.structure(right)


def test_a_state_comes_back_as_it_was(tmp_path):
    state = make_state(7, 0.25, ema=True)
    with Checkpoints(tmp_path / "new" / "checkpoints", metric="top1") as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(7, state, metadata={"seed": 1, "note": "é"}, metrics={"top1": 0.5})
        restored = checkpoints.restore(7, jax.eval_shape(lambda: state))
        assert checkpoints.metadata(7) == {"seed": 1, "note": "é"}
        assert checkpoints.metrics(7) == {"top1": 0.5}
    assert isinstance(restored, State)
    assert_equal(restored, state)
    assert restored.params["head"]["bias"].dtype == jnp.bfloat16


def test_a_save_does_not_see_later_changes(tmp_path):
    """The state is donated to the next step while it is still being written."""
    state = make_state(1, 2.0)
    expected = jax.tree.map(np.array, state)
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        checkpoints.save(1, state, metadata={})
        overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)
        jax.block_until_ready(overwrite(state))
        assert_equal(checkpoints.restore(1, expected), expected)


def test_arrays_are_placed_as_asked(tmp_path):
    save(tmp_path, {3: 0.5})
    replicated = NamedSharding(Mesh(np.array(jax.local_devices()), ("batch",)), PartitionSpec())
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), make_state()
    )
    with Checkpoints.reader(tmp_path) as checkpoints:
        restored = checkpoints.restore(3, abstract)
    for leaf in jax.tree.leaves(restored):
        assert isinstance(leaf, jax.Array)
        assert leaf.sharding == replicated
    assert_equal(restored, make_state(3, 3.0))


@pytest.mark.parametrize(
    ("mode", "kept"), [("max", [2, 4, 6]), ("min", [1, 3, 6])], ids=["max", "min"]
)
def test_the_best_and_the_latest_are_kept(tmp_path, mode, kept):
    values = {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.8, 5: 0.3, 6: 0.5}
    save(tmp_path, values, mode=mode, keep_best=2)
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.steps() == kept
        assert checkpoints.latest() == 6
        order = sorted(kept, key=lambda step: values[step], reverse=mode == "max")
        assert [ranked.step for ranked in checkpoints.best()] == order
        assert [ranked.value for ranked in checkpoints.best()] == [values[step] for step in order]


def test_without_metrics_only_the_latest_is_kept(tmp_path):
    save(tmp_path, {1: None, 2: 0.5, 3: None, 4: None}, keep_best=3)
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 4]
        assert checkpoints.best() == [(2, 0.5)]


def test_of_equals_the_newest_is_the_best_and_nan_is_none(tmp_path):
    save(tmp_path, {1: 0.5, 2: 0.5, 3: float("nan"), 4: 0.25}, keep_best=1)
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.best() == [(2, 0.5), (4, 0.25)]


def test_ranking_goes_on_after_a_restart(tmp_path):
    save(tmp_path, {1: 0.9, 2: 0.1})
    save(tmp_path, {3: 0.2, 4: 0.3})
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 4]


def test_part_of_a_checkpoint_is_read_without_the_rest(tmp_path):
    save(tmp_path, {5: 0.5})
    with Checkpoints.reader(tmp_path) as checkpoints:
        stored = checkpoints.structure(5)
        assert set(stored) == {"step", "params", "opt_state"}  # ema is None
        assert stored["params"]["stem"]["kernel"].shape == (2, 3)
        params = checkpoints.restore(5, {"params": stored["params"]}, partial=True)["params"]
        assert_equal(params, make_state(5, 5.0).params)
        with pytest.raises(DataError, match=r"opt_state/.* absent here"):
            checkpoints.restore(5, {"params": stored["params"]})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_state(width=4), r"params/head/bias is bfloat16\[3\] in it and bfloat16\[4\] here"),
        (make_state(ema=True), r"ema/head/bias is absent in it and bfloat16\[3\] here"),
        (
            dataclasses.replace(make_state(), step=jnp.float32(0)),
            r"step is int32\[\] in it and float32\[\] here",
        ),
    ],
    ids=["shape", "missing", "dtype"],
)
def test_another_structure_is_refused_by_name(tmp_path, other, message):
    save(tmp_path, {5: 0.5})
    with Checkpoints.reader(tmp_path) as checkpoints, pytest.raises(DataError, match=message):
        checkpoints.restore(5, other)


def test_plain_orbax_reads_it(tmp_path):
    save(tmp_path, {5: 0.5})
    with ocp.PyTreeCheckpointer() as reader:
        state = reader.restore(tmp_path / "5" / "state")
    np.testing.assert_array_equal(state["params"]["stem"]["kernel"], np.full((2, 3), 5.0))
    record = json.loads((tmp_path / "5" / "metadata" / "metadata").read_text())
    assert record["metadata"] == {"step": 5}


def test_a_missing_step_names_those_there_are(tmp_path):
    save(tmp_path, {5: 0.5})
    with Checkpoints.reader(tmp_path) as checkpoints:
        with pytest.raises(DataError, match=r"no checkpoint of step 6 in .*; there are: 5"):
            checkpoints.restore(6, make_state())


@pytest.mark.parametrize("place", ["nothing", "empty"])
def test_a_directory_without_checkpoints(tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"no checkpoint in .*{place}"):
        Checkpoints.reader(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_checkpoints_of_another_program(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.PyTreeSave({"x": np.ones(2)}))
    with pytest.raises(DataError, match="damaged or of another program"):
        Checkpoints.reader(tmp_path)


def test_a_step_is_saved_once(tmp_path):
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        checkpoints.save(1, make_state(), metadata={})
        with pytest.raises(DataError, match="already has a checkpoint of step 1"):
            checkpoints.save(1, make_state(), metadata={})


def test_a_reader_does_not_save(tmp_path):
    save(tmp_path, {5: 0.5})
    with Checkpoints.reader(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="opened with Checkpoints.reader"):
            checkpoints.save(6, make_state(), metadata={})


@pytest.mark.parametrize("options", [{"mode": "best"}, {"keep_best": -1}])
def test_bad_options(tmp_path, options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Checkpoints(tmp_path, metric="top1", **options)


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


CHILD = """
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


def run_child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_killed_while_saving_leaves_the_earlier_checkpoint(tmp_path):
    result = run_child(CHILD, tmp_path)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert len(list(tmp_path.iterdir())) == 2  # the half-written one is there,
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]  # ignored,
    assert len(list(tmp_path.iterdir())) == 2
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        assert checkpoints.latest() == 1
        checkpoints.save(2, {"x": np.ones(4)}, metadata={}, metrics={"top1": 0.9})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2"]  # and cleared away.


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
    assert result.stdout.startswith(f"could not write a checkpoint to {tmp_path} (")
    assert "is there space left" in result.stdout and result.stdout.count("\n") == 1
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]


TWO_HOSTS = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from mobilevit_jax.training.averaging import average
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
    with Checkpoints.reader(directory) as checkpoints:
        mean = average(checkpoints, [2], {"x": state["x"]})
    devices = jax.device_count()
    assert devices == 2 * jax.local_device_count()
    np.testing.assert_array_equal(back["x"], np.full(3, 2.0 * devices))
    np.testing.assert_array_equal(more["n"], 3 * devices)
    np.testing.assert_array_equal(mean["x"], back["x"])
    print("done")
"""


def test_two_hosts_save_and_restore_together(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda process: run_child(TWO_HOSTS, tmp_path, port, process), range(2))
    for result in results:
        assert result.returncode == 0, result.stderr
        assert result.stdout.endswith("done\n")
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2]


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Checkpoints(tmp_path / "file" / "checkpoints", metric="top1")


def test_an_error_in_the_block_is_not_hidden(tmp_path):
    with pytest.raises(KeyError, match="mine"):
        with Checkpoints(tmp_path, metric="top1") as checkpoints:
            checkpoints.save(1, make_state(), metadata={})
            raise KeyError("mine")
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]


def test_no_thread_and_no_warning_is_left(tmp_path, caplog):
    before = set(threading.enumerate())
    with caplog.at_level(logging.WARNING):
        save(tmp_path, {1: 0.1, 2: 0.2, 3: None})
        with Checkpoints.reader(tmp_path) as checkpoints:
            checkpoints.restore(3, make_state())
    # asyncio's own pool, which Orbax shares with everybody, may have grown by an idle thread.
    left = {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}
    assert left <= before
    assert caplog.records == []


def test_average(tmp_path):
    save(tmp_path, {2: 0.3, 4: 0.2, 9: 0.1}, keep_best=3)
    abstract = jax.eval_shape(make_state)
    with Checkpoints.reader(tmp_path) as checkpoints:
        mean = average(checkpoints, [2, 4, 9], abstract)
        params = average(checkpoints, [4, 9], {"params": abstract.params})["params"]
        with pytest.raises(ConfigurationError, match="no checkpoint to average"):
            average(checkpoints, [], abstract)
    np.testing.assert_array_equal(mean.params["stem"]["kernel"], np.full((2, 3), 5.0))
    assert mean.params["head"]["bias"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(mean.params["head"]["bias"].astype(np.float32), np.full(3, -5.0))
    assert int(mean.step) == 9 and mean.step.dtype == np.int32
    np.testing.assert_array_equal(params["stem"]["kernel"], np.full((2, 3), 6.5))


def test_average_is_placed_as_asked(tmp_path):
    save(tmp_path, {2: 0.3})
    with Checkpoints.reader(tmp_path) as checkpoints:
        mean = average(checkpoints, [2], make_state())
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(mean))
    assert_equal(mean, make_state(2, 2.0))
