"""Loading what a run has saved: which weights, and what to do with them."""

import json
import shutil

import numpy as np
import pytest

import mobilevit_jax
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.pretrained import from_pretrained, load_weights
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training import workdir
from mobilevit_jax.training.checkpoint import Checkpoints
from tests.small import build_small_net, random_variables, tiny_experiment

NAMES = tuple("abcdef")
TOP1 = {10: 0.5, 20: 0.75, 30: 0.25, 40: None}


@pytest.fixture(scope="module", autouse=True)
def _small_net():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelConfig, "build", build_small_net)
        yield


def weights(step: int, *, raw: bool = False):
    """Returns the variables that the run below has saved at a step."""
    return random_variables(build_small_net(ModelConfig(), 6, "batch"), step + raw)


def save_run(directory, experiment):
    workdir.open_workdir(directory, experiment, NAMES)
    with Checkpoints(directory / "checkpoints", metric="top1", keep_best=2) as checkpoints:
        for step, top1 in TOP1.items():
            state = {
                **weights(step, raw=True),
                "ema": weights(step) if experiment.ema.decay else {},
                "step": np.int32(step),
            }
            metrics = None if top1 is None else {"top1": top1}
            checkpoints.save(step, state, metadata={"epoch": 1}, metrics=metrics)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A directory with the checkpoints 10 (second best), 20 (best) and 40 (latest, not ranked)."""
    directory = tmp_path_factory.mktemp("run") / "run"
    save_run(directory, tiny_experiment(directory))
    return directory


def assert_equal(found, expected):
    import jax

    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


@pytest.mark.parametrize(
    ("choice", "step"), [("latest", 40), ("best", 20), (10, 10), (20, 20), (40, 40)]
)
@pytest.mark.parametrize("raw", [False, True])
def test_each_choice_loads_its_weights(run, choice, step, raw):
    loaded = load_weights(run, checkpoint=choice, raw=raw)
    assert_equal(loaded.variables, weights(step, raw=raw))
    assert loaded.description == f"{'raw' if raw else 'EMA'} weights of step {step}"
    assert loaded.class_names == NAMES


def test_the_average_of_the_best(run):
    import jax

    loaded = load_weights(run, checkpoint="average")
    mean = jax.tree.map(lambda a, b: (a + b) / 2, weights(10), weights(20))
    assert_equal(loaded.variables, mean)
    assert loaded.description == "averaged EMA weights of step 20, 10"


def test_the_average_leaves_out_a_latest_that_is_not_among_the_best(tmp_path):
    from mobilevit_jax.config import CheckpointConfig

    one = tiny_experiment(tmp_path, checkpoint=CheckpointConfig(keep_best=1))
    save_run(tmp_path / "run", one)
    loaded = load_weights(tmp_path / "run", checkpoint="average")
    assert loaded.description == "EMA weights of step 20"


def test_what_comes_back_can_be_used(run):
    model, variables, processor = mobilevit_jax.from_pretrained(str(run))
    assert processor == ImageProcessor(size=32, crop_size=(32, 32))
    logits = np.asarray(model.apply(variables, processor(np.zeros((50, 40, 3), np.uint8))))
    assert logits.shape == (1, 6)
    assert from_pretrained(run, checkpoint=10, raw=True)[0] == model


def test_a_run_without_an_average_has_raw_weights(tmp_path):
    from mobilevit_jax.training.state import EMAConfig

    save_run(tmp_path / "run", tiny_experiment(tmp_path, ema=EMAConfig(decay=0.0)))
    loaded = load_weights(tmp_path / "run")
    assert_equal(loaded.variables, weights(40, raw=True))
    assert loaded.description == "raw weights of step 40"


def test_the_run_may_have_moved(run, tmp_path):
    shutil.copytree(run, tmp_path / "elsewhere")
    assert_equal(load_weights(tmp_path / "elsewhere").variables, weights(40))


def test_reading_changes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    load_weights(run, checkpoint="average")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("step", [30, 7])
def test_a_step_that_was_not_kept(run, step):
    with pytest.raises(
        ConfigurationError, match=f"no checkpoint of step {step}; it has 10, 20, 40"
    ):
        load_weights(run, checkpoint=step)


@pytest.mark.parametrize("choice", ["best", "average"])
def test_the_best_of_a_run_that_was_never_evaluated(tmp_path, choice):
    workdir.open_workdir(tmp_path, tiny_experiment(tmp_path), NAMES)
    with Checkpoints(tmp_path / "checkpoints", metric="top1") as checkpoints:
        checkpoints.save(1, {**weights(1), "ema": weights(1)}, metadata={})
    with pytest.raises(ConfigurationError, match="none is the best; use latest"):
        load_weights(tmp_path, checkpoint=choice)


def test_no_checkpoint_yet(tmp_path):
    workdir.open_workdir(tmp_path, tiny_experiment(tmp_path), NAMES)
    with pytest.raises(DataError, match="has no checkpoint yet; train it first"):
        load_weights(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DataError, match="no checkpoint in .*checkpoints"):
        load_weights(tmp_path)


def test_a_directory_that_is_no_run(tmp_path):
    with pytest.raises(DataError, match="so it is neither a work directory nor saved weights"):
        load_weights(tmp_path)


def test_an_edited_record_that_does_not_fit_the_weights(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "experiment.json"
    record = json.loads(path.read_text())
    record["class_names"] = [*NAMES, "g"]
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="checkpoint 40 .* does not fit: .*classifier"):
        load_weights(tmp_path / "run")
