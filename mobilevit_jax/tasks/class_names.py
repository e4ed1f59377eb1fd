"""Classes of weights and of data, which belong together by their names and not by their places."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flax import traverse_util

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.model import Head
from mobilevit_jax.models.registry import head_named
from mobilevit_jax.tasks.pretrained import Pretrained

_SHOWN = 3


def match_names(weights: Sequence[str], data: Sequence[str]) -> tuple[int, ...] | None:
    """Finds the classes of a data set among those of weights, as many.

    The strictest reading by which all are found counts: names as they are; without capitals and
    spaces; without signs either and what stands in brackets at the end ("c++" and "c" are two
    classes where both sides have both); one synonym in common ("tench, Tinca tinca").

    Returns:
        The place among the weights' classes of each of the data's; None if they share no name.

    Raises:
        ConfigurationError: If they share some names and not all of them, or a name that is at
            several places of both.
    """
    for form in (str, _folded, _plain):
        ours, theirs = list(map(form, weights)), list(map(form, data))
        if ours == theirs and not _exchanged(weights, data):
            return tuple(range(len(ours)))
        if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
            place_of = {name: place for place, name in enumerate(ours)}
            return tuple(place_of[name] for name in theirs)
    places: dict[str, set[int]] = {}
    for place, name in enumerate(weights):
        for synonym in _synonyms(name):
            places.setdefault(synonym, set()).add(place)
    shared = [set[int]().union(*(places.get(s, ()) for s in _synonyms(name))) for name in data]
    if sorted(map(tuple, shared)) == [(place,) for place in range(len(weights))]:
        return tuple(place for (place,) in shared)
    if not any(shared):
        return None
    known = set[int]().union(*shared)
    lists = [
        _quoted(name for name, its_places in zip(data, shared, strict=True) if not its_places),
        _quoted(name for place, name in enumerate(weights) if place not in known),
    ]
    if not any(lists):
        raise ConfigurationError("both have the same names, some of them twice, in another order")
    raise ConfigurationError(
        f"only the data have {lists[0] or 'none'}, only the weights {lists[1] or 'none'}, and they "
        "share other names"
    )


def _exchanged(weights: Sequence[str], data: Sequence[str]) -> bool:
    """Whether a place has names that both stand elsewhere on the other side ("c++" and "c")."""
    ours, theirs = list(map(_folded, weights)), list(map(_folded, data))
    pairs, both = zip(ours, theirs, strict=True), {*ours} & {*theirs}
    return any(own != other and own in both and other in both for own, other in pairs)


def _folded(name: str) -> str:
    """Returns a name without capitals and spaces around; signs may tell classes apart."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _plain(name: str) -> str:
    """Returns the first of several synonyms, without what programs spell differently."""
    first = _folded(name.partition(",")[0])
    return re.sub(r"[\W_]+", "", re.sub(r"\s*\([^()]*\)$", "", first)) or name


def _synonyms(name: str) -> set[str]:
    return {_plain(synonym) for synonym in name.split(",")}


def _quoted(names: Any) -> str:
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - _SHOWN} more" if len(quoted) > _SHOWN else ""
    return ", ".join(quoted[:_SHOWN]) + more


def order_of(
    loaded: Pretrained, names: Sequence[str], dataset: str, advice: str
) -> tuple[int, ...] | None:
    """Returns what `match_names` finds for weights; names that were only assumed may differ.

    Args:
        loaded: The weights.
        names: Of the data set's classes, as many.
        dataset: What messages call the data set.
        advice: What to do about names of which a part is shared, besides making them agree.

    Raises:
        ConfigurationError: As `match_names`.
    """
    try:
        return match_names(loaded.class_names, names)
    except ConfigurationError as error:
        if loaded.names_assumed:
            return None
        raise ConfigurationError(
            f"the classes of {dataset} are not those of the weights: {error}; make the names "
            f"agree, or {advice}"
        ) from error


def in_order_of(
    loaded: Pretrained, names: Sequence[str], dataset: str
) -> tuple[Pretrained, str | None]:
    """Returns weights with their classes in the order of a data set's.

    Args:
        loaded: The weights.
        names: Of the data set's classes, as `tasks.class_names_of` gives them.
        dataset: Its name, for messages.

    Returns:
        The weights, and what the user should be told.

    Raises:
        ConfigurationError: If they are others, more or fewer. Weights from elsewhere that share no
            name with the data go by the places of their classes, which is told.
    """
    ours, theirs = loaded.class_names, tuple(names)
    if ours == theirs:
        return loaded, None
    if len(ours) != len(theirs):
        raise ConfigurationError(
            f"{dataset} has {len(theirs)} classes, the weights {len(ours)}; "
            "name the data set that they were trained on"
        )
    order = order_of(loaded, theirs, dataset, "name the data set that they were trained on")
    index = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    differs = (
        f"class {index} of {dataset} is {theirs[index]!r}, that of the weights {ours[index]!r}"
    )
    if order is not None and order != tuple(range(len(order))):
        matched = replace(loaded, class_names=theirs, variables=_reordered(loaded, order))
        return matched, f"{differs}; both have the same classes, which are matched by their names"
    if order is None and loaded.experiment is not None:
        raise ConfigurationError(f"{differs}; name the data set that they were trained on")
    return loaded, f"{differs}; going on, as both have {len(ours)} classes"


def _reordered(loaded: Pretrained, order: Sequence[int]) -> dict[str, Any]:
    head = head_named(loaded.model_name)
    flat: dict[Any, Any] = traverse_util.flatten_dict(loaded.variables)
    return traverse_util.unflatten_dict(
        {
            path: with_classes_in_order(head, value, order, loaded.model.num_classes)
            if is_by_class(head, path)
            else value
            for path, value in flat.items()
        }
    )


def is_by_class(head: Head, path: tuple[str, ...]) -> bool:
    """Whether a variable, ("params", "classifier", "bias"), has an output for each class."""
    return path[1] != "backbone" and path[-2] in head.class_modules


def with_classes_in_order(
    head: Head, value: np.ndarray, order: Sequence[int], num_classes: int
) -> np.ndarray:
    """Returns a variable of `is_by_class` with its outputs in the order of other classes.

    Args:
        head: The head that it is of.
        value: [..., outputs].
        order: The place of each named class before.
        num_classes: All classes of the model; those without a name, such as a detector's
            background, stay where they are.
    """
    first = head.first_named
    classes = list(range(num_classes))
    classes[first : first + len(order)] = [first + place for place in order]
    beside = head.beside_classes
    places = [*range(beside), *(beside + place for place in classes)]
    rows = value.reshape(*value.shape[:-1], -1, len(places))
    return rows[..., places].reshape(value.shape)
