"""Compiling for devices that are not there: targets, what fits, what is told."""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportOptionalOperand=false
# pyright: reportCallIssue=false

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from mobilevit_jax.analysis import chips, tpu_programs
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.tasks import create_task
from mobilevit_jax.training import parallel
from mobilevit_jax.training.schedule import warmup_cosine
from mobilevit_jax.training.setup import abstract_state, begin
from tests.small import build_small_net, tiny_experiment

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.py"


@pytest.mark.parametrize(
    ("name", "topology", "number"),
    [
        ("v5e-8", "v5e:2x4", 8),
        ("v5litepod-8", "v5e:2x4", 8),
        ("v4-8", "v4:2x2x1", 4),
        ("v5p-16", "v5p:2x2x2", 8),
        ("V6E-1", "v6e:1x1", 1),
    ],
)
def test_targets_by_name(name, topology, number):
    target = chips.target_named(name)
    assert (target.topology, target.chips) == (topology, number)


@pytest.mark.parametrize("name", ["v5e-7", "v4-4", "v4-9", "v9-8", "v5e", "", "v5e-8-8"])
def test_an_unknown_target_names_those_that_there_are(name):
    with pytest.raises(ConfigurationError, match="unknown target .*v4-8.*v5e-8"):
        chips.target_named(name)


def test_all_names_are_understood():
    for name in chips.targets():
        assert chips.target_named(name).name == name


@pytest.fixture
def small(monkeypatch):
    """An experiment of a small network, and its data set described in place of being there."""
    monkeypatch.setattr(ModelConfig, "build", build_small_net)
    settings = tiny_experiment("nowhere")
    return settings, tpu_programs.described(settings, ["a", "b", "c"], 100)


def steps(settings, info, chip):
    with parallel.mapped_over(jax.devices()[:2]):
        task = create_task(settings, info)
        return task, list(tpu_programs.compile_steps(settings, task, chip, lambda text: None))


def test_every_step_is_compiled_for_the_devices_that_are_asked_for(small):
    settings, info = small
    task, found = steps(settings, info, chips.CHIPS["v5e"])
    largest_first = sorted((f"{s.name}" for s in task.table), key=lambda n: -int(n.split("x")[0]))
    assert [one.size for one in found if one.step == "train"] == largest_first
    assert [one.step for one in found][-1] == "evaluate"
    for one in found:
        assert one.fits and one.memory > one.temporary > 0
        peak = one.operations / 197e12, one.accessed / 819e9
        assert one.bound_seconds == max(peak) > 0
    # Two devices share the rows.
    with parallel.mapped_over(jax.devices()[:1]):
        task = create_task(settings, info)
        alone = next(tpu_programs.compile_steps(settings, task, chips.CHIPS["v5e"], print))
    assert 1.5 < alone.operations / found[0].operations < 2.5


def test_what_does_not_fit_is_told(small):
    chip = dataclasses.replace(chips.CHIPS["v5e"], memory=1000)
    _, found = steps(*small, chip)
    assert not any(one.fits for one in found)


def test_the_compilers_refusal_is_read():
    text = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 21.50G of 15.75G hbm. Exceeded hbm capacity by 5.75G."
    )
    assert tpu_programs._used(text) == 21.5 * 2**30
    assert tpu_programs._used("RESOURCE_EXHAUSTED: something else") is None


def test_the_state_has_the_shapes_of_a_run(small):
    settings, info = small
    task = create_task(settings, info)
    rate = warmup_cosine(settings.schedule, task.steps_of_epochs)
    create, _ = begin(settings, task, rate)
    told, made = abstract_state(settings, task, rate), create()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), told) == jax.tree.map(
        lambda x: (x.shape, x.dtype), made
    )


def test_batches_must_divide_among_the_target(small):
    settings, info = small
    with parallel.mapped_over([None] * 7), pytest.raises(ConfigurationError, match="7 devices"):
        create_task(settings, info)


with_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu: libtpu is missing"
)


@pytest.mark.slow
@with_compiler
def test_a_small_model_compiles_for_a_tpu(tmp_path):
    output = tmp_path / "fits.json"
    options = ("--tiny", "--sampler.sizes", "32", "--target", "v5e-8", "--output", str(output))
    ran = subprocess.run(
        [sys.executable, "-m", "mobilevit_jax", "compile", str(QUICKSTART), *options],
        env=os.environ | {"XLA_FLAGS": "", "ALLOW_MULTIPLE_LIBTPU_LOAD": "true"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(output.read_text())
    assert [step["step"] for step in told["steps"]] == ["train", "evaluate"]
    assert all(step["fits"] and step["accessed"] > 0 for step in told["steps"])
    assert told["chip"]["kind"] == "v5e" and "8 devices of 16 GiB" in ran.stderr


@pytest.mark.slow
@with_compiler
def test_options_of_another_task_are_refused():
    detector = QUICKSTART.parent / "detection" / "ssdlite_mobilevit_xxs.py"
    ran = subprocess.run(
        [sys.executable, "-m", "mobilevit_jax", "compile", detector, "--augment.mixup-alpha", "1"],
        env=os.environ | {"XLA_FLAGS": "", "ALLOW_MULTIPLE_LIBTPU_LOAD": "true"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2 and "augment.mixup_alpha; leave that out" in ran.stderr


KERNELS = """
import jax
from mobilevit_jax.analysis.chips import target_named
from mobilevit_jax.analysis.tpu_programs import topology_of
from mobilevit_jax.ops.flash import flash_attention, flash_gradients, suits_flash

with topology_of(target_named("v5e-8")) as devices:
    place = jax.sharding.SingleDeviceSharding(devices[0])

    def compiled(function, *shapes):
        operands = [jax.ShapeDtypeStruct(*shape, sharding=place) for shape in shapes]
        lowered = jax.jit(function, static_argnums=len(shapes)).trace(*operands, 4)
        return lowered.lower(lowering_platforms=("tpu",)).compile().as_text()

    for tokens, width, dtype in (
        (256, 64, "bfloat16"), (100, 80, "bfloat16"), (400, 144, "float32"),
        (1024, 144, "float32"), (1024, 240, "bfloat16"),
    ):
        qkv, one = ((16, 3 * width, tokens), dtype), ((16, width, tokens), dtype)
        assert suits_flash(jax.numpy.zeros((1, tokens, 3 * width), dtype)), (tokens, width)
        assert "tpu_custom_call" in compiled(flash_attention, qkv)
        assert "tpu_custom_call" in compiled(flash_gradients, qkv, one, one)
"""


@pytest.mark.slow
@with_compiler
def test_the_kernels_of_attention_compile_for_a_tpu():
    """Of few tokens, of those that fill no lanes, and of the most that one works on."""
    ran = subprocess.run(
        [sys.executable, "-c", KERNELS],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "true"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="the compiler is installed"
)
def test_without_the_compiler_it_says_how_to_get_it():
    with pytest.raises(ConfigurationError, match=r"mobilevit-jax\[tpu\]"):
        with tpu_programs.topology_of(chips.target_named("v5e-8")):
            pass


def test_another_process_at_the_compiler():
    error = RuntimeError("The TPU is already in use by process with pid 5; see libtpu_lockfile")
    assert "another process holds libtpu" in str(tpu_programs._no_compiler(error))
