"""Every experiment's resolved configuration is committed, so that no default changes unseen."""

import json
import pathlib

import pytest

from mobilevit_jax.config import Experiment, from_dict, load_experiment, shrink, to_dict
from mobilevit_jax.data.sampler import check_devices, scale_table
from mobilevit_jax.training.schedule import warmup_cosine

ROOT = pathlib.Path(__file__).parents[2] / "experiments"
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "experiments"
# The studies have tests of their own.
FILES = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.rglob("*.py")
    if "def study(" not in path.read_text()
)


def golden_path(file: str) -> pathlib.Path:
    return GOLDEN / (file.removesuffix(".py").replace("/", "_") + ".json")


@pytest.mark.parametrize("file", FILES)
def test_resolved_configuration_is_the_committed_one(file):
    # To accept a change: python -m tests.experiments.test_experiments
    resolved = to_dict(load_experiment(ROOT / file))
    assert resolved == json.loads(golden_path(file).read_text())


def test_no_golden_is_left_over():
    assert sorted(GOLDEN.glob("*.json")) == sorted(golden_path(file) for file in FILES)


@pytest.mark.parametrize("file", FILES)
def test_runs_on_one_to_eight_devices(file):
    table = scale_table(load_experiment(ROOT / file).sampler)
    for devices in (1, 2, 4, 8):
        check_devices(table, devices)


@pytest.mark.parametrize("file", FILES)
def test_survives_json_and_shrinks(file):
    experiment = load_experiment(ROOT / file)
    assert from_dict(Experiment, json.loads(json.dumps(to_dict(experiment)))) == experiment
    tiny = shrink(experiment)
    assert tiny.optimizer == experiment.optimizer and tiny.model.name == experiment.model.name
    assert max(scale.height for scale in scale_table(tiny.sampler)) == 64


@pytest.mark.parametrize("size", ["xxs", "xs", "s"])
def test_imagenet_recipe_is_the_papers(size):
    experiment = load_experiment(ROOT / "imagenet" / f"mobilevit_{size}.py")
    table = [tuple(scale) for scale in scale_table(experiment.sampler)]
    sizes = [(160, 2624), (192, 1792), (256, 1024), (288, 1024), (320, 1024)]
    assert table == [(side, side, batch) for side, batch in sizes]
    assert (experiment.epochs, experiment.optimizer.weight_decay) == (300, 0.01)
    assert (experiment.loss.label_smoothing, experiment.ema.decay) == (0.1, 0.9995)
    assert experiment.processor.size == 288 and experiment.processor.crop_size == (256, 256)
    rate = warmup_cosine(experiment.schedule, [1252] * 300)
    assert float(rate(1500)) == pytest.approx(0.0011, abs=1e-8)
    assert float(rate(100 * 1252)) == pytest.approx(0.00155, abs=1e-8)


if __name__ == "__main__":
    for name in FILES:
        text = json.dumps(to_dict(load_experiment(ROOT / name)), indent=1)
        golden_path(name).write_text(text + "\n")
