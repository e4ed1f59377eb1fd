"""Mixup and CutMix against their definitions, their draws, and training with everything on."""

# NumPy arrays stand for JAX's here.
# pyright: reportArgumentType=false, reportIndexIssue=false

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mobilevit_jax.data.augment import AugmentConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks import mixing
from mobilevit_jax.tasks.classification import ClassificationTask
from mobilevit_jax.tasks.classification_objective import ClassificationObjective, hits
from mobilevit_jax.tasks.mixing import mix_pairs
from mobilevit_jax.training import parallel
from mobilevit_jax.training.optimizer import OptimizerConfig
from mobilevit_jax.training.state import EMAConfig, state_from
from mobilevit_jax.training.step import make_train_step
from tests.small import (
    LinearNet,
    SmallNet,
    batch_of,
    build_small_net,
    random_variables,
    tiny_experiment,
)
from tests.training.test_loop import assert_identical, run, saved, without_clock

MIXUP = AugmentConfig(mixup_alpha=0.2, mixup_probability=1.0)
CUTMIX = AugmentConfig(cutmix_alpha=1.0, cutmix_probability=1.0)
BOTH = AugmentConfig(mixup_alpha=0.2, cutmix_alpha=1.0)
HEIGHT, WIDTH = 24, 36


def pictures(count=5, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8),
        "label": np.arange(count, dtype=np.int32),
        "weight": np.ones(count, np.float32),
    }


@functools.partial(jax.jit, static_argnames=("config", "processor"))
def mixed(batch, key, config, processor=None):
    return mix_pairs(batch, key, config, processor)


@pytest.mark.parametrize("processor", [None, ImageProcessor(mean=(0.2,) * 3, std=(0.5,) * 3)])
def test_mixup_is_its_definition(processor):
    batch = pictures()
    scaled = np.float32(batch["image"]) / 255
    images = scaled if processor is None else processor.normalised(scaled)
    shares = set()
    for seed in range(4):
        found = mixed(batch, jax.random.key(seed), MIXUP, processor)
        (share,) = set(np.asarray(found["share"]).tolist())
        shares.add(share)
        expected = share * images + (1 - share) * np.roll(images, 1, 0)
        np.testing.assert_allclose(found["image"], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found["label"], batch["label"])
        np.testing.assert_array_equal(found["other_label"], np.roll(batch["label"], 1))
        assert 0 <= share <= 1
    assert len(shares) == 4


def test_cutmix_is_its_definition():
    """Every pixel is of one of the two images, and the share is the area as it came out."""
    batch = pictures()
    images = np.float32(batch["image"]) / 255
    for seed in range(8):
        found = mixed(batch, jax.random.key(seed), CUTMIX)
        pixels = np.asarray(found["image"])
        own, other = (
            np.isclose(pixels, one, rtol=1e-6, atol=0).all(-1)
            for one in (images, np.roll(images, 1, 0))
        )
        assert (own ^ other).all() and (other == other[0]).all()
        rows, columns = np.flatnonzero(other[0].any(1)), np.flatnonzero(other[0].any(0))
        assert other[0].sum() == len(rows) * len(columns)
        share = 1 - other[0].sum() / (HEIGHT * WIDTH)
        np.testing.assert_allclose(found["share"], share, rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.9999, 1.0])
def test_boxes_are_those_of_the_definition(share):
    """Around a middle that is drawn evenly; the draw of the share gives half of the sides."""
    keys = jax.random.split(jax.random.key(0), 1500)
    draw = jax.vmap(lambda key: mixing._outside_of_box(key, jnp.float32(share), HEIGHT, WIDTH))
    outside, left = jax.jit(draw)(keys)
    inside = np.asarray(outside) == 0
    reach = np.sqrt(1 - np.float32(share)) / 2
    r_y, r_x = int(reach * HEIGHT), int(reach * WIDTH)
    boxes = {}
    for y in range(HEIGHT):
        for x in range(WIDTH):
            box = np.zeros((HEIGHT, WIDTH), bool)
            box[max(y - r_y, 0) : y + r_y, max(x - r_x, 0) : x + r_x] = True
            boxes.setdefault(box.tobytes(), []).append((y, x))
    middles = [boxes[one.tobytes()] for one in inside]
    np.testing.assert_allclose(left, 1 - inside.mean((1, 2)), rtol=1e-6, atol=1e-7)
    expected = np.mean([np.frombuffer(b, bool).mean() * len(n) for b, n in boxes.items()])
    expected *= len(boxes) / (HEIGHT * WIDTH)
    assert np.mean(inside) == pytest.approx(expected, rel=0.05)
    if share == 0.9:  # small boxes tell where their middles are
        ys, xs = np.array([np.mean(found, 0) for found in middles]).T
        assert abs(ys.mean() - (HEIGHT - 1) / 2) < 0.6 and abs(xs.mean() - (WIDTH - 1) / 2) < 0.9
        assert {0, HEIGHT - 1} <= set(ys) and {0, WIDTH - 1} <= set(xs)


def draws(config, count=2000):
    """Returns the share of each draw, and which it was: mixup, cutmix or neither."""
    keys = jax.random.split(jax.random.key(1), count)
    draw = jax.vmap(lambda key: mixing._draw_shares(key, HEIGHT, WIDTH, config))
    own, share = jax.device_get(jax.jit(draw)(keys))
    even = (own == own[:, :1, :1]).all((1, 2))
    return share, np.where(share == 1, "neither", np.where(even, "mixup", "cutmix"))


def test_one_of_the_two_is_drawn_and_then_whether():
    share, kind = draws(BOTH)
    assert np.isfinite(share).all()
    # A share of 1 is neither: so are boxes of no pixel, and 5% of the draws of beta(0.2, 0.2).
    assert np.mean(kind == "mixup") == pytest.approx(0.25 * 0.95, abs=0.03)
    assert np.mean(kind == "cutmix") == pytest.approx(0.25, abs=0.03)
    only = dataclasses.replace(BOTH, mixup_probability=1.0, cutmix_probability=1e-30)
    assert set(draws(only)[1]) == {"mixup", "neither"}


@pytest.mark.parametrize("alpha", [0.01, 0.2, 30.0])
def test_shares_are_of_a_beta_distribution(alpha):
    share, _ = draws(AugmentConfig(mixup_alpha=alpha, mixup_probability=1.0))
    assert share.min() >= 0 and share.max() <= 1
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_rows_of_weight_0_are_mixed_into_no_other():
    batch = pictures(6)
    for active in ([0, 2, 3, 5], [1, 4], [4], [0, 1, 2, 3, 4, 5]):
        batch["weight"] = np.isin(np.arange(6), active).astype(np.float32)
        found = jax.device_get(mixed(batch, jax.random.key(0), CUTMIX))
        partners = found["other_label"][active]
        np.testing.assert_array_equal(partners, np.roll(active, 1))
        garbage = {**batch, "image": batch["image"].copy()}
        garbage["image"][batch["weight"] == 0] = 7
        again = jax.device_get(mixed(garbage, jax.random.key(0), CUTMIX))
        np.testing.assert_array_equal(found["image"][active], again["image"][active])
    batch["weight"] = np.zeros(6, np.float32)
    assert np.isfinite(mixed(batch, jax.random.key(0), CUTMIX)["image"]).all()


def test_the_loss_is_that_of_soft_labels():
    """With label smoothing; a hit counts by the share of the label that was hit."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, 9)).astype(np.float32)
    batch = {
        "label": np.array([0, 3, 3, 8]),
        "other_label": np.array([8, 0, 3, 3]),
        "share": np.full(4, 0.7, np.float32),
    }
    one_hot = np.eye(9)
    soft = 0.7 * one_hot[batch["label"]] + 0.3 * one_hot[batch["other_label"]]
    soft = 0.9 * soft + 0.1 / 9
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses, metrics = ClassificationObjective(0.1, mix_pairs).loss(logits, batch)
    np.testing.assert_allclose(losses, -(soft * logs).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(metrics["loss"], losses)
    for name in ("top1", "top5"):
        own, other = (hits(logits, batch[label])[name] for label in ("label", "other_label"))
        np.testing.assert_allclose(metrics[name], 0.7 * own + 0.3 * other, rtol=1e-6)


class Step:
    """A step over the four devices, its loss and its update."""

    def __init__(self, model, mix, seed=0, **options):
        optimizer, objective = optax.sgd(1.0), ClassificationObjective(0.1, mix)
        step = make_train_step(model, optimizer, objective, EMAConfig(0.0), seed=seed, **options)
        variables = random_variables(model)
        self.mapped = parallel.pmap_train(step)
        self.state = state_from(variables, optimizer, EMAConfig(0.0), objective.metrics)

    def __call__(self, batch, step=0):
        state = dataclasses.replace(self.state, step=np.int32(step))
        state, metrics = self.mapped(parallel.replicate(state), parallel.shard(batch))
        return float(metrics["loss"]), state.params


@pytest.mark.parametrize("accumulation", [1, 2])
def test_draws_differ_by_seed_step_and_device_and_repeat(accumulation):
    seen = []

    def mix(batch, key):
        found = mix_pairs(batch, key, MIXUP)
        jax.debug.callback(lambda share: seen.append(float(share[0])), found["share"])
        return found

    step, other = (Step(LinearNet(), mix, seed, accumulation=accumulation) for seed in (0, 1))

    def drawn(one, number):
        seen.clear()
        one(batch_of(16), number)
        jax.effects_barrier()
        return sorted(seen)

    first, second, reseeded = drawn(step, 0), drawn(step, 1), drawn(other, 0)
    assert len({*first, *second, *reseeded}) == 12
    assert drawn(step, 0) == first and drawn(step, 1) == second


def test_rows_of_weight_0_change_neither_loss_nor_gradient():
    mix = functools.partial(mix_pairs, config=MIXUP)
    batch = batch_of(16)
    batch["weight"] = np.tile(np.float32([1, 0, 1, 1]), 4)
    other = {**batch, "image": batch["image"].copy()}
    other["image"][batch["weight"] == 0] += 1
    step = Step(LinearNet(), mix)
    (loss, params), (same, as_before) = step(batch), step(other)
    assert loss == same
    assert_identical(params, as_before)


def test_evaluation_is_of_whole_images():
    logits = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    batch = {"label": np.array([0, 3, 3, 8])}
    found = ClassificationObjective(0.1, mix_pairs).evaluate(logits, batch)
    assert_identical(found, ClassificationObjective().evaluate(logits, batch))


def test_accumulation_changes_nothing():
    """Pairs are made of all the rows of a device, before these are split."""
    mix = functools.partial(mix_pairs, config=MIXUP)
    whole, parts = (Step(LinearNet(), mix, accumulation=parts)(batch_of(16)) for parts in (1, 2))
    plain = Step(LinearNet(), None)(batch_of(16))
    assert whole[0] == pytest.approx(parts[0], rel=1e-5)
    for a, b in zip(jax.tree.leaves(whole[1]), jax.tree.leaves(parts[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert abs(whole[0] - plain[0]) > 1e-4


def test_dropout_draws_the_same_as_without():
    """Pairs that are never mixed leave a step as it is: dropout drops the same."""
    never = dataclasses.replace(MIXUP, mixup_probability=1e-30)
    model, batch = SmallNet(dropout=0.5), batch_of(8)
    plain = Step(model, None)(batch)
    same = Step(model, functools.partial(mix_pairs, config=never))(batch)
    assert same[0] == pytest.approx(plain[0], rel=1e-6)
    for a, b in zip(jax.tree.leaves(plain[1]), jax.tree.leaves(same[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def everything(data_dir):
    """RandAugment, erasing, Mixup, CutMix, bicubic crops, clipping and accumulation, two sizes."""
    augment = AugmentConfig(
        interpolation="bicubic",
        rand_augment=2,
        erase_probability=0.25,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
    )
    sampler = SamplerConfig(batch_size=8, base_size=32, sizes=(16, 32), reference_devices=1)
    optimizer = OptimizerConfig(clip_norm=10.0, accumulation=2)
    return tiny_experiment(data_dir, augment=augment, sampler=sampler, optimizer=optimizer)


@pytest.fixture(scope="module")
def whole(everything, tmp_path_factory):
    """The work directory of a run with everything that nothing happened to."""
    directory = tmp_path_factory.mktemp("whole")
    assert run(everything, directory)[0].finished
    return directory


@pytest.mark.slow
def test_it_trains_with_everything(everything, whole, tmp_path):
    rows = [row for row in without_clock(whole) if row["split"] == "train"]
    assert all(1 < row["loss"] < 3 and 0 <= row["top1"] <= row["top5"] <= 1 for row in rows)
    run(dataclasses.replace(everything, augment=AugmentConfig()), tmp_path)
    assert without_clock(tmp_path)[0]["loss"] != rows[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(5,), (2, 6)])
def test_an_interrupted_run_with_everything_ends_the_same(everything, whole, tmp_path, stops):
    for step in stops:
        assert not run(everything, tmp_path, stop_at=step)[0].finished
    assert run(everything, tmp_path)[0].finished
    assert without_clock(tmp_path) == without_clock(whole)
    last = without_clock(whole)[-1]["step"]
    assert_identical(saved(tmp_path, last), saved(whole, last))


def test_the_task_mixes_what_its_experiment_asks_for(data_dir, monkeypatch):
    monkeypatch.setattr(ModelConfig, "build", build_small_net)
    processor = ImageProcessor(size=32, crop_size=(32, 32), mean=(0.5,) * 3, std=(0.2,) * 3)
    batch = pictures(4)
    plain = ClassificationTask(tiny_experiment(data_dir, processor=processor))
    assert plain.objective.prepare(batch, jax.random.key(0)) is batch
    task = ClassificationTask(tiny_experiment(data_dir, processor=processor, augment=MIXUP))
    found = task.objective.prepare(batch, jax.random.key(3))
    expected = mix_pairs(batch, jax.random.key(3), MIXUP, processor)
    np.testing.assert_array_equal(found["image"], expected["image"])
