"""Loss and metrics of classification; needs jax, flax and optax alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from mobilevit_jax.training.losses import cross_entropy
from mobilevit_jax.training.step import Batch, Objective


@dataclass(frozen=True)
class ClassificationObjective(Objective):
    """Loss and metrics, as the steps take them.

    Attributes:
        label_smoothing: In training only; evaluation reports plain cross-entropy.
        mix: Mixes the images of a training batch in pairs, as `mixing.mix_pairs` does with a
            configuration; None leaves them.
    """

    metrics: ClassVar[tuple[str, ...]] = ("loss", "top1", "top5")

    label_smoothing: float = 0.1
    mix: Callable[[Batch, jax.Array], Batch] | None = None

    def prepare(self, batch: Batch, key: jax.Array) -> Batch:
        """Returns the batch, mixed in pairs if it is to be."""
        return batch if self.mix is None else self.mix(batch, key)

    def loss(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns losses [b] and {"loss", "top1", "top5"}, each [b]; `outputs` are logits.

        An image that was mixed has two labels, and all are the means over both by their shares.
        """

        def of(labels: jax.Array) -> dict[str, jax.Array]:
            losses = cross_entropy(outputs, labels, self.label_smoothing)
            return {"loss": losses} | hits(outputs, labels)

        values = of(batch["label"])
        if self.mix is not None:
            share, others = batch["share"], of(batch["other_label"])
            values = {n: share * own + (1 - share) * others[n] for n, own in values.items()}
        return values["loss"], values

    def evaluate(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Returns {"loss", "top1", "top5"}, each [b], the loss without label smoothing."""
        losses = cross_entropy(outputs, batch["label"])
        return {"loss": losses} | hits(outputs, batch["label"])


def hits(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Returns {"top1", "top5"}: 1.0 where the label is among the highest, [b] each.

    Of equal scores the lower index counts as higher, so that a model with constant outputs is not
    always right; nor is one whose outputs are NaN.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    index = jnp.arange(logits.shape[-1])[None]
    ahead = (logits > own) | ((logits == own) & (index < labels[:, None]))
    rank = jnp.sum(ahead, axis=-1)
    # A comparison with NaN is false.
    rank = jnp.where(jnp.isnan(logits).any(-1), logits.shape[-1], rank)
    return {"top1": jnp.float32(rank < 1), "top5": jnp.float32(rank < 5)}
