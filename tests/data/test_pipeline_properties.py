"""Plans, hosts and augmentation together: what every record goes through, however it is split."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilevit_jax.data.augment import AugmentConfig, augment, example_rng
from mobilevit_jax.data.loader import LoaderConfig, load_batches
from mobilevit_jax.data.sampler import SamplerConfig, plan_epoch, plan_evaluation, scale_table
from mobilevit_jax.errors import ConfigurationError

CONFIGS = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 12).map(lambda n: n * 8),
        "base_size": st.integers(1, 320),
        "min_size": st.integers(1, 320),
        "max_size": st.integers(1, 640),
        "count": st.integers(1, 7),
        "rule": st.sampled_from(["cvnets", "area"]),
        "reference_devices": st.sampled_from([1, 2, 4, 8]),
    }
)


@given(CONFIGS)
def test_tables_of_any_configuration(options):
    try:
        config = SamplerConfig(**options)
    except ConfigurationError:
        assert options["min_size"] > options["max_size"]
        return
    table = scale_table(config)
    sizes = [scale.height for scale in table]
    assert sizes == sorted(set(sizes)) and 1 <= len(sizes) <= config.count + 1
    assert all(s.height == s.width and s.height % 32 == 0 for s in table)
    batches = [scale.batch_size for scale in table]
    assert batches == sorted(batches, reverse=True)
    assert all(batch >= 1 and batch % config.reference_devices == 0 for batch in batches)
    # The table is all that a plan knows of the configuration; devices are nowhere in it.
    assert table == scale_table(SamplerConfig(**options))


class Numbers:
    def records(self, ids):
        return [{"id": int(record)} for record in ids]


def rows(plan, hosts, host, threads):
    def load(record, record_id, planned):
        assert record["id"] == record_id
        return {"id": np.int64(record_id), "size": np.int32(planned.height)}

    config = LoaderConfig(threads=threads)
    with load_batches(Numbers(), plan, load, config, host=host, hosts=hosts) as batches:
        return list(batches)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 300),
    examples=st.integers(1, 300),
    hosts=st.sampled_from([2, 4, 8]),
    threads=st.integers(1, 3),
    evaluation=st.booleans(),
)
def test_hosts_share_any_plan_without_loss(seed, epoch, examples, hosts, threads, evaluation):
    table = scale_table(SamplerConfig(batch_size=32))
    plan = (
        plan_evaluation(examples, 64, 64, 32)
        if evaluation
        else plan_epoch(seed, epoch, examples, table)
    )
    alone = rows(plan, 1, 0, threads)
    parts = [rows(plan, hosts, host, 1) for host in range(hosts)]
    assert len(alone) == len(plan)
    for step, whole in enumerate(alone):
        for key in ("id", "size", "weight"):
            joined = np.concatenate([part[step][key] for part in parts])
            counts = whole["weight"] > 0  # padding may repeat another row on another host
            np.testing.assert_array_equal(joined[counts], whole[key][counts])
    seen = np.concatenate([batch["id"][batch["weight"] > 0] for batch in alone])
    assert set(seen.tolist()) == set(range(examples))
    if evaluation:
        assert len(seen) == examples


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**24 - 1), st.integers(0, 2**40 - 1)),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(sorted),
    st.floats(0, 1),
)
def test_augmented_images_of_any_size(size, target, key, scale, ratio, flip):
    image = np.random.default_rng(0).integers(40, 200, (*size, 3), np.uint8)
    before = image.copy()
    config = AugmentConfig((scale[0], scale[1]), (ratio[0], ratio[1]), flip)
    found = augment(image, example_rng(*key), target[0], target[1], config)
    assert found.shape == (*target, 3) and found.dtype == np.uint8 and found.flags.c_contiguous
    # Interpolation makes no value that is not between two of the image's.
    assert found.min() >= image.min() and found.max() <= image.max()
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(
        found, augment(image, example_rng(*key), target[0], target[1], config)
    )
