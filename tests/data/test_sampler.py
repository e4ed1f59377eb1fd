import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilevit_jax.data import sampler
from mobilevit_jax.data.sampler import (
    RunPlan,
    SamplerConfig,
    Scale,
    check_devices,
    plan_epoch,
    plan_evaluation,
    scale_table,
    steps_in_epoch,
)
from mobilevit_jax.errors import ConfigurationError, DataError

IMAGENET = 1_281_167
WIDE = {"min_size": 128, "max_size": 384}
BASE_224 = {"base_size": 224, "min_size": 128, "max_size": 320}


@pytest.mark.parametrize(
    ("rule", "devices", "options", "expected"),
    [
        ("cvnets", 8, {}, {160: 328, 192: 224, 256: 128, 288: 128, 320: 128}),
        ("cvnets", 4, {}, {160: 328, 192: 228, 256: 128, 288: 128, 320: 128}),
        ("cvnets", 1, {}, {160: 327, 192: 227, 256: 128, 288: 128, 320: 128}),
        ("cvnets", 8, WIDE, {128: 512, 192: 224, 256: 128, 320: 128, 384: 128}),
        ("cvnets", 4, WIDE, {128: 512, 192: 228, 256: 128, 320: 128, 384: 128}),
        ("cvnets", 1, WIDE, {128: 512, 192: 227, 256: 128, 320: 128, 384: 128}),
        ("cvnets", 8, BASE_224, {128: 392, 192: 176, 224: 128, 288: 128, 320: 128}),
        ("area", 8, {}, {160: 327, 192: 227, 256: 128, 288: 101, 320: 81}),
        ("area", 1, {}, {160: 327, 192: 227, 256: 128, 288: 101, 320: 81}),
        ("area", 8, WIDE, {128: 512, 192: 227, 256: 128, 320: 81, 384: 56}),
        ("area", 8, BASE_224, {128: 392, 192: 174, 224: 128, 288: 77, 320: 62}),
    ],
)
def test_tables_of_the_reference_implementation(rule, devices, options, expected):
    config = SamplerConfig(
        batch_size=128 * devices, rule=rule, reference_devices=devices, **options
    )
    table = scale_table(config)
    assert {scale.height: scale.batch_size // devices for scale in table} == expected
    assert all(s.height == s.width and s.batch_size % devices == 0 for s in table)
    assert [s.height for s in table] == sorted(expected)


def test_sizes_given_outright_are_kept():
    table = scale_table(SamplerConfig(batch_size=64, base_size=32, sizes=(48, 32, 40)))
    assert [scale.height for scale in table] == [32, 40, 48]
    assert table[0].batch_size == 64


def test_standard_sampler_is_one_size():
    assert scale_table(SamplerConfig(sizes=(256,))) == (Scale(256, 256, 1024),)


@pytest.mark.parametrize("rule", ["cvnets", "area"])
@pytest.mark.parametrize("batch_size", [8, 24, 96, 1024])
def test_batch_at_the_base_size_is_the_one_asked_for(rule, batch_size):
    table = scale_table(SamplerConfig(batch_size=batch_size, rule=rule))
    batches = {scale.height: scale.batch_size for scale in table}
    assert batches[256] == batch_size
    assert batches[160] >= batch_size


def test_a_batch_is_never_empty():
    table = scale_table(SamplerConfig(batch_size=8, max_size=2048, rule="area"))
    assert table[-1] == Scale(2048, 2048, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 100}, "multiple of reference_devices 8; take 96 or 104"),
        ({"batch_size": 4}, "multiple of reference_devices 8; take 8"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"count": 0}, "count must be"),
        ({"min_size": 300, "max_size": 200}, "min_size 300 is larger than max_size 200"),
        ({"sizes": ()}, "sizes must be"),
        ({"sizes": (32, 32)}, "sizes must be"),
        ({"sizes": (32, -1)}, "sizes must be"),
        ({"rule": "aera"}, "did you mean 'area'"),
    ],
)
def test_invalid_settings(options, message):
    with pytest.raises(ConfigurationError, match=message):
        SamplerConfig(**options)


def test_check_devices():
    table = scale_table(SamplerConfig())
    for devices in (1, 2, 4, 8):
        check_devices(table, devices)
    with pytest.raises(
        ConfigurationError, match=r"2624 images at 160x160 .* 3 devices; .* 2622 or 2625"
    ):
        check_devices(table, 3)


@pytest.mark.parametrize(
    ("options", "updates"),
    [({}, 854.6), ({"rule": "area"}, 923.9), ({"sizes": (256,)}, 1252)],
)
def test_updates_of_an_imagenet_epoch(options, updates):
    table = scale_table(SamplerConfig(**options))
    steps = [steps_in_epoch(0, epoch, IMAGENET, table) for epoch in range(100)]
    assert np.mean(steps) == pytest.approx(updates, rel=0.01)


def test_scales_are_drawn_uniformly():
    table = scale_table(SamplerConfig())
    plan = plan_epoch(0, 0, IMAGENET, table)
    heights, counts = np.unique([batch.height for batch in plan], return_counts=True)
    assert heights.tolist() == [160, 192, 256, 288, 320]
    assert counts.min() > 0.75 * len(plan) / 5


TABLES = st.lists(
    st.tuples(st.integers(1, 64), st.integers(1, 300)), min_size=1, max_size=5, unique=True
).map(lambda pairs: tuple(Scale(size, size, batch) for size, batch in pairs))


@given(TABLES, st.integers(1, 1000), st.integers(0, 2**63), st.integers(0, 500))
def test_plan_covers_every_record_with_the_batches_of_the_table(table, examples, seed, epoch):
    plan = plan_epoch(seed, epoch, examples, table)
    allowed = {tuple(scale) for scale in table}
    assert all((b.height, b.width, len(b.ids)) in allowed for b in plan)
    ids = np.concatenate([batch.ids for batch in plan])
    assert ids.dtype == np.int64
    assert sorted(set(ids.tolist())) == list(range(examples))
    # Nothing comes twice before everything came once, and the last batch is needed.
    assert len(set(ids[:examples].tolist())) == examples
    assert sum(len(batch.ids) for batch in plan[:-1]) < examples
    # The filling comes from the front, in the same order.
    np.testing.assert_array_equal(ids, np.resize(ids[:examples], len(ids)))


@given(TABLES, st.integers(1, 1000), st.integers(0, 10**6), st.integers(0, 500))
def test_plan_is_pure_and_its_length_known_without_it(table, examples, seed, epoch):
    np.random.seed(seed % 1000)  # noqa: NPY002  global state must not matter
    first = plan_epoch(seed, epoch, examples, table)
    plan_epoch(seed, epoch + 1, examples, table)
    second = plan_epoch(seed, epoch, examples, table)
    assert len(first) == steps_in_epoch(seed, epoch, examples, table)
    for a, b in zip(first, second, strict=True):
        assert a[:2] == b[:2]
        np.testing.assert_array_equal(a.ids, b.ids)


def test_epochs_and_seeds_differ():
    table = (Scale(8, 8, 1000),)
    orders = {plan_epoch(s, e, 1000, table)[0].ids.tobytes() for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4


def test_plan_refuses_what_it_cannot_plan():
    with pytest.raises(DataError, match="no examples"):
        plan_epoch(0, 0, 0, (Scale(8, 8, 4),))
    with pytest.raises(ConfigurationError, match="empty"):
        plan_epoch(0, 0, 10, ())
    with pytest.raises(ConfigurationError, match="seed and epoch"):
        plan_epoch(-1, 0, 10, (Scale(8, 8, 4),))


@given(st.integers(0, 5), st.integers(1, 5), st.integers(1, 60))
def test_a_runs_plan_is_that_of_its_epochs(seed, epochs, examples):
    table = (Scale(8, 8, 8), Scale(16, 16, 3))
    run = RunPlan(seed, epochs, examples, table)
    plans = [plan_epoch(seed, epoch, examples, table) for epoch in range(epochs)]
    assert run.steps_of_epochs == [len(plan) for plan in plans]
    expected = [(epoch, planned) for epoch, plan in enumerate(plans) for planned in plan]
    assert len(run) == len(expected)
    for step, (epoch, planned) in reversed(list(enumerate(expected))):
        assert run[step].epoch == epoch and run[step][:2] == planned[:2]
        np.testing.assert_array_equal(run[step].ids, planned.ids)
    for outside in (-1, len(run)):
        with pytest.raises(IndexError, match=f"step {outside} of a run of {len(run)}"):
            run[outside]


def test_an_epoch_is_planned_once_and_when_it_is_asked_for(monkeypatch):
    planned = []

    def counted(seed, epoch, *others):
        planned.append(epoch)
        return plan_epoch(seed, epoch, *others)

    monkeypatch.setattr(sampler, "plan_epoch", counted)
    run = RunPlan(0, 100, 40, (Scale(8, 8, 10),))
    assert planned == []
    threads = [threading.Thread(target=lambda: [run[step] for step in range(12)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(planned)) == [0, 1, 2]
    del planned[:]
    for step in (12, 11, 13, 12):  # two epochs side by side, as threads ask for them
        run[step]
    assert planned == [3]


@given(st.integers(1, 500), st.integers(1, 64))
def test_evaluation_counts_every_record_once(examples, batch_size):
    plan = plan_evaluation(examples, 24, 32, batch_size)
    ids = np.concatenate([batch.ids for batch, _ in plan])
    weights = np.concatenate([weight for _, weight in plan])
    assert weights.dtype == np.float32 and ids.dtype == np.int64
    np.testing.assert_array_equal(ids[weights == 1], np.arange(examples))
    assert weights.sum() == examples
    assert all(b[:2] == (24, 32) and len(b.ids) == len(w) == batch_size for b, w in plan)
    assert ids.max() < examples


def test_evaluation_refuses_what_it_cannot_plan():
    with pytest.raises(DataError, match="no examples"):
        plan_evaluation(0, 8, 8, 4)
    with pytest.raises(ConfigurationError, match="batch_size"):
        plan_evaluation(4, 8, 8, 0)


def test_check_devices_names_the_parts_of_accumulation():
    with pytest.raises(ConfigurationError, match="among 4 devices in 2 parts each"):
        check_devices((Scale(64, 64, 12),), 4, parts=2)
