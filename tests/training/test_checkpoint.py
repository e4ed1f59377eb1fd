import dataclasses
import json
import logging
import os
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.training.checkpoint import Checkpoints
from mobilevit_jax.training.checkpoint.averaging import average
from tests.training.saved import State, assert_equal, make_state, save


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


def test_the_newest_scheduled_one_is_kept_beside_extra_ones(tmp_path):
    def steps():
        with Checkpoints.reader(tmp_path) as checkpoints:
            return checkpoints.steps(), checkpoints.steps(scheduled=True)

    save(tmp_path, {1: 0.9, 2: 0.1, 3: None})
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        checkpoints.save(4, make_state(4, 4.0), metadata={}, extra=True)
    assert steps() == ([1, 3, 4], [1, 3])
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        checkpoints.save(5, make_state(5, 5.0), metadata={}, extra=True)
    assert steps() == ([1, 3, 5], [1, 3])
    save(tmp_path, {6: None})
    assert steps() == ([1, 6], [1, 6])


def test_going_on_from_the_newest(tmp_path):
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        assert checkpoints.restore_newest(make_state(), warn=pytest.fail) is None
        checkpoints.save(1, make_state(1, 1.0), metadata={"epoch": 1}, extra=True)
        assert checkpoints.restore_newest(make_state(), scheduled=True, warn=pytest.fail) is None
        checkpoints.save(2, make_state(2, 2.0), metadata={"epoch": 2})
        checkpoints.save(3, make_state(3, 3.0), metadata={"pending": True}, extra=True)
        newest = checkpoints.restore_newest(make_state(), warn=pytest.fail)
        scheduled = checkpoints.restore_newest(make_state(), scheduled=True, warn=pytest.fail)
    assert newest is not None and scheduled is not None
    assert (newest.step, newest.metadata) == (3, {"pending": True})
    assert_equal(newest.state, make_state(3, 3.0))
    assert (scheduled.step, scheduled.metadata) == (2, {"epoch": 2})
    assert_equal(scheduled.state, make_state(2, 2.0))


def test_a_checkpoint_is_measured_later(tmp_path):
    """As when a signal came during its evaluation; it ends as if there had been none."""
    state, abstract = make_state(2, 2.0), make_state()
    save(tmp_path, {1: 0.1})
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        checkpoints.save(2, state, metadata={"pending": True}, extra=True)
    arrays = sorted((tmp_path / "2" / "state").rglob("*"))
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        restored = checkpoints.restore_newest(abstract, warn=pytest.fail)
        assert restored is not None
        measured = {"top1": 0.5}
        with pytest.raises(DataError, match="checkpoint 2 in .* is of another state"):
            checkpoints.save(2, make_state(2, 3.0), metadata={}, metrics=measured, replace=True)
        checkpoints.save(2, restored.state, metadata={"epoch": 1}, metrics=measured, replace=True)
        assert checkpoints.best() == [(2, 0.5), (1, 0.1)]
        assert checkpoints.steps(scheduled=True) == [1, 2]
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.metadata(2) == {"epoch": 1}
        assert checkpoints.metrics(2) == measured
        assert checkpoints.steps(scheduled=True) == [1, 2]
        assert_equal(checkpoints.restore(2, abstract), state)
    assert sorted((tmp_path / "2" / "state").rglob("*")) == arrays
    save(tmp_path, {3: 0.2})
    with Checkpoints.reader(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 3]


def test_what_is_not_there_is_not_replaced_but_saved(tmp_path):
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        checkpoints.save(1, make_state(1, 1.0), metadata={}, replace=True)
        assert_equal(checkpoints.restore(1, make_state()), make_state(1, 1.0))


def test_an_old_checkpoint_is_scheduled_and_unchecked(tmp_path):
    """Before there were extra ones and checksums."""
    save(tmp_path, {5: 0.5})
    path = tmp_path / "5" / "metadata" / "metadata"
    record = json.loads(path.read_text())
    assert record.pop("extra") is False and len(record.pop("checksums")) > 3
    path.write_text(json.dumps(record))
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        assert checkpoints.steps(scheduled=True) == [5]
        newest = checkpoints.restore_newest(make_state(), scheduled=True, warn=pytest.fail)
        assert newest is not None and newest.metadata == {"step": 5}
        assert_equal(newest.state, make_state(5, 5.0))


def test_all_is_on_disk_before_a_checkpoint_gets_its_name(tmp_path, monkeypatch):
    """Or a power cut would leave a damaged one, and older ones removed."""
    synced = set()
    fsync = os.fsync

    def record(file):
        synced.add(Path(os.readlink(f"/proc/self/fd/{file}")))
        fsync(file)

    monkeypatch.setattr(os, "fsync", record)
    save(tmp_path, {5: 0.5})
    # Of what Orbax adds after it, nothing is needed to read a checkpoint.
    there = {path.relative_to(tmp_path / "5") for path in (tmp_path / "5").rglob("*")}
    there.discard(Path("commit_success.txt"))
    (unfinished,) = {path.relative_to(tmp_path).parts[0] for path in synced}
    assert unfinished != "5" and len(there) > 5
    assert {path.relative_to(tmp_path / unfinished) for path in synced} >= there


def test_without_other_machines_there_is_no_notice(tmp_path):
    with Checkpoints(tmp_path, metric="top1") as checkpoints:
        assert checkpoints.reached_preemption(3) is False


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
