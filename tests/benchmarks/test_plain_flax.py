"""The plain port: it computes what ours does with our weights, and learns."""

# The scripts are no package; their directory is put on the path below.
# pyright: reportMissingImports=false

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilevit_jax.analysis.programs import draw_variables
from mobilevit_jax.errors import DataError
from mobilevit_jax.models import create_model
from mobilevit_jax.training import parallel
from tests.small import random_variables

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize("size", ["xxs", "xs", "s"])
def test_our_variables_have_all_its_places(size):
    from plain_flax import MobileViT, from_ours

    ours = from_ours(random_variables(create_model(f"mobilevit_{size}")))
    wanted = jax.eval_shape(MobileViT(size).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (ours, wanted)]
    assert shapes[0] == shapes[1]


def test_with_our_variables_it_has_our_logits():
    from contenders import Work
    from equal_weights import compare_plain

    model, work = create_model("mobilevit_xxs"), Work("forward", "mobilevit_xxs", 2, 64, "bfloat16")
    variables = random_variables(model)
    expected = np.asarray(jax.jit(model.apply)(variables, work.images()))
    compare_plain(work, variables, work.images(), [expected], tolerance=1e-5)
    with pytest.raises(DataError, match="ours and the plain port .* but outputs differ by 0.0"):
        compare_plain(work, variables, work.images(), [1.01 * expected])


@pytest.mark.slow
def test_the_plain_port_learns():
    from plain_flax import MobileViT, from_ours, training_step

    net = MobileViT("xxs", num_classes=4)
    begin, step = training_step(net)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (1, 4, 64, 64, 3), np.uint8),
        "label": np.arange(4, dtype=np.int32)[None],
    }
    variables = from_ours(draw_variables(create_model("mobilevit_xxs", num_classes=4)))
    with parallel.mapped_over(jax.devices()[:1]):
        mapped = parallel.pmap_train(step)
    state, first = mapped(jax.device_get(begin(variables)), batch)
    for _ in range(5):
        state, loss = mapped(state, batch)
    assert np.isfinite(loss) and loss < first
    assert int(state["step"]) == 6
