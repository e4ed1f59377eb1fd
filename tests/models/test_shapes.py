import dataclasses
import json
import time
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util

from mobilevit_jax.models import Variant, create_model
from mobilevit_jax.models.anchors import AnchorConfig
from mobilevit_jax.models.variables import variable_shapes
from tests import reference
from tests.small import TINY, tiny_model

# No two widths are alike, so that none can stand in for another.
UNEVEN = Variant(
    (8, 12, 16, 20, 24, 28),
    (32, 36, 40),
    3,
    44,
    dropout=0.1,
    depths=(1, 3, 2),
    heads=4,
    ffn_multiplier=5,
)


def traced_shapes(model):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    flat: Any = traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0), image))
    return {path: leaf.shape for path, leaf in flat.items()}


@pytest.mark.parametrize("size", ["xxs", "xs", "s"])
def test_published_sizes_have_the_committed_paths(size):
    """`test_variants_and_options` compares the same list with what `init` makes."""
    committed = json.loads((reference.GOLDEN / "parameter_paths.json").read_text())[size]
    found = variable_shapes(create_model(f"mobilevit_{size}"))
    assert {"/".join(path): list(shape) for path, shape in found.items()} == committed


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fusion": False},
        {"kernel_size": 1},
        {"kernel_size": 5, "fusion": False},
        {"num_classes": 0},
        {"patch_sizes": (8, 4, 2), "output_stride": 8},
        {"variant": UNEVEN},
        {"variant": UNEVEN, "fusion": False, "kernel_size": 5, "num_classes": 7},
    ],
    ids=lambda options: ",".join(options),
)
def test_options_give_what_init_makes(options):
    model = create_model("mobilevit_xxs", **{"variant": TINY} | options)
    assert variable_shapes(model) == traced_shapes(model)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ssdlite_mobilevit_xxs", {}),
        ("ssdlite_mobilevit_s", {"variant": UNEVEN, "num_classes": 3}),
        # A stage that needs no projection, and other numbers of anchors.
        (
            "ssdlite_mobilevit_s",
            {
                "variant": dataclasses.replace(UNEVEN, channels=(8, 12, 16, 20, 512, 28)),
                "anchor_config": AnchorConfig(aspect_ratios=((), (2,), (2, 3), (3,), (), (2, 3))),
            },
        ),
        ("deeplabv3_mobilevit_xs", {}),
        (
            "deeplabv3_mobilevit_s",
            {"variant": UNEVEN, "aspp_features": 12, "aux_head": True, "aux_width": 4},
        ),
        ("deeplabv3_mobilevit_s", {"variant": UNEVEN, "aux_head": True, "fusion": False}),
    ],
)
def test_detectors_and_segmentation_models(name, options):
    model = create_model(name, **options)
    assert variable_shapes(model) == traced_shapes(model)


def test_order_of_use():
    shapes = list(variable_shapes(tiny_model()))
    assert shapes[:5] == [
        ("params", "backbone", "conv_1", "conv", "kernel"),
        ("params", "backbone", "conv_1", "norm", "scale"),
        ("params", "backbone", "conv_1", "norm", "bias"),
        ("batch_stats", "backbone", "conv_1", "norm", "mean"),
        ("batch_stats", "backbone", "conv_1", "norm", "var"),
    ]
    assert shapes[-1] == ("params", "classifier", "bias")


def test_takes_no_time():
    model = create_model("mobilevit_s", variant=TINY)
    start = time.thread_time()
    for _ in range(10):
        variable_shapes(model)
    assert time.thread_time() - start < 0.2  # tracing takes some 0.5 s once
