"""What the benchmark of models runs: a forward pass or a training step, compiled, on drawn inputs.

Nothing but JAX, Flax and Optax is needed: data are drawn, and the objectives of training stand
apart from what reads their tasks' data.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mobilevit_jax.analysis import memory
from mobilevit_jax.analysis.counts import total_macs
from mobilevit_jax.analysis.memory import Device
from mobilevit_jax.errors import ConfigurationError, unknown_name
from mobilevit_jax.models.model import Model
from mobilevit_jax.models.registry import create_model, head_of
from mobilevit_jax.models.variables import variable_shapes
from mobilevit_jax.tasks.classification_objective import ClassificationObjective
from mobilevit_jax.tasks.detection.objective import DetectionObjective
from mobilevit_jax.tasks.detection.yolox.objective import YoloxObjective
from mobilevit_jax.tasks.segmentation.objective import SegmentationObjective
from mobilevit_jax.training import parallel
from mobilevit_jax.training.compile import lower
from mobilevit_jax.training.compile_counts import Compilations
from mobilevit_jax.training.optimizer import OptimizerConfig, create_optimizer
from mobilevit_jax.training.state import EMAConfig, TrainState, state_from
from mobilevit_jax.training.step import Objective, make_train_step

DTYPES = ("float32", "bfloat16")
WORK = ("forward", "train")
# The gradients by a layer's input and by its weights each take as many as its output.
_FORWARD_PASSES = {"forward": 1, "train": 3}
_LEARNING_RATE = 1e-4
_BOXES = 8  # objects of a drawn image; COCO has 7 on average

Call = Callable[[], Any]
Start = Callable[[Callable[..., Any]], Call]


@dataclass(frozen=True)
class Setting:
    """One thing to measure.

    Attributes:
        model: One of `list_models()`.
        work: "forward", `model.apply` under `jit` on one device; or "train", the training step of
            the model's task on all local devices, with AdamW and the average of the weights.
        size: Height and width of the images; None takes what the model was published for: 256,
            320 for detectors, 512 for segmentation models.
        batch: Images of a call, over all devices.
        dtype: Type of the computation, "float32" or "bfloat16"; parameters stay float32.
        options: Further options of `create_model`.
    """

    model: str
    work: str = "forward"
    size: int | None = None
    batch: int = 1
    dtype: str = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, name, allowed in (("work", self.work, WORK), ("dtype", self.dtype, DTYPES)):
            if name not in allowed:
                raise unknown_name(what, name, allowed)
        for what, number in (("a size", self.size), ("a batch", self.batch)):
            if number is not None and number < 1:
                raise ConfigurationError(f"{what} must be at least 1; got {number}")
        self.build()
        devices = jax.local_device_count()
        if self.work == "train" and self.batch % devices:
            raise ConfigurationError(
                f"a training step's batch of {self.batch} does not divide by {devices} devices; "
                f"choose a multiple of {devices}"
            )

    def __str__(self) -> str:
        text = f"{self.model} {self.work} {self.side}x{self.side}, batch {self.batch}, {self.dtype}"
        more = [f"{name}={value}" for name, value in self.options.items()]
        return ", ".join([text, *more])

    def build(self) -> Any:
        """Creates the model.

        Raises:
            ConfigurationError: As `create_model` does.
        """
        return create_model(self.model, **{"dtype": jnp.dtype(self.dtype), **self.options})

    @property
    def side(self) -> int:
        """The size that stands here or is the model's own."""
        return self.size or head_of(self.build()).input_size

    @property
    def multiply_adds(self) -> int:
        """Of a call; those of a training step are counted as three forward passes.

        Optimizer, loss, recomputed activations and an auxiliary head are not counted.
        """
        passes = _FORWARD_PASSES[self.work]
        return passes * self.batch * total_macs(self.build(), self.side)


@dataclass(frozen=True, kw_only=True)
class Account:
    """What compiling a piece of work took, and XLA's own account of it.

    Attributes:
        lower_seconds: Tracing and lowering to XLA's input.
        compile_seconds: XLA's compilation, or reading its result from the persistent cache.
        from_cache: Whether it was read.
        argument_bytes: Of all inputs on all devices, as the next three; None where XLA does not
            tell.
        output_bytes: Of what is not written over inputs.
        temporary_bytes: Of what lives during the call only.
        bytes_accessed: Read and written by XLA's fused operations, by its own cost analysis.
    """

    lower_seconds: float
    compile_seconds: float
    from_cache: bool
    argument_bytes: int | None
    output_bytes: int | None
    temporary_bytes: int | None
    bytes_accessed: float | None

    @property
    def total_bytes(self) -> int | None:
        """Inputs, outputs and what lives between them."""
        parts = (self.argument_bytes, self.output_bytes, self.temporary_bytes)
        told = [part for part in parts if part is not None]
        return sum(told) if told else None


@dataclass(frozen=True)
class Program(Account):
    """A compiled piece of work.

    Attributes:
        setting: What it is.
        devices: Where it runs.
        start: Places drawn inputs on the devices and returns the call to be timed, whose result is
            waited for; each call of a training step goes on from the one before.
        text: Returns XLA's program, as it is run.
    """

    setting: Setting
    devices: tuple[Device, ...]
    start: Callable[[], Call]
    text: Callable[[], str]


def compile_program(setting: Setting) -> Program:
    """Traces, lowers and compiles a setting; no input is made yet.

    Raises:
        ConfigurationError: If the work needs more memory than there is.
    """
    training = setting.work == "train"
    devices = tuple(jax.local_devices()[: None if training else 1])
    function, arguments, start = (_training if training else _forward)(setting.build(), setting)
    least = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arguments))
    memory.check(least, _available(devices), str(setting))  # compiling may take minutes
    with Compilations() as counted:
        begin = time.perf_counter()
        lowered = lower(function, *arguments)
        middle = time.perf_counter()
        compiled = lowered.compile()
        end = time.perf_counter()
    program = Program(
        setting,
        devices,
        lambda: start(compiled),
        compiled.as_text,
        lower_seconds=middle - begin,
        compile_seconds=end - middle,
        from_cache=0 < counted.programs == counted.cached,
        **_bytes(compiled, len(devices)),
    )
    check_memory(program)
    return program


def check_memory(program: Program) -> None:
    """Raises ConfigurationError if a program needs more memory than there is now."""
    memory.check(program.total_bytes or 0, _available(program.devices), str(program.setting))


def _available(devices: tuple[Device, ...]) -> int | None:
    """Returns the bytes that all devices have together; those of CPUs share one memory."""
    there = memory.available(devices[0])
    shared = devices[0].platform == "cpu"
    return there if there is None or shared else there * len(devices)


def _bytes(compiled: jax.stages.Compiled, devices: int) -> dict[str, Any]:
    """Returns the fields of `Account` that XLA tells of a program that each device has."""
    sizes: Any = compiled.memory_analysis()
    one = {
        "argument_bytes": sizes and sizes.argument_size_in_bytes,
        "output_bytes": sizes and sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "temporary_bytes": sizes and sizes.temp_size_in_bytes,
        "bytes_accessed": (compiled.cost_analysis() or {}).get("bytes accessed"),
    }
    return {name: value and devices * value for name, value in one.items()}


def _forward(model: Model, setting: Setting) -> tuple[Any, tuple[Any, ...], Start]:
    """Returns the function to compile, the shapes of its arguments, and what starts it."""
    shape = (setting.batch, setting.side, setting.side, 3)
    arguments = _abstract_variables(model), jax.ShapeDtypeStruct(shape, np.float32)

    def start(compiled: Callable[..., Any]) -> Call:
        rng = np.random.default_rng(0)
        images = jax.device_put(rng.random(shape, np.float32))
        variables = jax.device_put(draw_variables(model))
        return lambda: compiled(variables, images)

    return jax.jit(lambda variables, images: model.apply(variables, images)), arguments, start


def _training(model: Model, setting: Setting) -> tuple[Any, tuple[Any, ...], Start]:
    """See `_forward`; the call returns the metrics and keeps the state."""
    objective = objective_of(model)
    optimizer = create_optimizer(OptimizerConfig(), lambda step: jnp.asarray(_LEARNING_RATE))
    ema = EMAConfig()
    step = parallel.pmap_train(make_train_step(model, optimizer, objective, ema, seed=0))
    devices = jax.local_device_count()

    def fresh(variables: Any) -> TrainState:
        return state_from(variables, optimizer, ema, objective.metrics)

    rows = {  # of one image, since a large batch must not be made before it is known to fit
        name: jax.ShapeDtypeStruct(
            (devices, setting.batch // devices, *array.shape[1:]), array.dtype
        )
        for name, array in draw_batch(model, setting.side, 1).items()
    }
    state = jax.eval_shape(fresh, _abstract_variables(model))

    def start(compiled: Callable[..., Any]) -> Call:
        batch = parallel.shard(draw_batch(model, setting.side, setting.batch))
        kept = [parallel.replicate(fresh(draw_variables(model)))]

        def call() -> Any:
            state, metrics = compiled(kept.pop(), batch)  # which gives the old state's memory away
            kept.append(state)
            return metrics

        return call

    return step, (state, rows), start


def objective_of(model: Model) -> Objective:
    """Returns the loss of a model's task with that task's default settings.

    Raises:
        ConfigurationError: If the model has no classes to be trained.
    """
    if not model.num_classes:
        raise ConfigurationError("a model without classes (num_classes 0) has nothing to train")
    task = head_of(model).task
    if task == "detection":
        # As `tasks.detection.kinds` tells them apart, which needs what reads data.
        return YoloxObjective(model) if hasattr(model, "points") else DetectionObjective(model)
    return SegmentationObjective() if task == "segmentation" else ClassificationObjective()


def draw_batch(model: Model, size: int, batch: int) -> dict[str, np.ndarray]:
    """Draws what a training step takes, as the model's task makes it of data.

    Args:
        model: The model.
        size: Height and width of the images.
        batch: How many.

    Returns:
        "image" uint8 [b, size, size, 3], "weight" [b]; and "label" [b], or of eight objects an
        image "boxes" [b, 8, 4] and "labels" [b, 8] (of a YOLOX also "l1" [b], zeros), or "mask"
        uint8 [b, size, size].
    """
    rng = np.random.default_rng(0)
    drawn: dict[str, np.ndarray] = {
        "image": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        "weight": np.ones(batch, np.float32),
    }
    task = head_of(model).task
    if task == "classification":
        drawn["label"] = rng.integers(0, model.num_classes, batch, np.int32)
    elif task == "detection":
        low = rng.random((batch, _BOXES, 2), np.float32)
        high = low + (1 - low) * rng.random((batch, _BOXES, 2), np.float32)
        drawn["boxes"] = np.concatenate([low, high], axis=-1)
        classes = model.num_classes - head_of(model).first_named
        drawn["labels"] = rng.integers(1, classes + 1, (batch, _BOXES), np.int32)
        weights = objective_of(model).weights
        drawn |= {name: np.zeros(batch, np.float32) for name in weights}
    else:
        drawn["mask"] = rng.integers(0, model.num_classes, (batch, size, size), np.uint8)
    return drawn


def draw_variables(model: nn.Module, seed: int = 0) -> Any:
    """Draws variables whose activations keep their size, without compiling `init`.

    Kernels are drawn as He et al. (2015) do, so that no activation fades to a denormal number,
    which a CPU computes many times slower than others.

    Args:
        model: A model.
        seed: Of the draw.

    Returns:
        {"params", "batch_stats"} of float32 arrays.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        if path[-1] == "kernel":
            kernel = rng.standard_normal(shape, np.float32)
            return kernel * np.float32((2 / np.prod(shape[:-1])) ** 0.5)
        return np.full(shape, float(path[-1] in ("scale", "var")), np.float32)

    drawn = {path: draw(path, shape) for path, shape in variable_shapes(model).items()}
    return traverse_util.unflatten_dict(drawn)


def _abstract_variables(model: nn.Module) -> Any:
    shapes = variable_shapes(model).items()
    return traverse_util.unflatten_dict(
        {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes}
    )
