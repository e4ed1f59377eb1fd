"""Heads on a backbone that the package does not have, and that does not know the package."""

import importlib.util
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mobilevit_jax as mvj
from mobilevit_jax.analysis.counts import total_macs, total_parameters
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import VARIANTS, MobileViT, attention_maps, with_options
from mobilevit_jax.training.optimizer import OptimizerConfig, create_optimizer
from mobilevit_jax.training.state import EMAConfig, create_state
from tests.small import SmallNet, train_twice

NETWORK = """
import flax.linen as nn


class Plain(nn.Module):
    width: int = 8

    @property
    def stages(self):
        return {f"s{n}": (2**n, self.width * n) for n in range(1, 6)}

    @nn.compact
    def __call__(self, images, train=False):
        x, maps = images, {}
        for name, (_, channels) in self.stages.items():
            x = nn.Conv(channels, (3, 3), (2, 2), padding=1)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            maps[name] = x
        return maps
"""
SIZE = 64


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The class of a network in a file of its own."""
    path = tmp_path_factory.mktemp("networks") / "plain.py"
    path.write_text(NETWORK)
    spec: Any = importlib.util.spec_from_file_location("plain", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Plain


@pytest.mark.slow
@pytest.mark.unoptimized
@pytest.mark.parametrize("head", ["classifier", "ssdlite", "deeplabv3", "yolox"])
def test_trains_and_is_saved(plain, head, tmp_path):
    model = mvj.create_model(head, backbone=plain(), num_classes=5)
    variables = train_twice(model, SIZE)
    mvj.save_pretrained(tmp_path, model, variables, mvj.ImageProcessor(), layout="native")
    loaded, again, _ = mvj.from_pretrained(tmp_path, backbone=plain())
    assert loaded == model
    jax.tree.map(np.testing.assert_array_equal, again, dict(variables))


@pytest.mark.slow
def test_its_first_weights_are_those_of_init(plain):
    model = mvj.create_model("classifier", backbone=plain(), num_classes=5)
    state = create_state(
        model, create_optimizer(OptimizerConfig(), jnp.asarray), EMAConfig(), ("loss",), 3
    )
    drawn = model.init(jax.random.key(3), jnp.zeros((1, 32, 32, 3)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, drawn["params"]
    )


def test_it_is_counted(plain):
    model = mvj.create_model("deeplabv3", backbone=plain(), num_classes=5)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert total_parameters(model) == sum(leaf.size for leaf in jax.tree.leaves(params))


class Odd(nn.Module):
    """Has one layer twice, and one that is not called."""

    stray: bool = False

    @property
    def stages(self):
        """One."""
        return {"a": (1, 8)}

    @nn.compact
    def __call__(self, images, train=False):
        """Maps to channels 8."""
        shared = nn.Conv(8, (3, 3), padding=1)
        x = shared(shared(nn.Conv(8, (1, 1))(images)))
        return {"a": Stray(name="stray").encode(x) if self.stray else x}


class Stray(nn.Module):
    """A layer with another method than `__call__`."""

    @nn.compact
    def encode(self, x):
        """Scales."""
        return x * self.param("scale", nn.initializers.ones, (8,)).reshape(1, 1, 1, 8)


def test_odd_layers_are_counted_once_or_refused():
    model = mvj.create_model("classifier", backbone=Odd(), num_classes=0)
    assert total_parameters(model) == (3 * 8 + 8) + (9 * 8 * 8 + 8)
    assert total_macs(model, 4) == 16 * (3 * 8 + 2 * 9 * 8 * 8)
    odd = mvj.create_model("classifier", backbone=Odd(stray=True), num_classes=0)
    with pytest.raises(ConfigurationError, match=r"of a Stray \(backbone/stray\) are not known"):
        total_parameters(odd)


def test_there_need_be_no_attention(plain):
    model = mvj.create_model("classifier", backbone=plain(), num_classes=0)
    images = jnp.zeros((1, 32, 32, 3))
    assert attention_maps(model, model.init(jax.random.key(0), images), images) == {}


def test_options_can_be_changed(plain):
    model = mvj.create_model("ssdlite", backbone=plain(), num_classes=5, bn_unbiased=False)
    other = with_options(model, num_classes=7)
    assert (other.num_classes, other.backbone, other.common) == (7, model.backbone, model.common)


def test_other_libraries_have_no_names_for_it(plain):
    model = mvj.create_model("classifier", backbone=plain(), num_classes=5)
    with pytest.raises(ConfigurationError, match="'cvnets' has no names for a classifier"):
        mvj.convert.to_state_dict(model, {}, "cvnets")
    with pytest.raises(ConfigurationError, match="transformers' format cannot express a model of"):
        mvj.save_pretrained("nowhere", model, {}, mvj.ImageProcessor())


def test_weights_without_their_backbone(plain, tmp_path):
    model = mvj.create_model("classifier", backbone=plain(), num_classes=5)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    mvj.save_pretrained(tmp_path, model, variables, mvj.ImageProcessor(), layout="native")
    with pytest.raises(DataError, match=r"own, 'Plain'; give it: .*backbone=module"):
        mvj.from_pretrained(tmp_path)
    with pytest.raises(DataError, match="does not fit"):
        mvj.from_pretrained(tmp_path, backbone=plain(width=4))


class Upwards(nn.Module):
    """Its stages are told in the wrong order."""

    @property
    def stages(self):
        """Coarsest first."""
        return {"b": (4, 8), "a": (2, 8)}

    def __call__(self, images, train=False):
        """Maps nothing."""
        return {}


class Shallow(Upwards):
    """One stage, of a stride too large for a second level."""

    @property
    def stages(self):
        """One."""
        return {"a": (32, 8)}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ssdlit", {"backbone": Shallow()}, "unknown head for a backbone 'ssdlit'.*'ssdlite'"),
        ("ssdlite", {}, r"unknown model 'ssdlite'.*\(it is a head: give it a backbone=\)"),
        ("ssdlite", {"backbone": SmallNet()}, "must be a Linen module that has `stages`"),
        ("ssdlite", {"backbone": "mobilevit_s"}, "must be a Linen module .* not 'mobilevit_s'"),
        ("ssdlite", {"backbone": Upwards()}, "Upwards.stages must tell .* finest first"),
        ("ssdlite", {"backbone": Shallow()}, "needs a map of stride 16 before a, .* strides 32"),
        ("classifier", {"backbone": MobileViT(VARIANTS["xxs"])}, "name a model of list_models"),
        ("classifier", {"backbone": Shallow(), "remat": True}, "unknown option 'remat'"),
        (
            "classifier",
            {"backbone": Shallow(), "patch_sizes": (2, 2, 2)},
            r"unknown option 'patch_sizes' of classifier on Shallow \(an option of \*mobilevit_\*",
        ),
    ],
)
def test_bad_input(name, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        mvj.create_model(name, **arguments)
