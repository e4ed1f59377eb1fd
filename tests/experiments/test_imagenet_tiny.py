"""The ImageNet recipes run: two steps of their shrunk form, from the command line."""

import pathlib

import pytest

from mobilevit_jax.cli.main import main
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.training.metrics_log import read_metrics

RECIPES = pathlib.Path(__file__).parents[2] / "experiments" / "imagenet"
# One size and no evaluation: a training graph takes most of the time to compile.
SHORT = ["--epochs", "2", "--sampler.sizes", "32", "--data.validation", "None"]


@pytest.mark.slow
@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("size", ["xxs", "xs"])  # s: tests/test_documented_commands.py
def test_two_steps_of_the_tiny_form(size, tmp_path):
    prepare("shapes/tiny", data_dir=tmp_path)
    options = [*SHORT, "--data.test", "None", "--data.data-dir", str(tmp_path)]
    run = tmp_path / "run"
    recipe = str(RECIPES / f"mobilevit_{size}.py")
    assert main(["train", recipe, "--tiny", *options, "--workdir", str(run)]) == 0
    rows = read_metrics(run)
    assert [(row["step"], row["epoch"], row["split"]) for row in rows] == [
        (1, 1, "train"),
        (2, 2, "train"),
    ]
    # Eight classes: the loss of a fresh model is about log 8 in bfloat16 as well.
    assert all(1.5 < row["loss"] < 3.5 for row in rows)
