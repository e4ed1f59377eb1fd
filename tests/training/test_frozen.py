"""A frozen backbone: the model, the step, and what stays of them to the last bit."""

# Flax types what `apply` returns as a union, and NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false, reportCallIssue=false

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.training import parallel
from mobilevit_jax.training.optimizer import OptimizerConfig, create_optimizer
from mobilevit_jax.training.state import EMAConfig, state_from
from mobilevit_jax.training.step import _mean_statistics, make_train_step
from tests.small import Objective, batch_of, random_variables, tiny_model

# Rates that any use of them would show, and 0 before the classifier, so that outputs repeat.
MODEL = tiny_model(
    freeze_backbone=True,
    dropout=0.5,
    attention_dropout=0.5,
    ffn_dropout=0.5,
    classifier_dropout=0.0,
)
VARIABLES = random_variables(MODEL)
IMAGES = batch_of(4, 32)["image"]
# Compiled in half the time.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def loss(params, images, train):
    variables = {**VARIABLES, "params": params}
    logits, updates = MODEL.apply(variables, images, train, mutable=["batch_stats"])
    return jnp.sum(logits**2), (logits, updates["batch_stats"])


@pytest.fixture(scope="module")
def in_training():
    """Logits, statistics and gradients of the parameters in training mode."""
    run = compiled(jax.value_and_grad(functools.partial(loss, train=True), has_aux=True))
    (_, (logits, statistics)), gradients = run(VARIABLES["params"], IMAGES)
    return logits, statistics, gradients


def convolutions(function):
    """Counts the convolutions of a function of the images, without compiling it."""
    return str(jax.make_jaxpr(function)(IMAGES)).count("conv_general_dilated[")


def assert_identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


class TestModel:
    def test_training_below_the_classifier_is_evaluation(self, in_training):
        logits, statistics, _ = in_training
        evaluated = compiled(lambda: MODEL.apply(VARIABLES, IMAGES))()
        np.testing.assert_allclose(logits, evaluated, rtol=1e-4, atol=1e-5)
        assert_identical(statistics, VARIABLES["batch_stats"])

    def test_only_the_classifier_has_gradients(self, in_training):
        params = dict(in_training[2])
        for gradient in jax.tree.leaves(params.pop("classifier")):
            assert np.abs(gradient).min() > 0
        assert not any(np.any(gradient) for gradient in jax.tree.leaves(params))

    @pytest.mark.parametrize("train", [False, True])
    def test_only_training_drops_the_backward_pass(self, train):
        """Saliency maps of a fine-tuned model need the gradient in evaluation mode."""

        def total(images):
            return loss(VARIABLES["params"], images, train)[0]

        forward, both = convolutions(total), convolutions(jax.grad(total))
        assert 0 < forward and (both == forward if train else both > 1.5 * forward)

    def test_dropout_before_the_classifier_stays(self):
        model = MODEL.clone(classifier_dropout=0.5)

        def drawn(seed):
            key = {"dropout": jax.random.key(seed)}
            return model.apply(VARIABLES, IMAGES, True, rngs=key, mutable=["batch_stats"])[0]

        first, second = compiled(lambda: (drawn(0), drawn(1)))()
        assert np.abs(first - second).max() > 1e-3


@pytest.fixture(scope="module")
def trained():
    """Three steps on four devices with decay: (state before, state after)."""
    optimizer = create_optimizer(
        OptimizerConfig(weight_decay=0.5), lambda step: jnp.float32(0.01), freeze_backbone=True
    )
    ema = EMAConfig(decay=0.9)
    before = state_from(VARIABLES, optimizer, ema, ("loss",))
    step = parallel.pmap_train(make_train_step(MODEL, optimizer, Objective(), ema, seed=0))
    after = parallel.replicate(before)
    for seed in range(3):
        after, _ = step(after, parallel.shard(batch_of(8, 32, seed=seed)))
    return before, after


class TestSteps:
    def test_nothing_moves_but_the_classifier(self, trained):
        """To the last bit: parameters in spite of decay, statistics, and the averages of both."""
        before, after = trained
        for old, new in ((before.variables, after.variables), (before.ema, after.ema)):
            old, new = ({**v, "params": dict(v["params"])} for v in (old, new))
            heads = [v["params"].pop("classifier") for v in (old, new)]
            assert_identical(old, jax.device_get(new))
            for a, b in zip(*map(jax.tree.leaves, heads), strict=True):
                assert np.abs(a - b).min() > 0

    def test_only_the_classifier_has_moments(self, trained):
        held = [leaf for leaf in jax.tree.leaves(trained[1].opt_state) if leaf.ndim]
        assert sorted(leaf.shape for leaf in held) == [(6,), (6,), (16, 6), (16, 6)]


@pytest.mark.parametrize("devices", [1, 3, 7])
def test_statistics_that_do_not_move_survive_the_mean_over_devices(devices):
    """A sum of equal numbers, divided by how many they are, is often another number."""
    rng = np.random.default_rng(0)
    old = {"still": rng.standard_normal(1000, np.float32), "moved": np.ones(2, np.float32)}
    moved = rng.standard_normal((devices, 2), np.float32)
    new = {"still": np.broadcast_to(old["still"], (devices, 1000)), "moved": moved}
    mean = jax.vmap(_mean_statistics, (None, 0), None, axis_name=parallel.AXIS)(old, new)
    np.testing.assert_array_equal(mean["still"], old["still"])
    np.testing.assert_allclose(mean["moved"], moved.mean(0), rtol=1e-5, atol=1e-6)
