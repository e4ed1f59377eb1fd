"""Weights that a run starts from in place of fresh ones."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mobilevit_jax.training.pytree import LeafPath, place
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
        def value(path: tuple[Any, ...], like: Any) -> Any:
            names = tuple(str(part.key) for part in path)
            return place(initial.values[names], like) if names in initial.values else like

        return jax.tree_util.tree_map_with_path(value, variables)

    variables = replaced(state.variables)
    ema = replaced(state.ema) if state.ema else state.ema
    return dataclasses.replace(state, **variables, ema=ema)
