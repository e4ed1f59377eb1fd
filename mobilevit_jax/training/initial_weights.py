"""Weights that a run starts from in place of fresh ones."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobilevit_jax.training.pytree import LeafPath, fill, leaves, place
from mobilevit_jax.training.state import TrainState


@dataclass(frozen=True)
class InitialWeights:
    """Weights that take the place of fresh ones.

    Attributes:
        values: {path in the variables: array}; what is absent stays as it was initialised.
        notes: What the user should know, one line each.
    """

    values: Mapping[LeafPath, np.ndarray]
    notes: tuple[str, ...]


def start_from(state: TrainState, initial: InitialWeights) -> TrainState:
    """Returns a fresh state with the weights, and their average, replaced."""

    def replaced(variables: dict[str, Any]) -> dict[str, Any]:
        like, values = leaves(variables), initial.values
        return fill(variables, {p: place(values[p], like[p]) for p in values.keys() & like.keys()})

    variables = replaced(state.variables)
    ema = replaced(state.ema) if state.ema else state.ema
    return dataclasses.replace(state, **variables, ema=ema)
