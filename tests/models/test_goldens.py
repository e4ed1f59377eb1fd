"""Outputs of the reference implementation, reproduced with weights drawn by its rule."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from mobilevit_jax import convert
from mobilevit_jax.models import create_model
from mobilevit_jax.models.points import decode
from tests import reference

TOLERANCE = 1e-4
STAGES = ("conv_1", "layer_1", "layer_2", "layer_3", "layer_4", "layer_5", "conv_1x1_exp")


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


def logits_of(size, images, *, fusion=True, **options):
    model = create_model(f"mobilevit_{size}", fusion=fusion, **options)
    variables = convert.load_state_dict(model, reference.state_dict(size, fusion=fusion))
    return jax.jit(model.apply)(variables, images), variables


@pytest.mark.slow
@pytest.mark.parametrize("size", ["xxs", "xs", "s"])
# The second shape does not divide by the patches of layer_5, so that its maps are resized.
@pytest.mark.parametrize(("height", "width"), [(256, 256), (288, 224)])
def test_classifier(size, height, width):
    expected = reference.golden(f"classify_{size}_{height}x{width}")
    model = create_model(f"mobilevit_{size}")
    variables = convert.load_state_dict(model, reference.state_dict(size))
    images = reference.images(1, 2, height, width)
    logits, features = jax.jit(lambda v, x: model.apply(v, x, features=True))(variables, images)
    assert_close(logits, expected["logits"])
    assert set(features) == set(STAGES)
    for stage, found in features.items():
        found = np.asarray(found)
        assert_close(found.mean((0, 1, 2)), expected[stage][0])
        assert_close(np.abs(found).mean((0, 1, 2)), expected[stage][1])


@pytest.mark.slow
@pytest.mark.parametrize("patch_sizes", [(8, 4, 2), (3, 3, 3), (4, 4, 4)])
def test_patch_sizes(patch_sizes):
    expected = reference.golden("patch_xs_" + "".join(map(str, patch_sizes)))
    logits, _ = logits_of("xs", reference.images(2, 2, 256, 256), patch_sizes=patch_sizes)
    assert_close(logits, expected["logits"])


@pytest.mark.slow
def test_no_fusion():
    expected = reference.golden("nofusion_xs")
    logits, variables = logits_of("xs", reference.images(3, 2, 256, 256), fusion=False)
    assert_close(logits, expected["logits"])
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == expected["params"] == 1_962_552


@pytest.mark.slow
def test_ssdlite():
    expected = reference.golden("ssd_s_320")
    model = create_model("ssdlite_mobilevit_s")
    variables = convert.load_state_dict(model, reference.state_dict("ssdlite_s"))
    logits, offsets = jax.jit(model.apply)(variables, reference.images(5, 1, 320, 320))
    assert_close(offsets, expected["offsets"])
    assert_close(logits[:, ::64], expected["logits_every_64th_anchor"])
    assert_close(logits.mean(1), expected["logits_mean_per_class"])
    np.testing.assert_array_equal(model.anchors(320, 320), expected["anchors"])


class Given(nn.Module):
    """A backbone whose maps are drawn as those that the golden detectors were given."""

    channels: tuple[int, int, int]

    @property
    def stages(self):
        """Of stride 8, 16 and 32."""
        return {f"p{n}": (2**n, width) for n, width in enumerate(self.channels, 3)}

    def __call__(self, images, train=False):
        """Maps two images of 128x192 pixels."""
        maps = {}
        for seed, (name, (stride, width)) in enumerate(self.stages.items(), 30):
            drawn = np.random.default_rng(seed).standard_normal(
                (2, width, 128 // stride, 192 // stride)
            )
            maps[name] = drawn.astype(np.float32).transpose(0, 2, 3, 1)
        return maps


@pytest.mark.slow
@pytest.mark.parametrize("size", ["xxs", "xs"])  # separable convolutions, and plain ones
def test_yolox(size):
    expected = reference.golden(f"yolox_forward_{size}")
    whole = create_model(f"yolox_mobilevit_{size}")
    variables = convert.load_state_dict(whole, reference.state_dict(f"yolox_{size}"))
    for collection in variables.values():
        collection.pop("backbone")
    model = create_model("yolox", backbone=Given(whole.backbone.variant.channels[3:]))
    images = np.zeros((2, 128, 192, 3), np.float32)
    (classes, boxes, objectness), features = jax.jit(lambda v, x: model.apply(v, x, features=True))(
        variables, images
    )
    for level, every in ((3, 32), (4, 8), (5, 8)):
        found = np.asarray(features[f"pan_{level}"]).transpose(0, 3, 1, 2)
        assert_close(found.mean((2, 3)), expected[f"pan_p{level}_mean"])
        assert_close(found.ravel()[::every], expected[f"pan_p{level}_every8th"])
    scores = jax.nn.sigmoid(np.concatenate([objectness[..., None], classes], -1))
    decoded = decode(boxes, model.points(128, 192))
    for name, found in (("not_decoded", boxes), ("decoded", decoded)):
        rows = np.concatenate([found, scores], -1)[:, ::24]
        assert_close(rows, expected[f"outputs_{name}_every24th_anchor"])


@pytest.mark.slow
def test_deeplabv3():
    expected = reference.golden("deeplabv3_s_512")
    model = create_model("deeplabv3_mobilevit_s")
    variables = convert.load_state_dict(model, reference.state_dict("deeplabv3_s"))
    logits = jax.jit(model.apply)(variables, reference.images(7, 1, 512, 512))
    assert_close(logits[:, ::16, ::16].transpose(0, 3, 1, 2), expected["logits_every_16th"])
    agreeing = logits[:, ::4, ::4].argmax(-1) == expected["argmax_every_4th"]
    assert agreeing.mean() > 0.999  # gaps between classes of 1e-5 exist
