"""Models and runs of seconds, for tests of what is built around a model."""

from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from mobilevit_jax.analysis.programs import draw_batch, objective_of
from mobilevit_jax.config import DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models import Classifier, Model, Variant, create_model
from mobilevit_jax.models.backbones import mobilenetv2, mobilevitv2, resnet
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.models.layers import BatchNorm, Conv
from mobilevit_jax.models.variables import variable_shapes
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training import parallel
from mobilevit_jax.training.losses import cross_entropy
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig, create_state
from mobilevit_jax.training.step import Objective as StepObjective
from mobilevit_jax.training.step import make_train_step

SMALL_RESNET = resnet.Variant((1, 1, 1, 1), 1, (8, 8, 8, 12, 16))
TINY = Variant((8, 8, 8, 8, 8, 8), (8, 8, 8), 1, 16, dropout=0.1, depths=(1, 1, 1), heads=2)
# Of every family a network with each of its blocks.
SMALL: dict[str, Any] = {
    "mobilenetv2": mobilenetv2.Variant((8, 8, 8, 8, 16, 16, 16, 24), 32),
    "mobilevit": TINY,
    "mobilevitv2": mobilevitv2.Variant((8, 8, 8, 8, 8, 8), (8, 8, 8), depths=(1, 1, 1)),
    "resnet": resnet.Variant((1, 2, 1, 1), 4, (8, 8, 12, 16, 20)),
}


def tiny_model(num_classes: int = 6, **options: Any) -> Classifier:
    """Returns a MobileViT of some 10,000 parameters with every kind of layer."""
    return create_model("mobilevit_xxs", variant=TINY, num_classes=num_classes, **options)


def random_variables(model: nn.Module, seed: int = 0) -> Any:
    """Draws variables with NumPy, since compiling `init` would take longer than the test."""
    if isinstance(model, Model):  # traced once
        shapes = variable_shapes(model).items()
        abstract = traverse_util.unflatten_dict(
            {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes}
        )
    else:
        abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        normal = rng.standard_normal(leaf.shape).astype(np.float32)
        kind = path[-1].key
        if kind == "kernel":
            return normal * np.float32(np.prod(leaf.shape[:-1]) ** -0.5)
        if kind in ("scale", "var"):
            return 1 + 0.1 * np.abs(normal)
        return 0.1 * normal

    return jax.tree_util.tree_map_with_path(draw, abstract)


def train_twice(model: Model, size: int) -> Any:
    """Trains for two steps on all devices, and returns the variables.

    The loss must fall, and every parameter of the backbone must have moved, which it does by its
    gradient alone: nothing decays. Neither moments nor an average make the program larger.
    """
    # Of unequal length, or a gradient that changes its sign would lead back to where it began.
    rate = lambda step: 1e-3 / (1 + step)  # noqa: E731
    optimizer, ema = optax.sign_sgd(rate), EMAConfig(decay=0)
    objective = objective_of(model)
    state = create_state(model, optimizer, ema, objective.metrics, 0)
    before = jax.device_get(state.variables)
    step = parallel.pmap_train(make_train_step(model, optimizer, objective, ema, seed=0))
    batch = parallel.shard(draw_batch(model, size, 2 * jax.device_count()))
    state, losses = parallel.replicate(state), []
    for _ in range(2):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[1] < losses[0]
    variables = jax.device_get(state.variables)
    moved = jax.tree.map(lambda old, new: not np.array_equal(old, new), before, variables)
    assert all(jax.tree.leaves(moved["params"]["backbone"]))
    return variables


class SmallNet(nn.Module):
    """Convolution, batch norm, pooling, dropout, classifier."""

    num_classes: int = 6
    dropout: float = 0.0
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images [b, h, w, 3] to logits [b, num_classes]."""
        x = Conv(8, 3, 2, name="conv")(images)
        x = nn.silu(BatchNorm(axis_name=self.bn_axis_name, name="norm")(x, train))
        x = nn.Dropout(self.dropout)(jnp.mean(x, (1, 2)), deterministic=not train)
        return nn.Dense(self.num_classes, name="classifier")(x)


class LinearNet(nn.Module):
    """A linear classifier of mean colours: no batch norm, no dropout."""

    num_classes: int = 6

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images [b, h, w, 3] to logits [b, num_classes]."""
        return nn.Dense(self.num_classes, name="classifier")(jnp.mean(images, (1, 2)))


class Objective(StepObjective):
    """The least that the steps ask of a task."""

    metrics: ClassVar[tuple[str, ...]] = ("loss",)

    def loss(
        self, outputs: jax.Array, batch: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Label-smoothed cross-entropy."""
        losses = cross_entropy(outputs, batch["label"], 0.1)
        return losses, {"loss": losses}

    def evaluate(self, outputs: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Cross-entropy without smoothing."""
        return {"loss": cross_entropy(outputs, batch["label"])}


def batch_of(count: int, size: int = 16, *, seed: int = 0, classes: int = 6) -> dict[str, Any]:
    """Returns `count` random images with labels and weights of 1."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.random((count, size, size, 3), np.float32),
        "label": rng.integers(0, classes, count, np.int32),
        "weight": np.ones(count, np.float32),
    }


def tiny_experiment(data_dir: Path, **options: Any) -> Experiment:
    """Returns two epochs of four steps on the data set `shapes/tiny`, at 32 pixels.

    Args:
        data_dir: Where the data set is prepared.
        **options: Other fields of the experiment.
    """
    defaults = {
        "name": "tiny",
        "epochs": 2,
        "log_every": 3,
        "model": ModelConfig("mobilevit_xxs"),
        "data": DataConfig("shapes/tiny", str(data_dir), test="test"),
        "processor": ImageProcessor(size=32, crop_size=(32, 32)),
        "sampler": SamplerConfig(batch_size=16, base_size=32, sizes=(32,), reference_devices=1),
        "loader": LoaderConfig(threads=2),
        "schedule": ScheduleConfig(warmup_steps=2, cosine_by="step"),
        "ema": EMAConfig(decay=0.5),
        "evaluation": EvaluationConfig(batch_size=12),
    }
    return Experiment(**{**defaults, **options})


def build_small_net(config: ModelConfig, num_classes: int, bn_axis_name: str) -> SmallNet:
    """Takes the place of `ModelConfig.build` where a MobileViT would only take time to compile."""
    return SmallNet(
        config.num_classes or num_classes,
        dropout=0.1,
        bn_axis_name=bn_axis_name if config.sync_batch_norm else None,
    )
