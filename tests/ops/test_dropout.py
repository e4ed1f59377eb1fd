"""Dropout drops what it says, independently of place, key and module, and repeats itself."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from mobilevit_jax.models.layers import Dropout
from mobilevit_jax.ops import dropout

ROWS, COLUMNS = 512, 1024


def kept(rate=0.5, key=0, salt=0, shape=(ROWS, COLUMNS), broadcast_axes=()):
    key = jax.random.fold_in(jax.random.key(7), key)
    return np.asarray(dropout(jnp.ones(shape), rate, key, salt, broadcast_axes)) > 0


def correlation(a, b):
    return np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1]


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.999])
def test_share_and_scale(rate):
    y = np.asarray(dropout(jnp.full((ROWS, COLUMNS), 3.0), rate, jax.random.key(1)))
    share = np.mean(y == 0)
    assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / y.size)
    np.testing.assert_allclose(y[y != 0], 3 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_every_row_and_column_has_its_share(rate):
    mask = kept(rate)
    for axis in (0, 1):
        n = mask.shape[axis]
        deviation = np.sqrt(rate * (1 - rate) / n)
        z = (mask.mean(axis) - (1 - rate)) / deviation
        assert np.abs(z).max() < 5
        assert 0.9 < z.std() < 1.1  # neither clustered nor evened out


@pytest.mark.parametrize("step", [1, 2, 3, 4, 64, COLUMNS, COLUMNS + 1, 65536])
def test_elements_are_independent_of_those_a_step_away(step):
    mask = kept().ravel()
    assert abs(correlation(mask[:-step], mask[step:])) < 5 / np.sqrt(mask.size)


@pytest.mark.parametrize("other", [{"key": 1}, {"key": 2}, {"salt": 1}, {"salt": 2**31}])
def test_keys_and_salts_drop_other_elements(other):
    mask, changed = kept(), kept(**other)
    assert abs(correlation(mask, changed)) < 5 / np.sqrt(mask.size)
    # Nor the same ones in other places.
    orders = (changed[::-1], changed[:, ::-1], np.roll(changed, 1), changed[::-1, ::-1])
    for moved in orders:
        assert abs(correlation(mask, moved)) < 5 / np.sqrt(mask.size)


def test_many_keys_are_independent():
    masks = np.stack([kept(key=key, shape=(64, 64)).ravel() for key in range(40)])
    between = np.corrcoef(masks.astype(float))[np.triu_indices(40, 1)]
    assert np.abs(between).max() < 5 / 64
    assert 0.8 / 64 < between.std() < 1.2 / 64


def test_repeats_itself():
    np.testing.assert_array_equal(kept(0.3, 5, 9), kept(0.3, 5, 9))


def test_whole_channels():
    mask = kept(0.5, shape=(8, 5, 7, 32), broadcast_axes=(1, 2))
    np.testing.assert_array_equal(mask, np.broadcast_to(mask[:, :1, :1], mask.shape))
    assert 0.3 < mask[:, 0, 0].mean() < 0.7


def test_gradient_passes_what_was_kept():
    key, x = jax.random.key(0), jnp.ones((16, 16))
    y, pull = jax.vjp(lambda x: dropout(x, 0.25, key), x)
    np.testing.assert_array_equal(pull(jnp.ones_like(x))[0], y)


def test_type_stays_and_old_keys_do():
    x = jnp.ones((4, 4), jnp.bfloat16)
    assert dropout(x, 0.5, jax.random.PRNGKey(0)).dtype == jnp.bfloat16
    assert dropout(x, 0.5, jax.random.key(0, impl="rbg")).shape == x.shape


class Pair(nn.Module):
    """Two modules after one another in one scope."""

    @nn.compact
    def __call__(self, x):
        return Dropout(0.5)(x, True), Dropout(0.5)(x, True)


def test_modules_drop_other_elements_than_one_another():
    pair: Any = Pair().apply({}, jnp.ones((256, 256)), rngs={"dropout": jax.random.key(3)})
    first, second = map(np.asarray, pair)
    assert abs(correlation(first > 0, second > 0)) < 5 / 256


class Rematerialised(nn.Module):
    """The same, computed again in the backward pass."""

    @nn.compact
    def __call__(self, x):
        module = nn.remat(Inner)
        return module(name="one")(x), module(name="two")(x)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Dropout(0.5)(x, True)


def test_rematerialised_modules_do_too():
    pair: Any = Rematerialised().apply(
        {}, jnp.ones((256, 256)), rngs={"dropout": jax.random.key(3)}
    )
    first, second = map(np.asarray, pair)
    assert abs(correlation(first > 0, second > 0)) < 5 / 256


def test_module():
    x, key = jnp.ones((32, 32)), jax.random.key(0)
    module = Dropout(0.5)
    assert module.apply({}, x) is x
    assert Dropout(0.0).apply({}, x, train=True) is x
    y = np.asarray(module.apply({}, x, True, rngs={"dropout": key}))
    assert set(np.unique(y)) == {0, 2}
    with pytest.raises(InvalidRngError, match='needs a random key: apply.*"dropout"'):
        module.apply({}, x, True)
