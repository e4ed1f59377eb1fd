"""Our model and transformers', with the same random weights."""

from typing import Any

import jax
import numpy as np
import pytest

from mobilevit_jax.convert import load_state_dict
from mobilevit_jax.models import create_model
from tests.parity.support import (
    SHAPES,
    SIZES,
    compiled,
    difference,
    gradients_of,
    huggingface_twin,
    images,
    nchw,
    nhwc,
    weighted_sum,
    worst,
)
from tests.small import random_variables

pytestmark = [pytest.mark.parity, pytest.mark.slow]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# Shares of the largest value of each compared array. Float32 sums in another order.
# Through the statistics of a batch, gradients lose another digit.
FORWARD, BACKWARD, BACKWARD_THROUGH_STATISTICS = 1e-5, 2e-5, 1e-4
STAGES = ("conv_1", "layer_1", "layer_2", "layer_3", "layer_4", "layer_5", "conv_1x1_exp")


def compare_stages(ours, twin, pixels):
    """Runs the twin and compares logits and every stage's map with ours."""
    maps = []
    hooks = [
        twin.mobilevit.conv_stem.register_forward_hook(lambda *args: maps.append(args[2])),
        twin.mobilevit.conv_1x1_exp.register_forward_hook(lambda *args: maps.append(args[2])),
    ]
    outputs = twin(nchw(pixels), output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    theirs = (maps[0], *outputs.hidden_states, maps[1])
    logits, features = ours
    assert difference(logits, outputs.logits.detach().numpy()) < FORWARD
    for name, map_ in zip(STAGES, theirs, strict=True):
        assert difference(features[name], nhwc(map_)) < FORWARD, name
    return outputs.logits


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_logits_stages_and_gradients(size, shape):
    model = create_model(f"mobilevit_{size}", num_classes=100)
    variables, pixels = random_variables(model), images(*shape)

    @compiled
    def run(params):
        def loss(params):
            inputs = {**variables, "params": params}
            logits, features = model.apply(inputs, pixels, features=True)
            return weighted_sum(logits), (logits, features)

        return jax.grad(loss, has_aux=True)(params)

    gradients, ours = run(variables["params"])
    twin = huggingface_twin(model, variables)
    weighted_sum(compare_stages(ours, twin, pixels)).backward()
    assert worst(gradients, gradients_of(twin, model)) < (BACKWARD,)


@pytest.mark.parametrize(
    "options",
    [
        {"output_stride": 16},
        {"output_stride": 8},
        {"patch_sizes": (4, 4, 4)},
        {"kernel_size": 5},
    ],
    ids=str,
)
def test_options(options):
    model = create_model("mobilevit_xxs", num_classes=10, **options)
    variables, pixels = random_variables(model), images(200, 176)
    ours = compiled(lambda v: model.apply(v, pixels, features=True))(variables)
    with torch.no_grad():
        compare_stages(ours, huggingface_twin(model, variables), pixels)


def test_training_mode():
    """Batch statistics, the gradient through them, and the running statistics they leave."""
    off: dict[str, Any] = {"dropout": 0.0, "classifier_dropout": 0.0}
    model = create_model("mobilevit_xxs", num_classes=10, **off)
    variables, pixels = random_variables(model), images(96, 64, count=8)

    @compiled
    def run(params):
        def loss(params):
            inputs = {**variables, "params": params}
            logits, new = model.apply(inputs, pixels, train=True, mutable=["batch_stats"])
            return weighted_sum(logits), (logits, new["batch_stats"])

        return jax.grad(loss, has_aux=True)(params)

    gradients, (logits, statistics) = run(variables["params"])
    twin = huggingface_twin(model, variables).train()
    theirs = twin(nchw(pixels)).logits
    weighted_sum(theirs).backward()
    assert difference(logits, theirs.detach().numpy()) < FORWARD
    # Batch norm takes away what the last layer norm's bias adds: that gradient is rounding alone.
    assert worst(gradients, gradients_of(twin, model), least=0.1) < (BACKWARD_THROUGH_STATISTICS,)
    after = {name: tensor.numpy() for name, tensor in twin.state_dict().items()}
    running = load_state_dict(model, after)["batch_stats"]
    assert worst(statistics, running) < (FORWARD,)
    assert not np.array_equal(
        running["backbone"]["conv_1"]["norm"]["mean"],
        variables["batch_stats"]["backbone"]["conv_1"]["norm"]["mean"],
    )
