"""Every head on every backbone of the package."""

from typing import Any

import jax
import numpy as np
import pytest

from mobilevit_jax.models import create_model
from mobilevit_jax.models.model import map_sizes
from mobilevit_jax.models.registry import all_heads, families
from tests.small import SMALL, train_twice

# Whether a loss falls in a single step is not for dropout to say.
OPTIONS: dict[str, dict[str, Any]] = {
    "classifier": {"classifier_dropout": 0.0},
    "deeplabv3": {"aspp_features": 8, "aspp_dropout": 0.0, "head_dropout": 0.0},
    "yolox": {"head_width": 8, "depthwise": False},
}


def small(head: str, family: str, **options: Any) -> Any:
    name = next(iter(families()[family].variants))
    prefix = all_heads()[head].prefix
    return create_model(f"{prefix}{name}", variant=SMALL[family], num_classes=5, **options)


def test_all_are_here():
    assert SMALL.keys() == families().keys()


@pytest.mark.slow
@pytest.mark.unoptimized
@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("head", all_heads())
def test_trains(head, family):
    train_twice(small(head, family, **OPTIONS.get(head, {})), 64)


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (224, 160), (131, 250)])
def test_maps_have_the_sizes_that_are_told(family, stride, height, width):
    model = small("classifier", family, output_stride=stride)
    images = jax.ShapeDtypeStruct((1, height, width, 3), np.float32)
    backbone = model.backbone
    maps: Any = jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x)[0], images)
    found = {name: x.shape[1:3] for name, x in maps.items()}
    assert found == map_sizes(backbone, height, width)
    channels = {name: x.shape[3] for name, x in maps.items()}
    assert channels == {name: channels for name, (_, channels) in backbone.stages.items()}
