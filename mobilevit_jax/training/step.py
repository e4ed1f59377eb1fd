"""One training step and one evaluation step, pure, to be mapped over devices by `parallel`."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from mobilevit_jax.training.parallel import AXIS, device_key
from mobilevit_jax.training.state import EMAConfig, TrainState, update_ema

Batch = dict[str, jax.Array]


class Objective(Protocol):
    """What a task gives the step: its loss and the sums behind its metrics."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the sums."""
        ...

    def loss(self, outputs: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns losses [b] to be minimised and {metric: value [b]}, keys equal to `metrics`."""
        ...

    def evaluate(self, outputs: Any, batch: Batch) -> dict[str, jax.Array]:
        """Returns {metric: value [b]} for evaluation."""
        ...


def to_float(images: jax.Array) -> jax.Array:
    """Scales uint8 images to [0, 1], the models' input; floats pass as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    task: Objective,
    ema: EMAConfig,
    *,
    seed: int,
    accumulation: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds `step(state, batch) -> (state, {"loss"})` for `parallel.pmap_train`.

    Args:
        model: The model.
        optimizer: The optimizer.
        task: Loss and metrics.
        ema: The weights' average.
        seed: Seed of the dropout.
        accumulation: Parts that a device's rows are split into.

    Returns:
        The step. Its batch holds "image" [b, h, w, 3], "weight" [b] and what the task needs; rows
        of weight 0 count nowhere but in the batch norms' statistics.
    """

    def loss_of_part(params, batch_stats, batch, key, scale):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            to_float(batch["image"]),
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        losses, metrics = task.loss(outputs, batch)
        weight = batch["weight"]
        sums = {name: jnp.sum(weight * value) for name, value in metrics.items()}
        return scale * jnp.sum(weight * losses), (updates.get("batch_stats", {}), sums)

    def gradients(state: TrainState, batch: Batch, scale: jax.Array):
        """Sums over `accumulation` parts, one after another."""
        key = device_key(seed, state.step)
        parts = jax.tree.map(
            lambda x: x.reshape(accumulation, x.shape[0] // accumulation, *x.shape[1:]), batch
        )

        def add_part(carry, part_and_index):
            (part, index), (total, batch_stats, sums) = part_and_index, carry
            part_key = jax.random.fold_in(key, index)
            grads, (batch_stats, more) = jax.grad(loss_of_part, has_aux=True)(
                state.params, batch_stats, part, part_key, scale
            )
            return (optax.tree.add(total, grads), batch_stats, optax.tree.add(sums, more)), None

        if accumulation == 1:
            grads, (batch_stats, sums) = jax.grad(loss_of_part, has_aux=True)(
                state.params, state.batch_stats, batch, key, scale
            )
            return grads, batch_stats, sums
        zeros = optax.tree.zeros_like(state.params)
        no_sums = {name: jnp.zeros(()) for name in task.metrics}
        carry, _ = lax.scan(
            add_part, (zeros, state.batch_stats, no_sums), (parts, jnp.arange(accumulation))
        )
        return carry

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        count = lax.psum(jnp.sum(batch["weight"]), AXIS)
        grads, batch_stats, sums = gradients(state, batch, 1 / jnp.maximum(count, 1))
        # Each device holds its share of the global mean's gradient.
        grads, sums = lax.psum((grads, sums), AXIS)
        batch_stats = lax.pmean(batch_stats, AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        loss = sums["loss"] / jnp.maximum(count, 1)
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=update_ema(
                ema, state.ema, {"params": params, "batch_stats": batch_stats}, state.step
            ),
            meter=_add_to_meter(state, sums, count, optax.tree.norm(grads), loss),
        )
        return new, {"loss": loss}

    return step


def _add_to_meter(state, sums, count, gradient_norm, loss):
    more = {**sums, "count": count, "gradient_norm": gradient_norm, "steps": 1.0}
    meter = {name: state.meter[name] + value for name, value in more.items()}
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    bad = jnp.where(finite, state.meter["bad_step"], state.step)
    return meter | {"bad_step": jnp.minimum(bad, state.meter["bad_step"])}


def make_evaluation_step(
    model: nn.Module, task: Objective
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """Builds `step(variables, batch) -> sums` for `parallel.pmap_evaluate`.

    Rows of weight 0 (padding of the last batch) count nowhere.
    """

    def step(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        outputs = model.apply(variables, to_float(batch["image"]))
        weight = batch["weight"]
        values = task.evaluate(outputs, batch)
        sums = {name: jnp.sum(weight * value) for name, value in values.items()}
        return lax.psum(sums | {"count": jnp.sum(weight)}, AXIS)

    return step
