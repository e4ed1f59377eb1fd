"""`mobilevit train --init-from`: from another run, and what is refused before anything is done."""

import json
import shutil

import pytest

from mobilevit_jax.training.checkpoint import Checkpoints

TEN = ["--model.num-classes", 10]


@pytest.fixture(scope="module")
def weights(train_tiny, tmp_path_factory, data_dir):
    """A run whose classifier has ten outputs."""
    from mobilevit_jax.models.config import ModelConfig
    from tests.small import build_small_net

    directory = tmp_path_factory.mktemp("weights") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(data_dir))
        patch.setattr(ModelConfig, "build", build_small_net)
        assert train_tiny(directory, TEN).status == 0
    return directory


def state_of(directory):
    with Checkpoints.reader(directory / "checkpoints") as checkpoints:
        step = checkpoints.steps()[-1]
        return checkpoints.restore(step, checkpoints.structure(step))


def test_another_number_of_classes(train_tiny, weights, tmp_path):
    # A rate of next to nothing, so that the weights stay where they started.
    slow = ["--schedule.start", 1e-12, "--schedule.peak", 1e-12, "--schedule.end", 0]
    ran = train_tiny(tmp_path / "run", ["--init-from", weights, *slow])
    assert ran.status == 0, ran.err
    lines = ran.err.splitlines()
    assert f"starting from {weights}: EMA weights of step 1" in lines
    assert "classifier: 10 -> 8 classes, initialised anew" in lines
    given, found = state_of(weights)["ema"]["params"], state_of(tmp_path / "run")["params"]
    assert abs(found["conv"]["kernel"] - given["conv"]["kernel"]).max() < 1e-9
    assert found["classifier"]["kernel"].shape == (8, 8)
    record = json.loads((tmp_path / "run" / "experiment.json").read_text())
    assert record["experiment"]["init_from"] == str(weights)
    assert len(record["class_names"]) == 8


def test_the_second_start_needs_the_weights_no_more(train_tiny, trained, tmp_path):
    shutil.copytree(trained.directory, tmp_path / "weights")
    options = ["--init-from", tmp_path / "weights"]
    first = train_tiny(tmp_path / "run", options)
    assert first.status == 0 and "starting from" in first.err
    shutil.rmtree(tmp_path / "weights")
    again = train_tiny(tmp_path / "run", options)
    assert again.status == 0 and again.out == first.out
    # But without them named it is another experiment.
    other = train_tiny(tmp_path / "run")
    assert other.status == 2 and "init_from: " in other.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init-from", "gone"], "there is nothing at gone"),
        (
            ["--init-from", "WEIGHTS", "--processor.no-do-flip-channel-order"],
            "set processor.do_flip_channel_order to True",
        ),
        (
            ["--init-from", "WEIGHTS", "--optimizer.backbone-lr", 0],
            "set model.freeze_backbone",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(train_tiny, trained, tmp_path, options, message):
    options = [trained.directory if word == "WEIGHTS" else word for word in options]
    ran = train_tiny(tmp_path / "run", options)
    assert ran.status == 2 and message in ran.err
    assert ran.err.count("\n") == 1 and "compiling" not in ran.err
    assert not (tmp_path / "run").exists()
