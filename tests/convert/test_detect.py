import json

import pytest

from mobilevit_jax import convert
from mobilevit_jax.convert.layouts import detect
from mobilevit_jax.errors import DataError
from tests import reference

NAMES = [*reference.names_and_shapes("xxs")]


def test_part_of_the_names_is_enough():
    """What is missing or left over is for `load_state_dict` to say."""
    names = [name for name in NAMES if "layer_5" not in name] + ["ema.weight", "step"]
    assert convert.detect_layout(names) == "cvnets"


def test_arrays_of_our_own():
    with pytest.raises(DataError, match="the tensors are those of this package's own arrays"):
        convert.detect_layout(["params/backbone/conv_1/conv/kernel"])


@pytest.mark.parametrize(
    ("model", "kind", "title", "prefix"),
    [
        ("s", "mobilevit", "CVNets v0.1", ""),
        ("ssdlite_s", "ssdlite_mobilevit", "CVNets v0.1", "encoder."),
        ("deeplabv3_s", "deeplabv3_mobilevit", "CVNets v0.1", "encoder."),
        ("deeplabv3_s_later", "deeplabv3_mobilevit", "CVNets after v0.1", "encoder."),
    ],
)
def test_kinds_of_models(model, kind, title, prefix):
    names = [*reference.names_and_shapes(model)]
    layout, found = detect(names)
    assert (layout.kind, layout.title, found) == (kind, title, prefix)
    assert convert.detect_layout(names) == "cvnets"


def test_segmentation_models_of_transformers():
    names = [*reference.names_and_shapes("deeplabv3_s")]
    table = json.loads((reference.GOLDEN / "cvnets_to_huggingface.json").read_text())
    heads = json.loads((reference.GOLDEN / "cvnets_to_huggingface_head.json").read_text())
    table = {f"encoder.{name}": theirs for name, theirs in table.items()} | heads
    theirs = [part for name in names for part in table.get(name, ())]
    layout, prefix = detect(theirs)
    assert (layout.name, layout.kind) == ("huggingface", "deeplabv3_mobilevit")
    assert prefix == "mobilevit."


# Networks of the same libraries, with the same names for their convolutions.
MOBILENET = [name for name in NAMES if ".1." not in name or "layer_2" in name]
RESNET = [f"stages.0.{i}.{u}.conv.weight" for i in range(3) for u in ("conv1_1x1", "conv2_kxk")]


@pytest.mark.parametrize(
    "names", [MOBILENET, ["stem.conv.weight", *RESNET], ["layer1.0.conv1.weight", "fc.bias"]]
)
def test_other_networks(names):
    first, second = [name for name in names if not name.endswith("num_batches_tracked")][:2]
    message = f"not those of a .* or mobilevit or .* they are called {first}, {second}"
    with pytest.raises(DataError, match=message):
        convert.detect_layout(names)


def test_wrapped():
    with pytest.raises(DataError, match="called module.conv_1.block.conv.weight, module.conv_1"):
        convert.detect_layout([f"module.{name}" for name in NAMES])


@pytest.mark.parametrize("names", [[], ["a.num_batches_tracked"]])
def test_nothing(names):
    with pytest.raises(DataError, match="the state dict is empty"):
        convert.detect_layout(names)
