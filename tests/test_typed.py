"""Configurations out of JSON: right again after a round trip, or refused by name."""

import dataclasses
import json
import types
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilevit_jax.config import Experiment, from_dict, to_dict
from mobilevit_jax.errors import ConfigurationError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


def leaves(cls: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any, Any]]:
    """Returns (path, annotation, default) of every field of a dataclass, nested ones included."""
    hints, found = typing.get_type_hints(cls), []
    for name, default in vars(cls()).items():
        if dataclasses.is_dataclass(hints[name]):
            found += leaves(hints[name], (*path, name))
        else:
            found.append(((*path, name), hints[name], default))
    return found


LEAVES = leaves(Experiment)


def values_of(hint: Any, default: Any) -> st.SearchStrategy[Any]:
    """Draws values of a field's type, near its default more often than not."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([values_of(choice, None) for choice in inner])
    if origin is typing.Literal:
        return st.sampled_from(inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return st.lists(values_of(inner[0], None), max_size=4).map(tuple)
    if origin is tuple:
        return st.tuples(*(values_of(part, None) for part in inner))
    scale = default if isinstance(default, int | float) and default else 1
    return {
        bool: st.booleans(),
        int: st.integers(-1, 4) | st.integers(0, 64).map(lambda n: n * 8),
        float: st.floats(0, 2, width=32).map(lambda x: x * scale),
        str: st.text(max_size=12),
        type(None): st.none(),
    }[hint]


@st.composite
def some_fields(draw) -> dict[str, Any]:
    """Draws up to three fields, nested as `to_dict` nests them."""
    values: dict[str, Any] = {}
    for path, hint, default in draw(st.lists(st.sampled_from(LEAVES), max_size=3)):
        place = values
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = draw(values_of(hint, default))
    return values


@given(some_fields())
def test_random_experiments_survive_json(values):
    try:
        experiment = from_dict(Experiment, values)
    except ConfigurationError:
        return  # a value that its section refuses
    stored = json.loads(json.dumps(to_dict(experiment), allow_nan=False))
    again = from_dict(Experiment, stored)
    assert again == experiment and hash(again) == hash(experiment)
    for path, hint, _ in LEAVES:
        if hint in (bool, int, float, str):
            assert type(field_of(again, path)) is hint, path


def field_of(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


@given(st.sampled_from(LEAVES), JSON)
def test_any_value_is_taken_or_refused_by_name(leaf, value):
    path, _, _ = leaf
    values: Any = value
    for name in reversed(path):
        values = {name: values}
    try:
        experiment = from_dict(Experiment, values)
    except ConfigurationError as error:
        message = str(error)
        assert path[-1] in message and "\n" not in message and len(message) < 700
        return
    assert from_dict(Experiment, to_dict(experiment)) == experiment


@given(st.sampled_from(LEAVES), st.text(min_size=1, max_size=12), JSON)
def test_unknown_fields_are_named(leaf, suffix, value):
    path, _, _ = leaf
    values: Any = {path[-1] + suffix: value}
    for name in reversed(path[:-1]):
        values = {name: values}
    with pytest.raises(ConfigurationError) as caught:
        from_dict(Experiment, values)
    assert "unknown field" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": "three"}, "^epochs must be a whole number, not 'three'$"),
        ({"epochs": 3.0}, "^epochs must be a whole number, not 3.0$"),
        ({"epochs": True}, "^epochs must be a whole number, not True$"),
        ({"epochs": None}, "^epochs must be a whole number, not None$"),
        ({"model": 3}, "^model must be an object with its fields, not 3$"),
        ({"model": {"fusion": 1}}, "^model.fusion must be true or false, not 1$"),
        ({"model": {"dropout": "0.1"}}, "^model.dropout must be a number or null, not '0.1'$"),
        ({"model": {"dtype": "float16"}}, "model.dtype must be one of 'float32', 'bfloat16', not"),
        ({"model": {"patch_sizes": 2}}, "^model.patch_sizes must be a list, not 2$"),
        ({"model": {"patch_sizes": [2, 2]}}, "model.patch_sizes must be a list of 3, not"),
        ({"model": {"patch_sizes": [2, 2, "2"]}}, r"model.patch_sizes\[2\] must be a whole num"),
        ({"model": {"anchor_ratios": [[2], 3]}}, r"model.anchor_ratios\[1\] must be a list"),
        ({"optimizer": {"weight_decay": float("nan")}}, "weight_decay must be a number, not nan"),
        ({"optimizer": {"weight_decay": 10**400}}, "a number that a float can hold, not 1000"),
        ({"data": {"test": 3}}, "^data.test must be a text or null, not 3$"),
        ({"processor": {"size": [256]}}, "processor.size must be a list of 2"),
        ({"processor": {"size": "256"}}, "processor.size must be a whole number or a list, not"),
        ({"name": list(range(5000))}, r"^name must be a text, not \[0, 1, .* \.\.\.$"),
        ({"x" * 5000: 1}, r"^unknown field x+ \.\.\.$"),
    ],
)
def test_wrong_types(values, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        from_dict(Experiment, values)
    assert len(str(caught.value)) < 200


def test_lists_within_lists_become_tuples():
    ratios = [[2, 3]] * 5 + [[2]]
    experiment = from_dict(Experiment, {"model": {"anchor_ratios": ratios}})
    assert experiment.model.anchor_ratios == ((2.0, 3.0),) * 5 + ((2.0,),)
    assert from_dict(Experiment, to_dict(experiment)) == experiment
    hash(experiment)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_a_seed_that_jax_does_not_take(seed):
    with pytest.raises(ConfigurationError, match=r"seed must be 0 or more and below 2\*\*63"):
        from_dict(Experiment, {"seed": seed})
    assert from_dict(Experiment, {"seed": 2**63 - 1}).seed == 2**63 - 1
