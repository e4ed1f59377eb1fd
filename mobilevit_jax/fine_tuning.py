"""Where a run starts that does not start from scratch: other weights, checked and taken over."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from mobilevit_jax.convert.tensors import listed
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.model import Head, Model
from mobilevit_jax.models.problem_types import SINGLE_LABEL, problem_type_of
from mobilevit_jax.models.registry import head_named, head_of, model_name, options_of
from mobilevit_jax.models.variables import Shape, variable_shapes
from mobilevit_jax.pretrained import Pretrained, load_weights
from mobilevit_jax.tasks.class_names import is_by_class, order_of, with_classes_in_order
from mobilevit_jax.tasks.settings import TaskSettings
from mobilevit_jax.training.initial_weights import InitialWeights
from mobilevit_jax.training.optimizer import BACKBONE
from mobilevit_jax.training.pytree import LeafPath, leaves, params_first
from mobilevit_jax.training.workdir import saved_steps

# Options that decide which parameters a model has, and those that only change what it does.
_SHAPING = ("fusion", "kernel_size", "stem")
_SHAPELESS = (
    *("anchor_config", "patch_sizes", "implementation", "output_stride", "aspp_rates"),
    "align_corners",
)
_SHOWN = 5


def load_initial(
    experiment: TaskSettings,
    model: nn.Module,
    directory: Path,
    class_names: tuple[str, ...] = (),
) -> InitialWeights | None:
    """Loads the weights that a run starts from, unless it goes on from a checkpoint.

    Nothing is compiled or written, so that a mistake costs seconds. Half precision is widened,
    which is exact.

    Args:
        experiment: The resolved experiment.
        model: Its model.
        directory: The work directory; if it holds a checkpoint, nothing is loaded.
        class_names: Of the data set; a head that fits is put into their order.

    Returns:
        The weights, or None where the run needs none.

    Raises:
        ConfigurationError: If the weights are of another model but for the head, were trained on
            other channels, or share only a part of the classes with the data set and have as many;
            or as `pretrained.load_weights` does.
        DataError: As `pretrained.load_weights` does.
    """
    if saved_steps(directory):
        return None
    if experiment.init_from is None:
        note = "the backbone is frozen as it was initialised: no init_from names weights"
        return InitialWeights({}, (note,)) if experiment.model.freeze_backbone else None
    loaded = load_weights(experiment.init_from, allow_half=True)
    _check_pixels(loaded, experiment)
    return _fitted(loaded, experiment, model, class_names)


def _fitted(
    loaded: Pretrained, experiment: TaskSettings, model: nn.Module, class_names: tuple[str, ...]
) -> InitialWeights:
    """Returns what a run takes of weights, its head initialised anew where theirs is another."""
    values = {path: np.asarray(value) for path, value in leaves(loaded.variables).items()}
    found = {path: value.shape for path, value in values.items()}
    expected = variable_shapes(model)
    another = _head_name(loaded.model) != _head_name(model)
    heads = _compare_heads(
        found, expected, anew=another or problem_type_of(loaded.model) != SINGLE_LABEL
    )
    fresh = set(heads.missing) & set(BACKBONE)
    if experiment.model.freeze_backbone and fresh:
        raise ConfigurationError(
            f"{experiment.init_from} has no {', '.join(sorted(fresh))}, which would stay as it was "
            "drawn: set model.freeze_backbone off, or start from weights of a classifier"
        )
    kept = {path: shape for path, shape in found.items() if not heads.differs(path)}
    wanted = {path: shape for path, shape in expected.items() if not heads.differs(path)}
    _check_fit(kept, wanted, experiment, loaded.model, model)
    head = head_named(experiment.model.name)
    matched, names_note = _matched({path: values[path] for path in kept}, head, loaded, class_names)
    notes = (
        f"starting from {experiment.init_from}: {loaded.description}",
        *loaded.notes,
        *_notes_on_heads(heads, loaded.model, model),
        *_notes_on_options(loaded.model, model),
        *names_note,
    )
    # Variables are float32, whatever type the model computes in.
    taken = {path: value.astype(np.float32, copy=False) for path, value in matched.items()}
    return InitialWeights(taken, notes)


@dataclass(frozen=True)
class _Heads:
    """How the parts of two models differ, but for the backbone.

    Attributes:
        left_out: First names of paths that only the weights have.
        missing: First names that only the run's model has.
        changed: Modules of a head that both have, with other shapes.
    """

    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    changed: tuple[LeafPath, ...]

    def differs(self, path: LeafPath) -> bool:
        """Whether a variable is no matter of both."""
        return path[1] in self.left_out + self.missing or path[1:-1] in self.changed


def _compare_heads(
    found: Mapping[LeafPath, Shape], expected: Mapping[LeafPath, Shape], *, anew: bool = False
) -> _Heads:
    """Compares heads module by module, so that other classes replace the last layer alone.

    Args:
        found: The weights.
        expected: The run's model.
        anew: Whether a head is another one, though it has the same shapes.
    """
    theirs, ours = ({path[1] for path in shapes} for shapes in (found, expected))
    # Without a backbone they are no weights of such a model at all.
    left_out, missing = (names - {"backbone"} for names in (theirs - ours, ours - theirs))
    both = (theirs & ours) - set(BACKBONE)
    unlike = found.items() | expected.items() if anew else found.items() ^ expected.items()
    changed = {path[1:-1] for path, _ in unlike if path[1] in both}
    return _Heads(tuple(sorted(left_out)), tuple(sorted(missing)), tuple(sorted(changed)))


def _check_pixels(loaded: Pretrained, experiment: TaskSettings) -> None:
    """Refuses weights that were trained on other pixels than the run's."""
    theirs, ours = loaded.processor, experiment.processor
    if theirs.do_flip_channel_order != ours.do_flip_channel_order:
        raise ConfigurationError(
            f"{experiment.init_from} expects channels in the order {theirs.channel_order}, but the "
            f"experiment's images are {ours.channel_order}: set processor.do_flip_channel_order "
            f"to {theirs.do_flip_channel_order}"
        )
    if (theirs.mean, theirs.std) != (ours.mean, ours.std):
        raise ConfigurationError(
            f"{experiment.init_from} expects images with mean {theirs.mean} and standard deviation "
            f"{theirs.std}, but the experiment's have {ours.mean} and {ours.std}: set "
            f"processor.mean and processor.std to those of the weights"
        )
    if not theirs.do_rescale or not math.isclose(theirs.rescale_factor, ours.rescale_factor):
        factor = theirs.rescale_factor if theirs.do_rescale else 1
        raise ConfigurationError(
            f"{experiment.init_from} expects pixels multiplied by {factor:g}, but training always "
            "scales them by 1/255; such weights cannot be trained further here"
        )


def _check_fit(
    found: Mapping[LeafPath, Shape],
    wanted: Mapping[LeafPath, Shape],
    experiment: TaskSettings,
    theirs: nn.Module,
    ours: nn.Module,
) -> None:
    both = found.keys() & wanted.keys()
    groups = {
        "missing": ["/".join(path) for path in params_first(wanted.keys() - both)],
        "not in this model": ["/".join(path) for path in params_first(found.keys() - both)],
        "of another shape": [
            f"{'/'.join(path)} {list(found[path])} instead of {list(wanted[path])}"
            for path in params_first(both)
            if found[path] != wanted[path]
        ],
    }
    if any(groups.values()):
        wrong = (f"{kind}: {listed(names, _SHOWN)}" for kind, names in groups.items() if names)
        raise ConfigurationError(
            f"{experiment.init_from} does not fit the experiment's {experiment.model.name} "
            f"({'; '.join(wrong)}); {_advice(theirs, ours)}"
        )


def _advice(theirs: Any, ours: Any) -> str:
    """Says which options of the experiment would make its model fit."""
    old, new = _options(theirs), _options(ours)
    changes = []
    name = model_name(theirs) if old.get("variant") != new.get("variant") else None
    if name:
        kept = head_of(ours).prefix
        changes.append(f"model.name to {kept}{name.removeprefix(head_of(theirs).prefix)}")
    changes += [
        f"model.{option} to {old[option]}"
        for option in _SHAPING
        if option in old and old[option] != new.get(option)
    ]
    if not changes:
        return "choose weights of the same model"
    return f"set {' and '.join(changes)}, or choose weights of the same model"


def _options(model: Any) -> dict[str, Any]:
    """Returns the options of a model of `create_model`, none of another module."""
    return options_of(model) if isinstance(model, Model) else {}


def _head_name(model: Any) -> str:
    return head_of(model).name if isinstance(model, Model) else ""


def _notes_on_heads(heads: _Heads, theirs: Any, ours: Any) -> list[str]:
    notes = []
    if heads.left_out:
        notes.append(f"{', '.join(heads.left_out)}: left out")
    if heads.missing:
        notes.append(f"{', '.join(heads.missing)}: not among the weights, initialised anew")
    if heads.changed and _head_name(theirs) != _head_name(ours):
        names = sorted({path[0] for path in heads.changed})
        notes.append(
            f"{', '.join(names)}: of another head ({_head_name(theirs)}), initialised anew"
        )
    elif heads.changed:
        before, now = theirs.num_classes, ours.num_classes
        why = f"{before} -> {now} classes" if before != now else "of another shape"
        if (meaning := problem_type_of(theirs)) != SINGLE_LABEL:
            why = f"of problem_type={meaning!r}"
        notes.append(f"{', '.join(map('/'.join, heads.changed))}: {why}, initialised anew")
    return notes


def _notes_on_options(theirs: Any, ours: Any) -> list[str]:
    """Tells of what changes the meaning of weights but not their shapes."""
    old, new = _options(theirs), _options(ours)
    return [
        f"{option}: {old[option]} where the weights are from, {new[option]} in this run"
        for option in _SHAPELESS
        if option in old and option in new and old[option] != new[option]
    ]


def _matched(
    kept: dict[LeafPath, np.ndarray], head: Head, loaded: Pretrained, ours: tuple[str, ...]
) -> tuple[dict[LeafPath, np.ndarray], list[str]]:
    """Puts a head that has as many classes into the order of the run's names; tells of it."""
    theirs = loaded.class_names
    places = [path for path in kept if is_by_class(head, path)]
    if not places or len(theirs) != len(ours) or theirs == ours:
        return kept, []
    count = loaded.model.num_classes
    new_head = (
        "start from weights with a new head, as from_pretrained(..., "
        f"num_classes={count}, replace_classifier=True) returns them"
    )
    order = order_of(loaded, ours, "the data set", new_head)
    if order is None:
        first = next(pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1])
        note = (
            f"the head is kept, though its {len(ours)} classes have other names there, such as "
            f"{first[0]!r} for {first[1]!r}"
        )
        return kept, [note]
    if order == tuple(range(len(order))):
        return kept, []
    turned = {path: with_classes_in_order(head, kept[path], order, count) for path in places}
    return kept | turned, [
        f"the head's {len(ours)} classes have another order there, and are matched by their names"
    ]
