# Flax types what `apply` returns as a union, and NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false, reportCallIssue=false

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training import parallel
from mobilevit_jax.training.losses import cross_entropy
from mobilevit_jax.training.optimizer import OptimizerConfig, create_optimizer
from mobilevit_jax.training.state import NEVER, EMAConfig, empty_meter, state_from
from mobilevit_jax.training.step import make_evaluation_step, make_train_step, to_float
from tests.small import LinearNet, Objective, SmallNet, batch_of, random_variables

NO_EMA = EMAConfig(decay=0.0)
SYNCHRONISED = SmallNet(bn_axis_name=parallel.AXIS)


def plain_gradient_descent():
    """One whose update is the gradient itself, so that a step shows it."""
    return optax.sgd(1.0)


class Run:
    """A model's step, its initial state, and calls of the one on the other."""

    def __init__(self, model, ema=NO_EMA, optimizer=None, objective=None, seed=0, **options):
        optimizer = optimizer or plain_gradient_descent()
        objective = objective or Objective()
        self.state = state_from(random_variables(model), optimizer, ema, objective.metrics)
        self.step = make_train_step(model, optimizer, objective, ema, seed=seed, **options)

    @functools.cached_property
    def mapped(self):
        return parallel.pmap_train(self.step)

    def on_devices(self, batch, state=None):
        """Takes one step on the four devices."""
        state = parallel.replicate(self.state if state is None else state)
        return self.mapped(state, parallel.shard(batch))

    def on_one_device(self, batch):
        """Takes one step as a single device would: the same step, mapped over one."""
        mapped = jax.vmap(self.step, (None, 0), (None, None), axis_name=parallel.AXIS, axis_size=1)
        return jax.jit(mapped)(self.state, jax.tree.map(lambda x: x[None], batch))


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def weighted_loss(params, model, batch):
    losses = cross_entropy(model.apply({"params": params}, batch["image"]), batch["label"], 0.1)
    return jnp.sum(losses * batch["weight"]) / jnp.sum(batch["weight"])


class TestGradient:
    run = Run(LinearNet())

    def test_is_that_of_the_mean_over_all_devices(self):
        batch = batch_of(8)
        state, metrics = self.run.on_devices(batch)
        loss, gradient = jax.value_and_grad(weighted_loss)(
            self.run.state.params, LinearNet(), batch
        )
        taken = jax.tree.map(jnp.subtract, self.run.state.params, state.params)
        assert_close(taken, gradient)
        assert_close(metrics["loss"], loss)
        assert int(state.step) == 1

    def test_rows_of_weight_0_count_nowhere(self):
        """Even where one device has none of weight 1, and the others different numbers."""
        batch = batch_of(8)
        batch["weight"][[0, 1, 2]] = 0
        other = {name: array.copy() for name, array in batch.items()}
        other["image"][:3] = 0.5
        other["label"][:3] = 5 - other["label"][:3]
        (state, metrics), (same, _) = self.run.on_devices(batch), self.run.on_devices(other)
        assert_close(state.params, same.params, rtol=0, atol=0)
        loss, gradient = jax.value_and_grad(weighted_loss)(
            self.run.state.params, LinearNet(), batch
        )
        assert_close(jax.tree.map(jnp.subtract, self.run.state.params, state.params), gradient)
        assert_close(metrics["loss"], loss)
        assert float(state.meter["count"]) == 5

    def test_a_batch_without_weight_changes_nothing(self):
        batch = batch_of(8) | {"weight": np.zeros(8, np.float32)}
        state, metrics = self.run.on_devices(batch)
        assert_close(state.params, self.run.state.params, rtol=0, atol=0)
        assert float(metrics["loss"]) == 0 and int(state.meter["bad_step"]) == NEVER

    def test_bytes_are_scaled_on_the_device(self):
        batch = batch_of(8)
        pixels = np.random.default_rng(0).integers(0, 256, batch["image"].shape, np.uint8)
        from_bytes, _ = self.run.on_devices(batch | {"image": pixels})
        from_floats, _ = self.run.on_devices(batch | {"image": np.float32(pixels) / 255})
        assert_close(from_bytes.params, from_floats.params)
        assert float(to_float(jnp.uint8(255))) == 1.0

    def test_bytes_are_normalised_on_the_device(self):
        """In training and in evaluation, as the processor does for prediction."""
        processor = ImageProcessor(mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
        batch = batch_of(8)
        pixels = np.random.default_rng(0).integers(0, 256, batch["image"].shape, np.uint8)
        floats = {**batch, "image": processor.normalised(np.float32(pixels) / 255)}
        run = Run(LinearNet(), processor=processor)
        from_bytes, _ = run.on_devices({**batch, "image": pixels})
        from_floats, _ = run.on_devices(floats)
        assert_close(from_bytes.params, from_floats.params)
        step = parallel.pmap_evaluate(make_evaluation_step(LinearNet(), Objective(), processor))
        variables = parallel.replicate(run.state.variables)
        assert_close(
            step(variables, parallel.shard({**batch, "image": pixels})),
            step(variables, parallel.shard(floats)),
        )


class TestDevices:
    """With synchronised batch norm, how a batch is split makes no difference."""

    optimizer = create_optimizer(OptimizerConfig(), lambda step: jnp.float32(1e-3))
    run = Run(SYNCHRONISED, EMAConfig(decay=0.9), optimizer)

    def test_four_devices_equal_one(self):
        batch = batch_of(8)
        four, one = self.run.on_devices(batch), self.run.on_one_device(batch)
        assert_close(four, one, rtol=1e-5, atol=1e-5)

    def test_unsynchronised_statistics_are_averaged(self):
        batch = batch_of(8)
        state, _ = Run(SmallNet(), optimizer=self.optimizer).on_devices(batch)
        own = [
            SmallNet().apply(
                {"params": state_params, "batch_stats": stats},
                batch["image"][2 * device : 2 * device + 2],
                True,
                mutable=["batch_stats"],
            )[1]["batch_stats"]["norm"]
            for device in range(4)
            for state_params, stats in [(self.run.state.params, self.run.state.batch_stats)]
        ]
        for name, value in state.batch_stats["norm"].items():
            assert_close(value, np.mean([stats[name] for stats in own], 0))
            for piece in value.addressable_shards:  # identical, not only said to be
                np.testing.assert_array_equal(piece.data, value)


class TestAccumulation:
    def test_equals_the_whole_batch(self):
        batch = batch_of(16)
        batch["weight"][:3] = 0  # parts of different weight
        whole, loss = Run(LinearNet()).on_devices(batch)
        parts, loss_of_parts = Run(LinearNet(), accumulation=2).on_devices(batch)
        assert_close(parts, whole)
        assert_close(loss_of_parts, loss)

    def test_batch_norm_sees_one_part_at_a_time(self):
        batch = batch_of(8)
        run = Run(SYNCHRONISED, accumulation=2)
        state, _ = run.on_one_device(batch)
        variables = run.state.variables
        for part in (batch["image"][:4], batch["image"][4:]):
            _, updates = SmallNet().apply(variables, part, True, mutable=["batch_stats"])
            variables = {"params": variables["params"], **updates}
        assert_close(state.batch_stats, variables["batch_stats"])


class TestAverage:
    @pytest.mark.parametrize("warmup", [False, True])
    def test_follows_parameters_and_statistics(self, warmup):
        config = EMAConfig(decay=0.9, warmup=warmup)
        run = Run(SYNCHRONISED, config, optax.sgd(0.5))
        state, expected = run.state, run.state.ema
        for step in range(3):
            state, _ = run.on_devices(batch_of(8, seed=step), state)
            decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
            expected = jax.tree.map(
                lambda old, new, d=decay: d * old + (1 - d) * new, expected, state.variables
            )
            assert_close(state.ema, expected)
        moved = (
            state.ema["batch_stats"]["norm"]["mean"] - run.state.ema["batch_stats"]["norm"]["mean"]
        )
        assert np.abs(moved).max() > 1e-3


def test_one_trace_a_scale():
    """Whatever the order of scales, and with the meter put back to zero in between."""
    traces = []

    class Watched(Objective):
        def loss(self, outputs, batch):
            traces.append(batch["image"].shape)
            return super().loss(outputs, batch)

    run = Run(SmallNet(), EMAConfig(), objective=Watched())
    state = parallel.replicate(run.state)
    for number, (size, count) in enumerate([(16, 8), (24, 4), (16, 8), (24, 4), (24, 4), (16, 8)]):
        state, _ = run.mapped(state, parallel.shard(batch_of(count, size)))
        if number % 2:
            state = state.replace(meter=parallel.replicate(empty_meter(("loss",))))
    assert sorted(traces) == [(1, 24, 24, 3), (2, 16, 16, 3)]


class NoisyNet(nn.Module):
    """Logits that are dropout alone."""

    @nn.compact
    def __call__(self, images, train=False):
        scale = self.param("scale", nn.initializers.ones, (64,))
        x = jnp.ones((len(images), 64)) * scale[None]
        return nn.Dropout(0.5)(x, deterministic=not train)


class Spread(Objective):
    """Reports how each device's rows were dropped."""

    metrics = ("loss", *(f"row_{row}" for row in range(4)))

    def loss(self, outputs, batch):
        code = outputs @ jnp.arange(64.0)
        rows = {f"row_{row}": code * (batch["label"] == row) for row in range(4)}
        return code, {"loss": code, **rows}


@pytest.mark.parametrize("parts", [1, 2])
def test_dropout_differs_by_seed_step_device_and_part_and_repeats(parts):
    batch = batch_of(4 * parts) | {"label": np.arange(4 * parts)}

    def drawn(run, step):
        state, _ = run.on_devices(batch, run.state.replace(step=np.int32(step)))
        return tuple(float(state.meter[f"row_{row}"]) for row in range(4))

    run, other = (
        Run(NoisyNet(), objective=Spread(), seed=seed, accumulation=parts) for seed in (0, 1)
    )
    first, second, reseeded = drawn(run, 0), drawn(run, 1), drawn(other, 0)
    assert len({*first, *second, *reseeded}) == 12
    assert drawn(run, 0) == first and drawn(run, 1) == second


class TestMeter:
    run = Run(LinearNet())

    def test_sums_until_it_is_emptied(self):
        state, total, norms = self.run.state, 0.0, 0.0
        batch = batch_of(8)
        batch["weight"][0] = 0
        for _ in range(2):
            before = state.params
            state, metrics = self.run.on_devices(batch, state)
            total += 7 * float(metrics["loss"])
            norms += float(optax.tree.norm(jax.tree.map(jnp.subtract, before, state.params)))
        sums = {name: float(value) for name, value in state.meter.items()}
        assert (sums["count"], sums["steps"], sums["bad_step"]) == (14, 2, NEVER)
        np.testing.assert_allclose((sums["loss"], sums["gradient_norm"]), (total, norms), rtol=1e-5)

    def test_the_first_step_without_a_finite_loss_stays(self):
        good = batch_of(8)
        bad = good | {"image": np.full_like(good["image"], np.inf)}
        state = dataclasses.replace(self.run.state, step=np.int32(5))
        for batch, expected in ((good, NEVER), (bad, 6), (bad, 6), (good, 6)):
            state, _ = self.run.on_devices(batch, state)
            assert int(state.meter["bad_step"]) == expected

    def test_a_gradient_that_is_not_finite_counts_too(self):
        """Or the weights that it spoils would be saved as good ones."""

        class Steep(Objective):
            def loss(self, outputs, batch):
                losses = jnp.sum(jnp.sqrt(jnp.abs(outputs - outputs)), -1)  # gradient of sqrt at 0
                return losses, {"loss": losses}

        state, metrics = Run(LinearNet(), objective=Steep()).on_devices(batch_of(8))
        assert float(metrics["loss"]) == 0 and int(state.meter["bad_step"]) == 0


def test_evaluation_step_leaves_out_padding_and_training_mode():
    model, batch = SmallNet(dropout=0.5), batch_of(8)
    variables = random_variables(model)
    batch["weight"][5:] = 0
    step = parallel.pmap_evaluate(make_evaluation_step(model, Objective()))
    sums = step(variables, parallel.shard(batch))
    losses = cross_entropy(model.apply(variables, batch["image"]), batch["label"])
    assert float(sums["count"]) == 5
    np.testing.assert_allclose(sums["loss"], np.asarray(losses)[:5].sum(), rtol=1e-5)
