"""One training step and one evaluation step, pure, to be mapped over devices by `parallel`."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training.parallel import AXIS, device_key
from mobilevit_jax.training.state import EMAConfig, TrainState, update_ema

Batch = dict[str, jax.Array]
Gradients = Callable[..., tuple[Any, tuple[Any, dict[str, jax.Array]]]]

# Folded into a step's key for what a task draws. Dropout uses the key itself, or with accumulation
# one with the part's number folded in, which this is none of.
_DRAWS_OF_TASK = 2**32 - 1


class Objective(Protocol):
    """What a task gives the step: its loss and the sums behind its metrics."""

    weights: ClassVar[tuple[str, ...]] = ()
    """Weights of parts of the loss, [b] each, that batches hold besides what the task is about."""
    counts_itself: ClassVar[bool] = False
    """Whether the number that losses are divided by follows from the outputs: `loss` then gives it
    as "count" [b], and `normaliser` is not asked."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the sums."""
        ...

    def prepare(self, batch: Batch, key: jax.Array) -> Batch:
        """Returns the batch with all that has no gradient done; by default as it is.

        `key` is for draws: it follows from the seed, the step and the device.
        """
        return batch

    def normaliser(self, batch: Batch) -> jax.Array:
        """Returns what each row adds to the number that losses and metrics are divided by [b].

        By default 1: the loss is the rows' mean.
        """
        return jnp.ones_like(batch["weight"])

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns losses [b] to be minimised and {metric: value [b]}, keys equal to `metrics`, and
        "count" if it counts itself."""
        ...

    def evaluate(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Returns {metric: value [b]} for evaluation; by default those of the loss."""
        return self.loss(outputs, batch)[1]


def to_float(images: jax.Array, processor: ImageProcessor | None = None) -> jax.Array:
    """Scales uint8 images to [0, 1] and normalises them; floats, the models' input, pass."""
    if images.dtype != jnp.uint8:
        return images
    scaled = images.astype(jnp.float32) / 255
    return processor.normalised(scaled) if processor else scaled


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    task: Objective,
    ema: EMAConfig,
    *,
    seed: int,
    accumulation: int = 1,
    processor: ImageProcessor | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds `step(state, batch) -> (state, {"loss"})` for `parallel.pmap_train`.

    Its batch holds "image" [b, h, w, 3], "weight" [b] and what the task needs; rows of weight 0
    count nowhere but in the batch norms' statistics. Losses and metrics are divided by the sum of
    `task.normaliser`, or of the loss's own "count", over the global batch, at least 1. `seed` is
    that of dropout and of the task's draws; `accumulation` the number of parts that a device's rows
    are split into; `processor` has the mean and standard deviation of uint8 images.
    """
    gradients = _gradients(model, task, processor)
    if accumulation > 1:
        gradients = _in_parts(gradients, task, accumulation)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = device_key(seed, state.step)
        batch = task.prepare(batch, jax.random.fold_in(key, _DRAWS_OF_TASK))
        scale = 1.0
        if not task.counts_itself:
            count = lax.psum(jnp.sum(batch["weight"] * task.normaliser(batch)), AXIS)
            scale = 1 / jnp.maximum(count, 1)
        grads, (statistics, sums) = gradients(state.params, state.batch_stats, batch, key, scale)
        # Each device holds its share of the global mean's gradient.
        grads, sums = lax.psum((grads, sums), AXIS)
        if task.counts_itself:
            count = sums.pop("count")
            grads = optax.tree.scale(1 / jnp.maximum(count, 1), grads)
        statistics = _mean_statistics(state.batch_stats, statistics)
        loss = sums["loss"] / jnp.maximum(count, 1)
        meter = _add_to_meter(state, sums, count, optax.tree.norm(grads), loss)
        return _advance(state, optimizer, ema, grads, statistics, meter), {"loss": loss}

    return step


def _gradients(model: nn.Module, task: Objective, processor: ImageProcessor | None) -> Gradients:
    """Returns `f(params, batch_stats, batch, key, scale) -> (grads, (batch_stats, sums))`."""

    def loss(params, batch_stats, batch, key, scale):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            to_float(batch["image"], processor),
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        losses, metrics = task.loss(outputs, batch)
        weight = batch["weight"]
        sums = {name: jnp.sum(weight * value) for name, value in metrics.items()}
        return scale * jnp.sum(weight * losses), (updates.get("batch_stats", {}), sums)

    return jax.grad(loss, has_aux=True)


def _in_parts(gradients: Gradients, task: Objective, parts: int) -> Gradients:
    """Returns the same function, adding up parts of the batch that are taken one after another."""

    def summed(params, batch_stats, batch, key, scale):
        def add(carry, part_and_index):
            (part, index), (total, statistics, sums) = part_and_index, carry
            part_key = jax.random.fold_in(key, index)
            grads, (statistics, more) = gradients(params, statistics, part, part_key, scale)
            return (optax.tree.add(total, grads), statistics, optax.tree.add(sums, more)), None

        split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)
        names = (*task.metrics, "count") if task.counts_itself else task.metrics
        no_sums = {name: jnp.zeros(()) for name in names}
        start = (optax.tree.zeros_like(params), batch_stats, no_sums)
        (total, statistics, sums), _ = lax.scan(add, start, (split, jnp.arange(parts)))
        return total, (statistics, sums)

    return summed


def _mean_statistics(old: Any, new: Any) -> Any:
    """Averages running statistics over the devices.

    By their change, so that those of a frozen part stay exactly what they are on any number of
    devices.
    """
    return jax.tree.map(lambda a, b: a + lax.pmean(b - a, AXIS), old, new)


def _advance(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    ema: EMAConfig,
    grads: Any,
    statistics: Any,
    meter: dict[str, jax.Array],
) -> TrainState:
    """Returns the state after the optimizer's update."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = update_ema(ema, state.ema, {"params": params, "batch_stats": statistics}, state.step)
    return dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        batch_stats=statistics,
        opt_state=opt_state,
        ema=average,
        meter=meter,
    )


def _add_to_meter(state, sums, count, gradient_norm, loss):
    more = {**sums, "count": count, "gradient_norm": gradient_norm, "steps": 1.0}
    meter = state.meter | {name: state.meter[name] + value for name, value in more.items()}
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    bad = jnp.where(finite, state.meter["bad_step"], state.step)
    return meter | {"bad_step": jnp.minimum(bad, state.meter["bad_step"])}


def make_evaluation_step(
    model: nn.Module, task: Objective, processor: ImageProcessor | None = None
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """Builds `step(variables, batch) -> sums` for `parallel.pmap_evaluate`.

    Rows of weight 0 (padding of the last batch) count nowhere.
    """

    def step(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        outputs = model.apply(variables, to_float(batch["image"], processor))
        weight = batch["weight"]
        values = task.evaluate(outputs, batch)
        sums = {name: jnp.sum(weight * value) for name, value in values.items()}
        return lax.psum(sums | {"count": jnp.sum(weight)}, AXIS)

    return step
