import dataclasses
import json
from pathlib import Path

import pytest

from mobilevit_jax.config import (
    CheckpointConfig,
    EvaluationConfig,
    Experiment,
    differences,
    from_dict,
    load_experiment,
    shrink,
    to_dict,
)
from mobilevit_jax.data.sampler import SamplerConfig, check_devices, scale_table
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.config import ModelConfig

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
# Studies hold several experiments each.
FILES = sorted(path for path in EXPERIMENTS.rglob("*.py") if "def study(" not in path.read_text())


def read(path):
    return load_experiment(path) if path else Experiment()


@pytest.mark.parametrize("path", [None, *FILES], ids=lambda path: path.stem if path else "default")
class TestEveryExperiment:
    def test_survives_json(self, path):
        experiment = read(path)
        stored = json.loads(json.dumps(to_dict(experiment), allow_nan=False))
        assert from_dict(Experiment, stored) == experiment

    def test_shrinks_to_a_laptop(self, path):
        experiment = read(path)
        small = shrink(experiment)
        table = scale_table(small.sampler)
        assert small.name == f"{experiment.name}-tiny" and small.epochs == 1
        assert max(scale.height for scale in table) <= 64
        assert (len(table) > 1) == (len(scale_table(experiment.sampler)) > 1)
        for devices in (1, 2, 4):
            check_devices(table, devices)
        assert small.model == dataclasses.replace(experiment.model, num_classes=None)
        assert (small.optimizer, small.loss) == (experiment.optimizer, experiment.loss)
        assert (small.ema, small.init_from) == (experiment.ema, experiment.init_from)

    def test_builds_its_model(self, path):
        model = read(path).model.build(10, "devices")
        assert model.backbone.variant.depths == (2, 4, 3)


def test_there_are_experiments():
    assert {"quickstart", "cifar10"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_is_documented_and_named_after_its_file(path):
    assert load_experiment(path).name.replace("/", "_").endswith(path.stem)
    assert path.read_text().startswith('"""')


class TestFromDict:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"epoch": 3}, "unknown field epoch .*'epochs'"),
            (
                {"model": {"patch_size": [2, 2, 2]}},
                "unknown field model.patch_size .*'patch_sizes'",
            ),
            ({"zzz": 1}, "unknown field zzz$"),
        ],
    )
    def test_unknown_fields(self, values, message):
        with pytest.raises(ConfigurationError, match=message):
            from_dict(Experiment, values)

    def test_fields_left_out_take_their_defaults(self):
        assert from_dict(Experiment, {"model": {"name": "mobilevit_xs"}}) == Experiment(
            model=ModelConfig("mobilevit_xs")
        )

    def test_whole_numbers_become_floats_where_floats_belong(self):
        experiment = from_dict(
            Experiment, {"optimizer": {"weight_decay": 0, "clip_norm": 1}, "epochs": 3}
        )
        assert isinstance(experiment.optimizer.weight_decay, float)
        assert isinstance(experiment.optimizer.clip_norm, float)
        assert isinstance(experiment.epochs, int)

    def test_lists_become_tuples(self):
        experiment = from_dict(Experiment, {"model": {"patch_sizes": [8, 4, 2]}})
        assert experiment.model.patch_sizes == (8, 4, 2)
        assert hash(experiment) == hash(from_dict(Experiment, to_dict(experiment)))


def test_differences():
    old, new = to_dict(Experiment()), to_dict(Experiment(seed=1, model=ModelConfig(fusion=False)))
    assert differences(old, new) == ["model.fusion: True -> False", "seed: 0 -> 1"]
    assert differences(old, old) == []
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 -> None", "b: None -> 2"]


class TestLoadExperiment:
    def write(self, tmp_path, text):
        path = tmp_path / "mine.py"
        path.write_text(text)
        return path

    def test_a_file(self, tmp_path):
        path = self.write(
            tmp_path,
            "from mobilevit_jax.config import Experiment\n"
            "def experiment():\n    return Experiment('mine', epochs=7)\n",
        )
        assert load_experiment(path) == load_experiment(str(path)) == Experiment("mine", epochs=7)

    def test_no_such_file(self, tmp_path):
        self.write(tmp_path, "")
        with pytest.raises(ConfigurationError, match=r"no experiment file .*mein\.py.*mine\.py"):
            load_experiment(tmp_path / "mein.py")
        with pytest.raises(ConfigurationError, match="no experiment file"):
            load_experiment(tmp_path / "nowhere" / "mine.py")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("x = 1", r"needs a function experiment\(\)"),
            ("experiment = 3", r"needs a function experiment\(\)"),
            ("def experiment(): return 3", "that returns a mobilevit_jax.config.Experiment"),
            ("def experiment(:", "mine.py: SyntaxError"),
            ("import no_such_module", "mine.py: ModuleNotFoundError"),
            (
                "from mobilevit_jax.config import Experiment\nExperiment(epochs=0)",
                "mine.py: epochs must be at least 1; got 0",
            ),
            (
                "from mobilevit_jax.config import Experiment\n"
                "def experiment(): return Experiment(epochs=0)",
                "mine.py: epochs must be at least 1; got 0",
            ),
            (
                "from mobilevit_jax.config import Experiment\n"
                "def experiment(): return Experiment(epoch=1)",
                "mine.py: TypeError: .*'epoch'",
            ),
        ],
    )
    def test_what_is_no_experiment(self, tmp_path, text, message):
        with pytest.raises(ConfigurationError, match=message):
            load_experiment(self.write(tmp_path, text))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Experiment(epochs=0), "epochs must be at least 1"),
        (lambda: Experiment(log_every=0), "log_every must be at least 1"),
        (lambda: Experiment(seed=-1), "seed must be 0 or more and below 2\\*\\*63; got -1"),
        (lambda: EvaluationConfig(every_epochs=0), "evaluation.every_epochs"),
        (lambda: EvaluationConfig(batch_size=0), "evaluation.batch_size"),
        (lambda: CheckpointConfig(every_epochs=0), "checkpoint.every_epochs must be at least 1"),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_shrinking_keeps_a_single_scale_single():
    single = Experiment(sampler=SamplerConfig(sizes=(256,)))
    assert [scale.height for scale in scale_table(shrink(single).sampler)] == [64]
