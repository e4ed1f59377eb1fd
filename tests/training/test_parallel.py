import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training import parallel

DEVICES = 4


def test_shard_gives_each_device_its_rows():
    batch = {"image": np.arange(24).reshape(8, 3), "weight": np.arange(8)}
    placed = parallel.shard(batch)
    for name, array in placed.items():
        assert array.shape[:2] == (DEVICES, 2)
        np.testing.assert_array_equal(np.asarray(array).reshape(batch[name].shape), batch[name])
        assert len(array.sharding.device_set) == DEVICES
        for piece in array.addressable_shards:
            assert piece.data.shape == (1, *array.shape[1:])


def test_shard_refuses_rows_that_do_not_divide():
    with pytest.raises(ConfigurationError, match="6 rows does not divide by 4 local devices.*of 4"):
        parallel.shard({"image": np.zeros((6, 3))})


def test_a_replicated_state_is_placed_as_pmap_returns_it():
    traces = []

    def step(state, batch):
        traces.append(batch.shape)
        return state + lax.psum(jnp.sum(batch), parallel.AXIS), {"done": jnp.ones(())}

    mapped = parallel.pmap_train(step)
    state = parallel.replicate(jnp.zeros(()))
    rows = np.ones(8, np.float32)
    for _ in range(3):
        state, _ = mapped(state, parallel.shard({"x": rows})["x"])
    assert float(state) == 24 and len(traces) == 1
    assert state.sharding == parallel.replicate(jnp.zeros(())).sharding


def test_replicate_copies_what_a_step_then_donates():
    """The loop compiles each scale by a call on such a copy, and needs its state afterwards."""
    original = parallel.replicate({"w": jnp.arange(1000.0)})
    mapped = parallel.pmap_train(lambda state, x: ({"w": state["w"] * 0 - 1}, {}))
    batch = parallel.shard({"x": np.zeros(4)})["x"]
    for _ in range(2):
        jax.block_until_ready(mapped(parallel.replicate(original), batch))
    np.testing.assert_array_equal(original["w"], np.arange(1000.0))


def test_devices_of_one_host_are_connected_already():
    parallel.connect_devices()
    assert parallel.on_any_host(True) and not parallel.on_any_host(False)


def test_evaluation_sums_over_devices():
    def step(variables, batch):
        return {"sum": lax.psum(variables * jnp.sum(batch["x"]), parallel.AXIS)}

    batch = parallel.shard({"x": np.arange(8, dtype=np.float32)})
    assert float(parallel.pmap_evaluate(step)(jnp.float32(2), batch)["sum"]) == 56


class Source:
    """Batches that say how many were taken and whether they were closed."""

    def __init__(self, count):
        self.count, self.taken, self.closed = count, 0, False

    def __iter__(self):
        try:
            for number in range(self.count):
                self.taken += 1
                yield {"x": np.full(4, number)}
        finally:
            self.closed = True


def test_prefetch_keeps_order_and_reads_a_little_ahead():
    source, seen = Source(5), []
    for batch in parallel.prefetch(source, depth=2):
        assert source.taken <= len(seen) + 2
        assert batch["x"].shape == (DEVICES, 1)
        seen.append(int(batch["x"][0, 0]))
    assert seen == list(range(5)) and source.closed


def test_prefetch_closes_its_source_when_left_early():
    source = Source(100)
    batches = parallel.prefetch(source)
    next(batches)
    batches.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert source.closed and source.taken < 5


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_one_behind_hands_out_what_the_next_has_followed(count):
    made = []

    def items():
        for number in range(count):
            made.append(number)
            yield number

    for place, item in enumerate(parallel.one_behind(items())):
        assert item == place
        assert len(made) == min(item + 2, count)
    assert made == list(range(count))


def test_random_keys_differ_by_seed_step_and_device():
    def keys(seed, step):
        return jax.random.key_data(parallel.device_key(seed, step))[None]

    def on_devices(seed, step):
        mapped = jax.pmap(
            lambda step, _: keys(seed, step), axis_name=parallel.AXIS, in_axes=(None, 0)
        )
        return [row.tobytes() for row in np.asarray(mapped(jnp.int32(step), np.zeros(DEVICES)))]

    drawn = [on_devices(seed, step) for seed, step in ((0, 0), (0, 1), (1, 0))]
    assert len({key for row in drawn for key in row}) == 3 * DEVICES
    assert on_devices(0, 1) == drawn[1]
