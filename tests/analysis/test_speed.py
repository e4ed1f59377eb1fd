"""Speed of models: what is timed, what the shares are of, and when memory does not suffice."""

import json

import jax
import numpy as np
import pytest

from mobilevit_jax.analysis import memory, programs, speed
from mobilevit_jax.analysis.counts import total_macs
from mobilevit_jax.analysis.programs import Setting, compile_program
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.heads.classifier import HEAD
from mobilevit_jax.tasks.classification_objective import ClassificationObjective
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.objective import DetectionObjective
from mobilevit_jax.tasks.segmentation.config import SegmentationConfig
from mobilevit_jax.tasks.segmentation.objective import SegmentationObjective
from mobilevit_jax.training.losses import LossConfig
from tests.small import TINY, SmallNet
from tests.test_package import run_without_heavy_modules

SMALL = {"variant": TINY}
CEILINGS = speed.Ceilings("float32", 4e9, 2e9)


class Clock:
    """A function to time that takes two seconds by a clock of its own, and notes its calls."""

    def __init__(self, monkeypatch):
        self.now, self.called, self.waited = 0.0, 0, []
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)

    def call(self):
        self.now += 2.0
        self.called += 1
        return self.called

    def wait(self, result):
        if result is not None:
            self.waited.append((result, self.called))


class TestTimeCalls:
    def test_each_call_is_waited_for_before_the_next(self, monkeypatch):
        clock = Clock(monkeypatch)
        seconds = speed.time_calls(clock.call, rounds=3, round_seconds=4, wait=clock.wait)
        assert seconds.rounds == (2.0, 2.0, 2.0)
        assert clock.called == 2 + 3 * 2
        assert all(result == called for result, called in clock.waited)
        assert {result for result, _ in clock.waited} == set(range(1, 9))

    def test_queued_calls_are_waited_for_one_behind(self, monkeypatch):
        clock = Clock(monkeypatch)
        seconds = speed.time_calls(
            clock.call, rounds=1, round_seconds=6, queued=True, wait=clock.wait
        )
        assert seconds.rounds == (2.0,)
        assert clock.waited == [(1, 1), (2, 2), (3, 4), (4, 5), (5, 5)]

    def test_a_round_has_a_call_however_long_it_takes(self, monkeypatch):
        clock = Clock(monkeypatch)
        speed.time_calls(clock.call, rounds=2, round_seconds=0.1, wait=clock.wait)
        assert clock.called == 2 + 2

    def test_no_rounds(self):
        with pytest.raises(ConfigurationError, match="rounds must be at least 1; got 0"):
            speed.time_calls(lambda: None, rounds=0)


def test_median_and_spread_are_of_the_rounds():
    seconds = speed.Seconds((1.0, 4.0, 2.0))
    assert (seconds.median, seconds.spread) == (2.0, 1.5)


class TestCeilings:
    def test_of_several_devices_together(self):
        devices = jax.local_devices()[:2]
        found = speed.measure_ceilings("bfloat16", devices, rounds=1, side=32, copied_bytes=4096)
        assert found.dtype == "bfloat16"
        assert found.operations_per_second > 0 and found.bytes_per_second > 0

    def test_are_those_of_the_fastest_round(self, monkeypatch):
        rounds = iter([speed.Seconds((0.5, 0.25)), speed.Seconds((0.125, 1.0))])
        monkeypatch.setattr(speed, "time_calls", lambda call, rounds_=2, **_: next(rounds))
        found = speed.measure_ceilings(rounds=2, side=64, copied_bytes=1024)
        assert found.operations_per_second == 2 * 64**3 / 0.25
        assert found.bytes_per_second == 2 * 1024 / 0.125  # read and written

    def test_say_what_they_need(self, monkeypatch):
        monkeypatch.setattr(memory, "available", lambda device: 10)
        with pytest.raises(ConfigurationError, match="ceilings needs 319 MB"):
            speed.measure_ceilings()


class TestSetting:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"model": "mobilevit_sx"}, "unknown model 'mobilevit_sx' .did you mean"),
            ({"dtype": "bfloat61"}, "unknown dtype 'bfloat61' .did you mean 'bfloat16'"),
            ({"work": "training"}, "unknown work 'training' .did you mean 'train'"),
            ({"size": 0}, "a size must be at least 1; got 0"),
            ({"batch": -1}, "a batch must be at least 1; got -1"),
            ({"options": {"fusoin": False}}, "unknown option 'fusoin'.*'fusion'"),
            ({"work": "train", "batch": 6}, "6 does not divide by 4 devices"),
        ],
    )
    def test_refuses(self, fields, message):
        with pytest.raises(ConfigurationError, match=message):
            Setting(**{"model": "mobilevit_s", **fields})

    @pytest.mark.parametrize(
        ("model", "side"),
        [("mobilevit_xs", 256), ("ssdlite_mobilevit_xs", 320), ("deeplabv3_mobilevit_xs", 512)],
    )
    def test_takes_the_published_size(self, model, side):
        assert Setting(model).side == side
        assert Setting(model, size=96).side == 96

    def test_a_training_step_counts_as_three_forward_passes(self):
        macs = total_macs(Setting("mobilevit_xxs", options=SMALL).build(), 64)
        for work, passes in (("forward", 1), ("train", 3)):
            setting = Setting("mobilevit_xxs", work, 64, 8, options=SMALL)
            assert setting.multiply_adds == 8 * passes * macs


@pytest.fixture(scope="module")
def program() -> programs.Program:
    """A forward pass, compiled."""
    return compile_program(Setting("mobilevit_xxs", size=32, batch=2, options=SMALL))


def test_a_forward_pass(program, monkeypatch):
    monkeypatch.setattr(speed, "compile_program", lambda setting: program)
    row = speed.measure_model(
        "mobilevit_xxs", size=32, batch=2, options=SMALL, rounds=2, ceilings=CEILINGS
    )
    median = row.seconds.median
    assert (row.devices, len(row.seconds.rounds)) == (1, 2)
    assert row.images_per_second == pytest.approx(2 / median)
    assert row.operations_per_second == pytest.approx(2 * row.multiply_adds / median)
    assert row.share_of_matmul == pytest.approx(row.operations_per_second / 4e9)
    assert row.bytes_accessed and row.share_of_copy == pytest.approx(
        row.bytes_accessed / median / 2e9
    )
    images, logits = 2 * 32 * 32 * 3 * 4, 2 * 1000 * 4
    assert row.argument_bytes and row.argument_bytes > images
    assert row.output_bytes == logits
    assert row.lower_seconds > 0 and row.compile_seconds > 0
    written = json.loads(json.dumps(row.as_json()))
    assert (written["size"], written["seconds"]["median"]) == (32, median)
    assert "Variant(" in written["options"]["variant"]


def test_the_answers_are_those_of_the_model(program):
    logits = program.start()()
    model, rng = program.setting.build(), np.random.default_rng(0)
    images = rng.random((2, 32, 32, 3), np.float32)
    apply = jax.jit(lambda variables, images: model.apply(variables, images))
    expected = apply(programs.draw_variables(model), images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert np.std(logits) > 1e-3


def test_a_training_step_goes_on_from_the_one_before(monkeypatch):
    monkeypatch.setattr(programs, "create_model", lambda name, dtype: SmallNet(10))
    monkeypatch.setattr(programs, "head_of", lambda model: HEAD)
    program = compile_program(Setting("mobilevit_xxs", "train", 32, 8))
    assert len(program.devices) == 4
    call = program.start()
    losses = [float(call()["loss"]) for _ in range(3)]
    assert np.isfinite(losses).all() and len(set(losses)) == 3
    assert losses[0] == pytest.approx(np.log(10), rel=0.3)
    images = 8 * 32 * 32 * 3
    assert program.argument_bytes and program.argument_bytes > images
    assert program.output_bytes is not None  # the state is written over the one before
    assert program.output_bytes < program.argument_bytes - images


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        ("ssdlite_mobilevit_xxs", DetectionObjective),
        ("deeplabv3_mobilevit_xxs", SegmentationObjective),
    ],
)
def test_other_tasks_train_with_their_own_loss(model, objective):
    setting = Setting(model, "train", 32, 4, options=SMALL)
    built = setting.build()
    assert isinstance(programs.objective_of(built), objective)
    batch = programs.draw_batch(built, 32, 4)
    function, arguments, _ = programs._training(built, setting)
    assert "image" in arguments[1] and {*arguments[1]} == {*batch}
    _, metrics = jax.eval_shape(function, *arguments)
    assert metrics["loss"].shape == ()


def test_objectives_have_the_defaults_of_the_experiments():
    segmentation, detection = SegmentationConfig(), DetectionConfig()
    assert SegmentationObjective() == SegmentationObjective(
        segmentation.aux_weight, segmentation.convention
    )
    assert DetectionObjective(None) == DetectionObjective(
        None, detection.match_threshold, detection.negative_ratio
    )
    assert ClassificationObjective() == ClassificationObjective(LossConfig().label_smoothing)


def test_drawn_objects_are_boxes():
    drawn = programs.draw_batch(Setting("ssdlite_mobilevit_s").build(), 8, 3)
    assert (drawn["boxes"][..., 2:] >= drawn["boxes"][..., :2]).all()
    assert drawn["boxes"].min() >= 0 and drawn["boxes"].max() <= 1
    assert drawn["labels"].min() >= 1  # 0 is padding


def test_nothing_to_train():
    model = Setting("mobilevit_xxs", options={"num_classes": 0}).build()
    with pytest.raises(ConfigurationError, match="num_classes 0"):
        programs.objective_of(model)


class TestMemory:
    def test_inputs_that_do_not_fit_are_not_even_compiled(self, monkeypatch):
        monkeypatch.setattr(memory, "available", lambda device: 10**9)
        monkeypatch.setattr(programs, "_bytes", lambda *_: pytest.fail("it was compiled"))
        with pytest.raises(ConfigurationError, match="batch 99999, float32 needs 78.7 GB of mem"):
            compile_program(Setting("mobilevit_s", batch=99_999))

    def test_what_lives_between_them_counts(self, program, monkeypatch):
        assert program.total_bytes and program.temporary_bytes and program.argument_bytes
        there = program.argument_bytes + program.temporary_bytes // 2
        monkeypatch.setattr(memory, "available", lambda device: there)
        with pytest.raises(ConfigurationError, match="choose a smaller batch or size"):
            speed.measure(program, CEILINGS)
        monkeypatch.setattr(memory, "available", lambda device: 4 * program.total_bytes)
        programs.check_memory(program)

    def test_unknown_is_not_too_little(self):
        memory.check(10**18, None, "it")

    def test_a_peak_that_is_over(self):
        with memory.peak(jax.devices()[0]) as peak:
            held = np.ones(50_000_000, np.uint8)
            del held
        if peak.most is None:
            pytest.skip("the peak cannot be set back here")
        assert peak.of == "process"
        assert peak.before is not None and peak.held == peak.most - peak.before
        assert peak.held is not None and 45e6 < peak.held < 150e6

    def test_a_peak_of_a_device(self):
        device = FakeDevice(bytes_in_use=5, peak_bytes_in_use=7)
        with memory.peak(device) as peak:
            device.stats["peak_bytes_in_use"] = 9
        assert (peak.most, peak.before, peak.held, peak.of) == (9, 5, 4, "device")
        with memory.peak(device) as peak:  # as high as before, so nobody knows
            pass
        assert peak.most is None and peak.held is None

    def test_what_a_device_has_left(self):
        assert memory.available(FakeDevice(bytes_limit=10, bytes_in_use=4)) == 6
        assert memory.available(FakeDevice()) is None
        assert memory.available(FakeDevice(bytes_in_use=4)) is None

    def test_the_limit_of_a_container(self, monkeypatch, tmp_path):
        for name, text in (("meminfo", "MemAvailable: 5 kB\n"), ("max", "3000"), ("used", "1000")):
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(memory, "_SYSTEM", tmp_path)
        monkeypatch.setattr(memory, "_GROUPS", ())
        assert memory.available(jax.devices()[0]) == 5 * 1024
        groups = ((tmp_path / "max", tmp_path / "used"), (tmp_path / "none", tmp_path / "none"))
        monkeypatch.setattr(memory, "_GROUPS", groups)
        assert memory.available(jax.devices()[0]) == 2000
        (tmp_path / "max").write_text("max\n")
        assert memory.available(jax.devices()[0]) == 5 * 1024

    def test_where_there_is_no_proc(self, monkeypatch, tmp_path):
        for name in ("_SYSTEM", "_PROCESS"):
            monkeypatch.setattr(memory, name, tmp_path / "none")
        monkeypatch.setattr(memory, "_GROUPS", ())
        assert memory.available(jax.devices()[0]) is None
        with memory.peak(jax.devices()[0]) as peak:
            pass
        assert (peak.most, peak.before) == (None, None)


class FakeDevice:
    """Tells what a GPU or TPU does."""

    platform = "gpu"

    def __init__(self, **stats):
        self.stats = stats

    def memory_stats(self):
        return dict(self.stats) or None


def test_forward_passes_need_only_jax_flax_and_optax():
    code = """
import os
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # it looks for TensorFlow
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
from mobilevit_jax.analysis.speed import measure_ceilings, measure_model
from mobilevit_jax.models import Variant
variant = Variant((8, 8, 8, 8, 8, 8), (8, 8, 8), 1, 16, dropout=0.1, depths=(1, 1, 1), heads=2)
ceilings = measure_ceilings(rounds=1, side=32, copied_bytes=4096)
options = {"variant": variant}
row = measure_model("mobilevit_xxs", size=32, batch=2, options=options, rounds=1, ceilings=ceilings)
print(row.images_per_second > 0)
"""
    result = run_without_heavy_modules(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "True\n"


def test_training_steps_need_only_jax_flax_and_optax():
    code = """
from mobilevit_jax.analysis.programs import Setting, draw_batch, objective_of
for name in ("mobilevit_xxs", "ssdlite_mobilevit_xxs", "deeplabv3_mobilevit_xxs"):
    model = Setting(name).build()
    print(type(objective_of(model)).__name__, *sorted(draw_batch(model, 32, 2)))
"""
    result = run_without_heavy_modules(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "ClassificationObjective image label weight",
        "DetectionObjective boxes image labels weight",
        "SegmentationObjective image mask weight",
    ]
