"""Batch norms fused into convolutions give the same outputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mobilevit_jax as mvj
from mobilevit_jax.analysis.programs import draw_variables
from mobilevit_jax.errors import ConfigurationError
from tests.small import TINY, tiny_model

NAMES = ("mobilevit_xxs", "ssdlite_mobilevit_xxs", "deeplabv3_mobilevit_xxs", "yolox_mobilevit_xxs")


def random_variables(model):
    """Variables whose norms are far from doing nothing."""
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        inside_norm = any(getattr(key, "key", None) == "norm" for key in path)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype) if inside_norm else leaf

    return jax.tree_util.tree_map_with_path(drawn, draw_variables(model))


@pytest.mark.slow
@pytest.mark.unoptimized
@pytest.mark.parametrize("name", NAMES)
def test_outputs_stay(name):
    model = mvj.create_model(name, variant=TINY, num_classes=5)
    images = jnp.asarray(np.random.default_rng(1).random((2, 64, 64, 3)), jnp.float32)
    variables = random_variables(model)
    fused = mvj.fuse_batch_norm(model, variables)
    assert "batch_stats" not in fused
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(fused)]
    assert not any("['norm']" in path for path in paths)
    apply = jax.jit(model.apply)
    outputs = (jax.tree.leaves(apply(given, images)) for given in (variables, fused))
    for whole, ours in zip(*outputs, strict=True):
        assert jnp.abs(whole - ours).max() < 1e-5 * jnp.abs(whole).max()


def test_every_statistic_is_fused():
    model = tiny_model(5)
    variables = random_variables(model)
    other = jax.tree.map(lambda x: x + 0.1, variables["batch_stats"])
    fuse = jax.jit(functools.partial(mvj.fuse_batch_norm, model))
    once = fuse(variables)["params"]
    twice = fuse({**variables, "batch_stats": other})["params"]
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), once, twice)
    paths = [
        jax.tree_util.keystr(path)
        for path, moved in jax.tree_util.tree_leaves_with_path(changed)
        if moved
    ]
    # A kernel, by the variance, and a bias, by both, of each.
    assert len(paths) == len(jax.tree.leaves(variables["batch_stats"]))
    assert all(path.endswith(("['conv']['kernel']", "['conv']['bias']")) for path in paths)


def test_training_is_refused():
    model = tiny_model(5)
    images = jnp.ones((2, 32, 32, 3))
    fused = mvj.fuse_batch_norm(model, random_variables(model))
    with pytest.raises(ValueError, match="cannot be trained"):
        model.apply(fused, images, train=True, rngs={"dropout": jax.random.key(0)})


def test_nothing_to_fuse():
    model = tiny_model(5)
    fused = mvj.fuse_batch_norm(model, random_variables(model))
    with pytest.raises(ConfigurationError, match="running statistics"):
        mvj.fuse_batch_norm(model, fused)
