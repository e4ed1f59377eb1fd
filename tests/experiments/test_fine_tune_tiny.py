"""The fine-tuning recipe runs: two steps of its shrunk form from weights made here."""

import json
import pathlib

import numpy as np
import pytest

from mobilevit_jax.cli.main import main
from mobilevit_jax.config import Experiment
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.models import create_model
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.training import workdir
from mobilevit_jax.training.checkpoint import Checkpoints
from mobilevit_jax.training.metrics_log import read_metrics
from tests.small import random_variables

RECIPE = str(pathlib.Path(__file__).parents[2] / "experiments" / "fine_tune.py")
# The smallest model, one size, no evaluation: compiling a training graph takes most of the time.
MODEL = "mobilevit_xxs"
SHORT = [
    "--model.name",
    MODEL,
    "--epochs",
    "2",
    "--sampler.sizes",
    "32",
    "--data.validation",
    "None",
]


def make_weights(directory):
    """Writes a work directory of the model for 1000 classes with random weights."""
    workdir.open_workdir(
        directory,
        Experiment(model=ModelConfig(MODEL)),
        tuple(map(str, range(1000))),
    )
    variables = random_variables(create_model(MODEL))
    with Checkpoints(directory / workdir.CHECKPOINTS, metric="top1") as checkpoints:
        checkpoints.save(1, {**variables, "ema": variables}, metadata={"epoch": 1})
    return variables


@pytest.mark.slow
@pytest.mark.usefixtures("small_networks")
def test_two_steps_of_the_tiny_form(tmp_path, capsys):
    prepare("shapes/tiny", data_dir=tmp_path)
    given = make_weights(tmp_path / "weights")
    options = [*SHORT, "--data.test", "None", "--data.data-dir", str(tmp_path)]
    options += ["--init-from", str(tmp_path / "weights"), "--workdir", str(tmp_path / "run")]
    assert main(["train", RECIPE, "--tiny", *options]) == 0
    assert "classifier: 1000 -> 8 classes, initialised anew" in capsys.readouterr().err
    rows = read_metrics(tmp_path / "run")
    assert [(row["step"], row["split"]) for row in rows] == [(1, "train"), (2, "train")]
    assert all(np.isfinite(row["loss"]) for row in rows)
    with Checkpoints.reader(tmp_path / "run" / workdir.CHECKPOINTS) as checkpoints:
        params = checkpoints.restore(2, checkpoints.structure(2))["params"]
    kernel = params["backbone"]["conv_1"]["conv"]["kernel"]
    # Two steps of at most a tenth of the rate, which is 1e-3 after a warm-up of one step.
    moved = np.abs(kernel - given["params"]["backbone"]["conv_1"]["conv"]["kernel"]).max()
    assert 0 < moved < 2.2e-4
    record = json.loads((tmp_path / "run" / workdir.EXPERIMENT).read_text())
    assert len(record["class_names"]) == 8
