import dataclasses
import json
import os

import pytest

from mobilevit_jax.config import Experiment, read_experiment, to_dict
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.training.workdir import (
    EXPERIMENT,
    open_workdir,
    read_record,
    write_json,
)

NAMES = ("cat", "dog")


def changed(**sections):
    """Returns the default experiment with fields of its sections replaced."""
    default = Experiment()
    return dataclasses.replace(
        default,
        **{
            name: dataclasses.replace(getattr(default, name), **fields)
            for name, fields in sections.items()
        },
    )


def test_a_new_directory_records_the_experiment(tmp_path):
    workdir = tmp_path / "runs" / "new"
    open_workdir(workdir, Experiment(seed=3), NAMES)
    record = read_record(workdir)
    assert record["experiment"] == to_dict(Experiment(seed=3))
    assert record["class_names"] == ["cat", "dog"]
    assert {"python", "jax", "flax", "optax"} <= record["versions"].keys()
    assert record["commit"] is None or len(record["commit"]) >= 7
    assert read_experiment(workdir) == (Experiment(seed=3), NAMES)
    assert [path.name for path in workdir.iterdir()] == [EXPERIMENT]


def test_the_same_experiment_may_go_on(tmp_path):
    begun(tmp_path)
    before = (tmp_path / EXPERIMENT).read_bytes()
    open_workdir(tmp_path, Experiment(), NAMES)
    assert (tmp_path / EXPERIMENT).read_bytes() == before


def test_data_may_have_moved_and_be_read_otherwise(tmp_path):
    begun(tmp_path)
    open_workdir(tmp_path, changed(data={"data_dir": "/elsewhere"}, loader={"threads": 3}), NAMES)


def begun(directory, examples=None):
    """A directory whose run has saved something."""
    open_workdir(directory, Experiment(), NAMES, examples)
    (directory / "checkpoints" / "7").mkdir(parents=True)


def test_a_directory_in_which_nothing_was_saved_is_taken_over(tmp_path):
    open_workdir(tmp_path, Experiment(), NAMES)
    open_workdir(tmp_path, changed(optimizer={"weight_decay": 0.1}), NAMES)
    assert read_experiment(tmp_path)[0].optimizer.weight_decay == 0.1


def test_a_checkpoint_half_written_is_none(tmp_path):
    open_workdir(tmp_path, Experiment(), NAMES)
    (tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp").mkdir(parents=True)
    open_workdir(tmp_path, changed(optimizer={"weight_decay": 0.1}), NAMES)
    assert read_experiment(tmp_path)[0].optimizer.weight_decay == 0.1


def test_rows_without_a_checkpoint_are_not_taken_over(tmp_path):
    open_workdir(tmp_path, Experiment(), NAMES)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ConfigurationError, match="another experiment"):
        open_workdir(tmp_path, changed(optimizer={"weight_decay": 0.1}), NAMES)


def test_a_data_set_that_has_changed_is_refused(tmp_path):
    begun(tmp_path, 64)
    open_workdir(tmp_path, Experiment(), NAMES, 64)
    with pytest.raises(ConfigurationError, match="data set has changed .*64 -> 65"):
        open_workdir(tmp_path, Experiment(), NAMES, 65)
    with pytest.raises(ConfigurationError, match="data set has changed .*class names"):
        open_workdir(tmp_path, Experiment(), ("cat", "cow"), 64)


def test_another_experiment_is_refused_with_the_fields(tmp_path):
    begun(tmp_path)
    other = changed(optimizer={"weight_decay": 0.1}, model={"patch_sizes": (8, 4, 2)})
    with pytest.raises(ConfigurationError) as caught:
        open_workdir(tmp_path, other, NAMES)
    message = str(caught.value)
    assert "another experiment" in message and str(tmp_path) in message
    assert "optimizer.weight_decay: 0.01 -> 0.1" in message
    assert "model.patch_sizes: [2, 2, 2] -> [8, 4, 2]" in message
    assert read_experiment(tmp_path)[0] == Experiment()


def test_checkpoints_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="holds checkpoints but no experiment.json"):
        open_workdir(tmp_path, Experiment(), NAMES)


def test_a_directory_that_may_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ConfigurationError, match="may not be written; choose another"):
        open_workdir(tmp_path, Experiment(), NAMES)


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(OSError):
            open_workdir(tmp_path / place, Experiment(), NAMES)


def test_not_a_work_directory(tmp_path):
    with pytest.raises(DataError, match="is not a work directory: it has no experiment.json"):
        read_record(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"experiment": 3}'])
def test_a_damaged_record(tmp_path, text):
    (tmp_path / EXPERIMENT).write_text(text)
    with pytest.raises(DataError, match="experiment.json cannot be read .*was it edited"):
        read_experiment(tmp_path)


def test_a_record_with_an_unknown_field(tmp_path):
    record = {"experiment": to_dict(Experiment()) | {"epoch": 3}}
    (tmp_path / EXPERIMENT).write_text(json.dumps(record))
    with pytest.raises(DataError, match="experiment.json: unknown field epoch .*'epochs'"):
        read_experiment(tmp_path)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "numbers.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
