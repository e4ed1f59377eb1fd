"""The detector without anchors: sizes, places, boxes; its goldens are in `test_goldens`."""

# Flax types what `apply` returns as a union.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.analysis.counts import stages, total_parameters
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models import YOLOX, create_model, with_options
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.models.initial import initialise
from mobilevit_jax.models.layers import Common
from mobilevit_jax.models.pafpn import block
from mobilevit_jax.models.points import decode
from mobilevit_jax.models.variables import variable_shapes
from tests import reference
from tests.models.test_every_backbone import SMALL, small
from tests.small import TINY, random_variables

# Parameters with 80 classes; millions of multiply-adds of the backbone and of all, as counted from
# YOLOX's code on MobileViT's maps.
PUBLISHED = {
    "xxs": (1_086_911, {320: (702.2, 789.3), 416: (1416.6, 1564.0), 640: (5099.2, 5448.0)}),
    "xs": (3_188_943, {320: (1701.8, 2520.7), 416: (3225.4, 4609.5), 640: (10242.9, 13518.8)}),
    "s": (7_309_727, {320: (3271.2, 4778.8), 416: (6074.9, 8622.7), 640: (18288.9, 24319.3)}),
}


def tiny_detector(num_classes=5, **options: Any) -> YOLOX:
    return create_model("yolox_mobilevit_xxs", variant=TINY, num_classes=num_classes, **options)


def compiled(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def shapes_of(model, height, width):
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], images)


class Strides(nn.Module):
    """A backbone of any strides."""

    strides: tuple[int, ...]

    @property
    def stages(self):
        """A map of four channels for each stride."""
        return {f"s{index}": (stride, 4) for index, stride in enumerate(self.strides)}

    def __call__(self, images, train=False):
        """Maps images to what is left of them."""
        x = jnp.repeat(images, 2, -1)[..., :4]
        return {name: x[:, ::step, ::step] for name, (step, _) in self.stages.items()}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size):
    model = create_model(f"yolox_mobilevit_{size}")
    parameters, macs = PUBLISHED[size]
    assert total_parameters(model) == parameters
    for side, expected in macs.items():
        counted = {stage.name: stage.macs / 1e6 for stage in stages(model, side)}
        head = sum(counted.pop(name) for name in ("neck", "head_0", "head_1", "head_2"))
        backbone = sum(counted.values())
        assert (round(backbone, 1), round(backbone + head, 1)) == expected


@pytest.mark.parametrize("size", ["xxs", "xs"])
def test_parameter_paths_are_the_committed_ones(size):
    name = f"yolox_mobilevit_{size}"
    committed = json.loads((reference.GOLDEN / "head_paths.json").read_text())[name]
    shapes = variable_shapes(create_model(name)).items()
    found = {"/".join(path): list(shape) for path, shape in shapes if path[1] != "backbone"}
    assert found == committed


@pytest.mark.parametrize(
    ("name", "width", "depthwise"),
    [
        *(("mobilevit_xxs", 64, True), ("mobilevit_xs", 96, False), ("mobilevit_s", 128, False)),
        *(("mobilenetv2_025", 32, True), ("mobilenetv2_100", 96, False)),
        *(("mobilevitv2_050", 192, False), ("resnet50", 256, False)),
    ],
)
def test_widths_go_with_the_backbone(name, width, depthwise):
    model = create_model(f"yolox_{name}")
    assert (model.head_width, model.depthwise) == (width, depthwise)
    other = with_options(model, num_classes=3, head_width=40)
    assert (other.num_classes, other.head_width, other.depthwise) == (3, 40, depthwise)
    assert ModelConfig(f"yolox_{name}").build(80, "devices") == model
    stated = ModelConfig(f"yolox_{name}", head_width=24, depthwise=not depthwise)
    assert stated.build(80, "devices").depthwise is not depthwise


def test_points():
    model = create_model("yolox_mobilevit_xs")
    points = model.points(64, 96)
    assert points.dtype == np.float32 and points.shape == (8 * 12 + 4 * 6 + 2 * 3, 3)
    np.testing.assert_array_equal(
        points[[0, 1, 11, 12]], [[0, 0, 8], [1, 0, 8], [11, 0, 8], [0, 1, 8]]
    )
    np.testing.assert_array_equal(points[96:103:6], [[0, 0, 16], [0, 1, 16]])
    np.testing.assert_array_equal(points[-1], [2, 1, 32])
    assert [len(model.points(side, side)) for side in (320, 416, 640)] == [2100, 3549, 8400]


def test_decode():
    points = np.array([[0, 0, 8], [3, 2, 32]], np.float32)
    boxes = jnp.array([[[0.5, 0.25, 0, np.log(2)], [-1, 0, np.log(0.5), 1]]])
    expected = [[[4, 2, 8, 16], [64, 64, 16, 32 * np.e]]]
    np.testing.assert_allclose(decode(boxes, points), expected, rtol=1e-6)
    # Sides are exponentials, of which bfloat16 has too few.
    half = decode(boxes.astype(jnp.bfloat16), jnp.asarray(points, jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half[0, 1, 3], 32 * np.e, rtol=1e-6)


def test_rows_are_in_the_order_of_the_points():
    """What a level tells of its places is in the rows of its points."""
    model = create_model("yolox", backbone=Strides((8, 16, 32)), num_classes=3)
    zeros = jax.tree.map(np.zeros_like, random_variables(model))
    for index in range(3):
        bias = zeros["params"][f"head_{index}"]
        bias["predict_classes"]["bias"] = np.arange(3, dtype=np.float32) + 10 * index
        bias["predict_boxes"]["bias"] = np.arange(4, dtype=np.float32) + 10 * index
        bias["predict_objectness"]["bias"] = np.array([-index], np.float32)
    images = np.zeros((1, 64, 96, 3), np.float32)
    classes, boxes, objectness = compiled(model.apply)(zeros, images)
    level = np.log2(model.points(64, 96)[:, 2] / 8)
    np.testing.assert_array_equal(classes[0], np.arange(3)[None] + 10 * level[:, None])
    np.testing.assert_array_equal(boxes[0], np.arange(4)[None] + 10 * level[:, None])
    np.testing.assert_array_equal(objectness[0], -level)


# P5 is 13x13 at 416: blocks of MobileViT resize it, and those of version 2 leave it at 14x14.
@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize(("height", "width"), [(416, 416), (64, 96)])
def test_every_backbone(family, height, width):
    model = small("yolox", family)
    classes, boxes, objectness = shapes_of(model, height, width)
    count = len(model.points(height, width))
    assert (classes.shape, boxes.shape) == ((2, count, 5), (2, count, 4))
    assert objectness.shape == (2, count)


@pytest.mark.parametrize(
    ("options", "strides"),
    [
        ({"patch_sizes": (8, 4, 2)}, (8, 16, 32)),
        ({"output_stride": 16}, (8, 16, 16)),
        ({"output_stride": 8, "patch_sizes": (3, 3, 3)}, (8, 8, 8)),
        ({"dtype": jnp.bfloat16}, (8, 16, 32)),
        ({"depthwise": False, "head_width": 8}, (8, 16, 32)),
    ],
)
def test_options(options, strides):
    model = tiny_detector(**options)
    outputs = shapes_of(model, 96, 160)
    points = model.points(96, 160)
    assert tuple(dict.fromkeys(points[:, 2])) == tuple(dict.fromkeys(strides))
    assert len(points) == sum(96 * 160 // stride**2 for stride in strides)
    assert [x.shape[1] for x in outputs] == 3 * [len(points)]
    assert {x.dtype for x in outputs} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("height", "width"), [(300, 320), (320, 333), (0, 32)])
def test_sizes_that_are_no_multiples_of_32(height, width):
    model = tiny_detector()
    message = f"images of {height}x{width} pixels .* both sides must be multiples of 32; pad or"
    with pytest.raises(ConfigurationError, match=message):
        model.points(height, width)
    with pytest.raises(ConfigurationError, match=message):
        shapes_of(model, height, width)


def test_initial_variables():
    """Scores of 1 in 100, boxes of a place's size, and PyTorch's rule for kernels."""
    model = create_model("yolox_mobilevit_xxs", num_classes=3)
    drawn = initialise(model, jax.random.key(0))
    rare = -np.log(0.99 / 0.01)
    for level in range(3):
        for name, bias in {"classes": rare, "boxes": 0, "objectness": rare}.items():
            path = ("params", f"head_{level}", f"predict_{name}", "bias")
            np.testing.assert_allclose(drawn[path], bias, rtol=1e-6)
    kernels = {
        path: x for path, x in drawn.items() if path[-1] == "kernel" and path[1] != "backbone"
    }
    assert len(kernels) == 12 * 3 + 6 * 4 + 2 + 2 * 2
    for path, kernel in kernels.items():
        limit = np.prod(kernel.shape[:3]) ** -0.5
        assert 0.8 * limit < np.abs(kernel).max() <= limit, path


def test_running_statistics_move_by_three_of_a_hundred():
    x = np.random.default_rng(0).normal(2, 1, (4, 8, 8, 3)).astype(np.float32)
    layer = block(3, "block", Common())
    variables = random_variables(layer)
    _, updates = layer.apply(variables, x, True, mutable=["batch_stats"])
    mean = (x @ variables["params"]["conv"]["kernel"][0, 0]).mean((0, 1, 2))
    old = variables["batch_stats"]["norm"]["mean"]
    new = updates["batch_stats"]["norm"]["mean"]
    np.testing.assert_allclose(new, 0.97 * old + 0.03 * mean, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("depthwise", [True, False])
def test_training_moves_statistics_and_reaches_every_parameter(depthwise):
    model = tiny_detector(dropout=0.0, depthwise=depthwise, head_width=8)
    variables = random_variables(model)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)

    def loss(params):
        outputs, updates = model.apply(
            {**variables, "params": params}, images, True, mutable=["batch_stats"]
        )
        return sum(jnp.mean(x**2) for x in outputs), updates["batch_stats"]

    gradients, statistics = compiled(jax.grad(loss, has_aux=True))(variables["params"])
    assert all(np.any(gradient) for gradient in jax.tree.leaves(gradients))
    moved = jax.tree.map(lambda old, new: np.any(old != new), variables["batch_stats"], statistics)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1; got 0"),
        ({"head_width": 0}, "head_width must be at least 1; got 0"),
        ({"head_width": 8.5}, "head_width must be of the type int"),
        ({"depthwise": "yes"}, "depthwise must be of the type bool"),
        ({"anchor_config": None}, r"'anchor_config' of yolox_mobilevit_xxs \(an option of ssdlite"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigurationError, match=message):
        create_model("yolox_mobilevit_xxs", **options)


@pytest.mark.parametrize(
    ("strides", "message"),
    [
        ((16, 32), "needs a map of stride 8 before s0, .* strides 16, 32; choose another"),
        ((8, 12, 32), "multiples of one another, and the backbone's have 8, 12, 32; choose"),
    ],
)
def test_backbones_without_such_levels(strides, message):
    with pytest.raises(ConfigurationError, match=message):
        create_model("yolox", backbone=Strides(strides))


@pytest.mark.slow
def test_outputs_of_a_bfloat16_network_are_not_rounded():
    model = tiny_detector(dtype=jnp.bfloat16)
    variables = random_variables(model)
    images = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    for output in compiled(model.apply)(variables, images):
        assert output.dtype == np.float32
        assert (output.astype(jnp.bfloat16).astype(np.float32) != output).mean() > 0.5
