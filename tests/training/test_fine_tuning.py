"""Starting from other weights: what is taken over, what is replaced, what is refused."""

import dataclasses
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mobilevit_jax import fine_tuning
from mobilevit_jax.base.run_files import CHECKPOINTS
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.fine_tuning import load_initial
from mobilevit_jax.models import create_model
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.pretrained import Pretrained
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.classification import ClassificationTask
from mobilevit_jax.training import loop, workdir
from mobilevit_jax.training.checkpoint import Checkpoints
from mobilevit_jax.training.initial_weights import start_from
from mobilevit_jax.training.optimizer import OptimizerConfig, create_optimizer
from mobilevit_jax.training.state import TrainState, empty_meter
from tests.small import TINY, random_variables, tiny_experiment, tiny_model

NAMES = tuple("abcdef")


def flat(variables):
    return traverse_util.flatten_dict(variables)


def of_widths(**changes):
    variant = dataclasses.replace(TINY, **changes)
    return create_model("mobilevit_xxs", variant=variant, num_classes=6)


@pytest.fixture
def source(monkeypatch):
    """Makes `load_weights` give a model's weights, whatever it is asked for: `source(model)`."""

    def place(model, variables=None, processor=None, class_names=NAMES, **options):
        loaded = Pretrained(
            model,
            variables or random_variables(model, 1),
            processor or ImageProcessor(),
            class_names,
            "mobilevit_xxs",
            "weights of a test",
            **options,
        )
        monkeypatch.setattr(fine_tuning, "load_weights", lambda source, **options: loaded)
        return loaded

    return place


def load(directory, model, class_names=NAMES, **options):
    experiment = tiny_experiment(directory, init_from="W", **options)
    initial = load_initial(experiment, model, directory, class_names)
    assert initial is not None
    return initial


def fresh_state(model, ema=None):
    """Returns a state of step 0 of random variables, without compiling anything."""
    variables = random_variables(model, 2)
    optimizer = create_optimizer(OptimizerConfig(), lambda step: jnp.float32(1e-3))
    return TrainState(
        jnp.zeros((), jnp.int32),
        **variables,
        opt_state=optimizer.init(variables["params"]),
        ema=variables if ema is None else ema,
        meter=empty_meter(("loss",)),
    )


HEAD_NAMES = [f"head_{level}" for level in range(6)]


def kind(name, num_classes=6, **options):
    """Returns a detector or segmentation model of tiny widths."""
    if name == "deeplabv3":
        options = {"aspp_features": 8, "aux_width": 8, **options}
    return create_model(f"{name}_mobilevit_xxs", variant=TINY, num_classes=num_classes, **options)


class TestMerging:
    def test_all_of_the_same_model(self, source, tmp_path):
        model = tiny_model()
        loaded = source(model)
        initial = load(tmp_path, model)
        assert initial.notes == ("starting from W: weights of a test",)
        state = start_from(fresh_state(model), initial)
        for variables in (state.variables, state.ema):
            assert jax.tree.structure(variables) == jax.tree.structure(loaded.variables)
            jax.tree.map(np.testing.assert_array_equal, variables, loaded.variables)

    def test_a_classifier_of_other_classes_stays_fresh(self, source, tmp_path):
        loaded = source(tiny_model(10), class_names=tuple("abcdefghij"))
        model = tiny_model(6)
        initial = load(tmp_path, model)
        assert initial.notes[1:] == ("classifier: 10 -> 6 classes, initialised anew",)
        fresh = fresh_state(model)
        state = start_from(fresh, initial)
        given, own = flat(loaded.variables), flat(fresh.variables)
        for variables in (state.variables, state.ema):
            for path, value in flat(variables).items():
                expected = own[path] if path[1] == "classifier" else given[path]
                np.testing.assert_array_equal(value, expected)

    def test_weights_without_a_classifier(self, source, tmp_path):
        source(tiny_model(0), class_names=())
        initial = load(tmp_path, tiny_model(6))
        assert initial.notes[1:] == ("classifier: not among the weights, initialised anew",)
        assert not [path for path in initial.values if path[1] == "classifier"]

    def test_without_an_average_none_is_made(self, source, tmp_path):
        model = tiny_model()
        source(model)
        assert start_from(fresh_state(model, ema={}), load(tmp_path, model)).ema == {}

    def test_options_that_change_no_tensor_are_told(self, source, tmp_path):
        source(tiny_model())
        notes = load(tmp_path, tiny_model(patch_sizes=(8, 4, 2), output_stride=16)).notes
        assert notes[1:] == (
            "patch_sizes: (2, 2, 2) where the weights are from, (8, 4, 2) in this run",
            "output_stride: 32 where the weights are from, 16 in this run",
        )

    @pytest.mark.parametrize(
        ("names", "options"),
        [("uvwxyz", {}), ("abxdef", {"names_assumed": True})],
        ids=["none shared", "nobody named them"],
    )
    def test_a_classifier_that_fits_but_is_of_other_names_is_told(
        self, source, tmp_path, names, options
    ):
        loaded = source(tiny_model(), **options)
        initial = load(tmp_path, tiny_model(), tuple(names))
        first = next(pair for pair in zip(NAMES, names, strict=True) if pair[0] != pair[1])
        assert initial.notes[1:] == (
            "the head is kept, though its 6 classes have other names there, such as "
            f"{first[0]!r} for {first[1]!r}",
        )
        for path, value in initial.values.items():
            np.testing.assert_array_equal(value, flat(loaded.variables)[path])

    def test_classes_of_which_a_part_is_shared_are_refused(self, source, tmp_path):
        source(tiny_model())
        message = r"only the data have 'x', only the weights 'c', .* replace_classifier=True\) ret"
        with pytest.raises(ConfigurationError, match=message):
            load(tmp_path, tiny_model(), tuple("abxdef"))

    @pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
    def test_a_head_that_chooses_no_class_is_not_taken_over(self, source, tmp_path, problem):
        source(tiny_model(problem_type=problem))
        initial = load(tmp_path, tiny_model())
        why = f"classifier: of problem_type={problem!r}, initialised anew"
        assert initial.notes[1:] == (why,)
        assert "classifier" not in scopes(initial.values)


@pytest.mark.parametrize("name", ["classifier", "ssdlite", "yolox", "deeplabv3"])
def test_heads_of_the_same_classes_in_another_order(source, tmp_path, name):
    """The class of each name gets the outputs that it had, for all heads and parts of them."""
    if name == "classifier":
        model, names, run = tiny_model(), NAMES, "mobilevit_xxs"
    elif name == "ssdlite":
        model, names, run = kind(name), NAMES[1:], "ssdlite_mobilevit_xxs"
    elif name == "yolox":
        model, names, run = kind(name), NAMES, "yolox_mobilevit_xxs"
    else:
        model, names = kind(name, aux_head=True), ("background", *NAMES[1:])
        run = "deeplabv3_mobilevit_xxs"
    loaded = source(model, class_names=names)
    turned = names[:1] + names[:0:-1]
    experiment = tiny_experiment(tmp_path, init_from="W", model=ModelConfig(run))
    initial = load_initial(experiment, model, tmp_path, turned)
    assert initial is not None
    said = f"the head's {len(names)} classes have another order there, and are matched by their"
    assert initial.notes[1].startswith(said)
    given: dict[Any, Any] = flat(loaded.variables)
    changed = {path for path in given if not np.array_equal(given[path], initial.values[path])}
    assert {path[-2] for path in changed} == {
        "classifier": {"classifier"},
        "ssdlite": {"predict"},
        "yolox": {"predict_classes"},
        "deeplabv3": {"classifier", "aux_classifier"},
    }[name]
    for path in changed:
        before, now = given[path], initial.values[path]
        if name != "ssdlite":
            expected = np.concatenate([before[..., :1], before[..., :0:-1]], -1)
        else:  # rows of 4 offsets, the background and the classes
            rows = before.reshape(*before.shape[:-1], -1, 10)
            rows = np.concatenate([rows[..., :6], rows[..., :5:-1]], -1)
            expected = rows.reshape(before.shape)
        np.testing.assert_array_equal(now, expected)


def scopes(paths):
    return {path[1] for path in paths}


class TestOtherKinds:
    """Detectors and segmentation models start from classifiers, and from each other."""

    HEADS = ", ".join(["extra_128", "extra_256", "extra_64", "extra_pool", *HEAD_NAMES])

    def test_a_detector_from_a_classifier(self, source, tmp_path):
        loaded = source(tiny_model(1000), class_names=())
        model = kind("ssdlite")
        initial = load(tmp_path, model)
        assert initial.notes[1:] == (
            "classifier, conv_1x1_exp: left out",
            f"{self.HEADS}: not among the weights, initialised anew",
        )
        assert scopes(initial.values) == {"backbone"}
        fresh = fresh_state(model)
        state = start_from(fresh, initial)
        given, own = flat(loaded.variables), flat(fresh.variables)
        for path, value in flat(state.variables).items():
            expected = given[path] if path[1] == "backbone" else own[path]
            np.testing.assert_array_equal(value, expected)

    def test_a_segmentation_model_from_a_classifier_of_as_many_classes(self, source, tmp_path):
        """Both have a part called classifier, which is another layer in the one and the other."""
        source(tiny_model(21), class_names=())
        initial = load(tmp_path, kind("deeplabv3", num_classes=21))
        assert initial.notes[1:] == (
            "conv_1x1_exp: left out",
            "aspp: not among the weights, initialised anew",
            "classifier: of another head (classifier), initialised anew",
            "output_stride: 32 where the weights are from, 16 in this run",
        )
        assert scopes(initial.values) == {"backbone"}

    def test_a_classifier_from_a_detector(self, source, tmp_path):
        source(kind("ssdlite"), class_names=())
        initial = load(tmp_path, tiny_model())
        assert initial.notes[1:] == (
            f"{self.HEADS}: left out",
            "classifier, conv_1x1_exp: not among the weights, initialised anew",
        )
        assert scopes(initial.values) == {"backbone"}

    def test_a_yolox_from_a_single_shot_detector(self, source, tmp_path):
        """Both have parts called head_0 to head_2, of which none is kept."""
        source(kind("ssdlite"), class_names=())
        initial = load(tmp_path, kind("yolox"))
        assert (
            "head_0, head_1, head_2: of another head (ssdlite), initialised anew" in initial.notes
        )
        assert scopes(initial.values) == {"backbone"}

    def test_a_frozen_layer_that_the_weights_lack(self, source, tmp_path):
        source(kind("deeplabv3"))
        frozen = ModelConfig(freeze_backbone=True)
        experiment = tiny_experiment(tmp_path, init_from="W", model=frozen)
        with pytest.raises(ConfigurationError, match="has no conv_1x1_exp, which would stay as it"):
            load_initial(experiment, tiny_model(), tmp_path)

    def test_a_detector_of_other_classes_keeps_all_but_the_last_layers(self, source, tmp_path):
        source(kind("ssdlite", num_classes=5), class_names=())
        initial = load(tmp_path, kind("ssdlite", num_classes=3))
        predictors = ", ".join(f"{name}/predict" for name in HEAD_NAMES)
        assert initial.notes[1:] == (f"{predictors}: 5 -> 3 classes, initialised anew",)
        expected = {path for path in flat(random_variables(kind("ssdlite")))}
        assert initial.values.keys() == {path for path in expected if path[-2] != "predict"}

    def test_a_segmentation_model_of_other_classes(self, source, tmp_path):
        source(kind("deeplabv3", num_classes=5), class_names=())
        model = kind("deeplabv3", num_classes=3, aux_head=True, aspp_rates=(12, 24, 36))
        initial = load(tmp_path, model)
        assert initial.notes[1:] == (
            "aux_classifier, aux_conv: not among the weights, initialised anew",
            "classifier: 5 -> 3 classes, initialised anew",
            "aspp_rates: (6, 12, 18) where the weights are from, (12, 24, 36) in this run",
        )
        assert scopes(initial.values) == {"backbone", "aspp"}

    def test_another_size(self, source, tmp_path):
        source(create_model("mobilevit_xs"), class_names=())
        with pytest.raises(ConfigurationError, match="set model.name to ssdlite_mobilevit_xs, or"):
            load(tmp_path, create_model("ssdlite_mobilevit_xxs"))

    def test_no_backbone(self, source, tmp_path):
        variables = random_variables(kind("ssdlite"))
        heads = {
            c: {k: v for k, v in tree.items() if k[:4] == "head"} for c, tree in variables.items()
        }
        source(kind("ssdlite"), heads)
        with pytest.raises(ConfigurationError, match="missing: params/backbone/conv_1"):
            load(tmp_path, kind("ssdlite"))


class TestRefusals:
    def refused(self, directory, model, message, **options):
        with pytest.raises(ConfigurationError, match=message):
            load(directory, model, **options)

    def test_another_size(self, source, tmp_path):
        source(create_model("mobilevit_xs", num_classes=6))
        message = (
            r"W does not fit the experiment's mobilevit_xxs \(of another shape: params/back.*"
            r" \[64\] instead of \[32\].* and \d+ more\); set model.name to mobilevit_xs, or choose"
        )
        self.refused(tmp_path, create_model("mobilevit_xxs", num_classes=6), message)

    def test_another_dropout_is_no_other_size(self, source, tmp_path):
        source(of_widths(dropout=0.3))
        assert load(tmp_path, tiny_model()).values

    def test_widths_of_no_published_size(self, source, tmp_path):
        source(of_widths(exp_channels=24))
        message = r"exp/conv/kernel \[1, 1, 8, 24\] instead of \[1, 1, 8, 16\], .*; choose weights"
        self.refused(tmp_path, tiny_model(), message)

    def test_weights_without_fusion(self, source, tmp_path):
        source(tiny_model(fusion=False))
        message = r"\(missing: params/.*fusion/norm/bias.*\); set model.fusion to False, or"
        self.refused(tmp_path, tiny_model(), message)

    def test_a_model_without_fusion(self, source, tmp_path):
        source(tiny_model())
        message = r"\(not in this model: params/.*\); set model.fusion to True"
        self.refused(tmp_path, tiny_model(fusion=False), message)

    def test_several_options(self, source, tmp_path):
        source(tiny_model(fusion=False, kernel_size=5))
        message = (
            r"missing: .*; of another shape: .*\); set model.fusion to False and model.kernel_"
        )
        self.refused(tmp_path, tiny_model(), message)

    def test_a_single_tensor(self, source, tmp_path):
        model = tiny_model()
        variables = flat(random_variables(model))
        del variables["params", "conv_1x1_exp", "conv", "kernel"]
        source(model, traverse_util.unflatten_dict(variables))
        message = r"\(missing: params/conv_1x1_exp/conv/kernel\); choose weights of the same model"
        self.refused(tmp_path, model, message)

    def test_the_other_order_of_channels(self, source, tmp_path):
        source(tiny_model(), processor=ImageProcessor(do_flip_channel_order=False))
        message = "W expects channels in the order rgb, .* set processor.do_flip_channel_order to F"
        self.refused(tmp_path, tiny_model(), message)
        rgb = ImageProcessor(size=32, crop_size=(32, 32), do_flip_channel_order=False)
        assert load(tmp_path, tiny_model(), processor=rgb).values

    def test_another_mean(self, source, tmp_path):
        normalised = ImageProcessor(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
        source(tiny_model(), processor=normalised)
        message = r"W expects images with mean \(0.5, 0.4, 0.3\) .* have None and None: set proc"
        self.refused(tmp_path, tiny_model(), message)
        assert load(tmp_path, tiny_model(), processor=normalised).values

    @pytest.mark.parametrize(
        ("fields", "factor"), [({"do_rescale": False}, "1"), ({"rescale_factor": 1 / 127.5}, "0.0")]
    )
    def test_other_pixels(self, source, tmp_path, fields, factor):
        source(tiny_model(), processor=ImageProcessor(**fields))
        self.refused(tmp_path, tiny_model(), f"W expects pixels multiplied by {factor}")


def build_tiny(config, num_classes, bn_axis_name):
    """Takes the place of `ModelConfig.build`."""
    return tiny_model(
        config.num_classes or num_classes,
        dropout=0.1,
        kernel_size=config.kernel_size,
        freeze_backbone=config.freeze_backbone,
    )


class Reporter:
    """Remembers what it is told."""

    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)

    def begin(self, first_step):
        pass

    def update(self, step, **shown):
        pass

    def log(self, row):
        pass


def run(experiment, directory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelConfig, "build", build_tiny)
        task = ClassificationTask(experiment)
        workdir.open_workdir(directory, experiment, task.class_names)
        reporter = Reporter()
        initial = load_initial(experiment, task.model, directory)
        return loop.train(experiment, task, directory, reporter, initial), reporter.said


def saved(directory, step):
    with Checkpoints.reader(directory / CHECKPOINTS) as checkpoints:
        return checkpoints.restore(step, checkpoints.structure(step))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A work directory with weights of ten classes, raw and averaged ones."""
    directory = tmp_path_factory.mktemp("weights") / "run"
    experiment = tiny_experiment(directory, model=ModelConfig("mobilevit_xxs", num_classes=10))
    workdir.open_workdir(directory, experiment, tuple("abcdefghij"))
    with Checkpoints(directory / CHECKPOINTS, metric="top1") as checkpoints:
        state = {**random_variables(tiny_model(10), 1), "ema": random_variables(tiny_model(10), 2)}
        checkpoints.save(7, state, metadata={"epoch": 1})
    return directory


@pytest.fixture(scope="module")
def fine_tuned(data_dir, weights, tmp_path_factory):
    """A run of two epochs from those weights, frozen: (experiment, directory, what it said)."""
    experiment = tiny_experiment(
        data_dir,
        data=dataclasses.replace(tiny_experiment(data_dir).data, test=None),
        init_from=str(weights),
        model=ModelConfig("mobilevit_xxs", freeze_backbone=True),
    )
    directory = tmp_path_factory.mktemp("fine_tuned") / "run"
    outcome, said = run(experiment, directory)
    assert outcome.finished
    return experiment, directory, said


class TestRun:
    def test_starts_from_the_average(self, fine_tuned, weights):
        """What is frozen is in every checkpoint as it was; the classifier is of the new classes."""
        _, directory, said = fine_tuned
        assert said[:3] == [
            f"starting from {weights}: EMA weights of step 7",
            "classifier: 10 -> 8 classes, initialised anew",
            "compiling 32x32, batch 16 (1/1)",
        ]
        given, found = flat(saved(weights, 7)["ema"]), saved(directory, 8)
        for variables in (found, found["ema"]):
            for path, value in flat({k: variables[k] for k in ("params", "batch_stats")}).items():
                if path[1] != "classifier":
                    np.testing.assert_array_equal(value, given[path])
        assert found["params"]["classifier"]["kernel"].shape == (16, 8)
        first = saved(directory, 4)["params"]["classifier"]["kernel"]
        assert np.abs(found["params"]["classifier"]["kernel"] - first).min() > 0

    @pytest.mark.slow
    def test_resuming_needs_the_weights_no_more(self, fine_tuned, weights, tmp_path):
        experiment, directory, _ = fine_tuned
        shutil.copytree(directory, tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / CHECKPOINTS / "8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fine_tuning, "load_weights", lambda source: pytest.fail("loaded again"))
            outcome, said = run(experiment, tmp_path / "run")
        assert outcome.finished and said[0].startswith("resuming from step 4")
        assert not any(line.startswith(("starting", "classifier")) for line in said)
        jax.tree.map(np.testing.assert_array_equal, saved(tmp_path / "run", 8), saved(directory, 8))

    def test_weights_that_do_not_fit_are_refused_before_anything_compiles(
        self, data_dir, weights, tmp_path
    ):
        experiment = tiny_experiment(
            data_dir, init_from=str(weights), model=ModelConfig("mobilevit_xxs", kernel_size=5)
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "begin", lambda *_: pytest.fail("compiled"))
            with pytest.raises(ConfigurationError, match="set model.kernel_size to 3"):
                run(experiment, tmp_path)

    def test_the_loop_does_not_start_from_scratch_instead(self, data_dir, weights, tmp_path):
        experiment = tiny_experiment(data_dir, init_from=str(weights))
        with pytest.raises(ConfigurationError, match="init_from names .* no weights were loaded"):
            loop.train(experiment, ClassificationTask(experiment), tmp_path, Reporter())

    def test_nothing_is_loaded_where_nothing_is_named(self, tmp_path):
        assert load_initial(tiny_experiment(tmp_path), tiny_model(), tmp_path) is None

    def test_a_frozen_backbone_from_scratch_is_told(self, tmp_path):
        experiment = tiny_experiment(tmp_path, model=ModelConfig(freeze_backbone=True))
        initial = load_initial(experiment, tiny_model(), tmp_path)
        assert initial is not None and not initial.values
        assert initial.notes == (
            "the backbone is frozen as it was initialised: no init_from names weights",
        )

    def test_a_checkpoint_half_written_is_none(self, data_dir, weights, tmp_path, monkeypatch):
        (tmp_path / CHECKPOINTS / "8.orbax-checkpoint-tmp-1").mkdir(parents=True)
        monkeypatch.setattr(ModelConfig, "build", build_tiny)
        experiment = tiny_experiment(data_dir, init_from=str(weights))
        assert load_initial(experiment, tiny_model(8), tmp_path) is not None
        (tmp_path / CHECKPOINTS / "8").mkdir()
        assert load_initial(experiment, tiny_model(8), tmp_path) is None
