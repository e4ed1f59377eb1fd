"""What the processes of `against_pytorch.py` run: the same work, by each contender.

Both sides get images that are on the device already, float32 for a forward pass and uint8 for a
training step: converted, forward, label smoothing 0.1, backward, AdamW, and the weights' moving
average. Each call waits until its work is done. All load the weights that `equal_weights` wrote.
"""

# Neither torch nor transformers need be installed where the types are checked.
# pyright: reportMissingImports=false

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]

OURS, FUSED, PLAIN = "ours", "ours, norms fused", "plain port"
IN_JAX = (OURS, FUSED, PLAIN)
EAGER, CHANNELS_LAST = "eager", "eager channels-last"
COMPILE, COMPILE_CHANNELS_LAST = "torch.compile", "torch.compile channels-last"
ONNXRUNTIME, OPENVINO = "onnxruntime", "OpenVINO"
RUNTIMES = (ONNXRUNTIME, OPENVINO)
CONTENDERS = (*IN_JAX, EAGER, CHANNELS_LAST, COMPILE, COMPILE_CHANNELS_LAST, *RUNTIMES)

# The files of `equal_weights`, and the name of the graph's input.
OUR_WEIGHTS, TORCH_WEIGHTS = "ours.safetensors", "torch.safetensors"
ONNX_FILE, OUTPUTS, INPUT = "model.onnx", "outputs.npz", "images"

_CLASSES, _SMOOTHING, _DECAY, _AVERAGE = 1000, 0.1, 0.01, 0.9995


@dataclass(frozen=True)
class Work:
    """One thing that is timed.

    Attributes:
        kind: "forward", "train", or "first" for a training step with all that comes before it:
            building the model, initialising it and compiling.
        model: A name of `mobilevit_jax.list_models()`.
        batch: Images.
        size: Their height and width in pixels.
        dtype: "float32" or "bfloat16".
    """

    kind: str
    model: str
    batch: int
    size: int
    dtype: str = "float32"

    def __str__(self) -> str:
        kind = {"forward": "forward", "train": "train step", "first": "first train step"}[self.kind]
        return f"{kind} {self.model} {self.size} x{self.batch} {self.dtype}"

    def images(self) -> np.ndarray:
        """Returns [b, h, w, 3], as the work takes them."""
        rng = np.random.default_rng(0)
        shape = (self.batch, self.size, self.size, 3)
        if self.kind == "forward":
            return rng.random(shape, np.float32)
        return rng.integers(0, 256, shape, np.uint8)

    def labels(self) -> np.ndarray:
        """Returns classes [b]."""
        return np.random.default_rng(1).integers(0, _CLASSES, self.batch)


def torchvision_name(model: str) -> str:
    """Returns what torchvision calls one of our models; "" if that is not where it comes from."""
    return "mobilenet_v2" if model == "mobilenetv2_100" else model if "resnet" in model else ""


def entrants(work: Work) -> list[str]:
    """Returns the contenders of a work.

    Norms are fused for inference alone, and the runtimes know nothing else; they take float32. The
    plain port is a classifier.
    """
    if work.kind != "forward":
        absent = {FUSED, *RUNTIMES}
    else:
        absent = set() if work.dtype == "float32" else set(RUNTIMES)
    # The plain port classifies, and does not resize maps that hold no whole patches.
    if not work.model.startswith("mobilevit_") or work.size % 64:
        absent.add(PLAIN)
    return [name for name in CONTENDERS if name not in absent]


def prepare(contender: str, work: Work, directory: Path) -> Call:
    """Returns what does the work once; PyTorch compiles when that is called first.

    Args:
        contender: One of `CONTENDERS`.
        work: What it is to do.
        directory: Where `equal_weights.write` has put its files.

    Returns:
        A function that returns the outputs of a forward pass, or nothing.
    """
    forward = work.kind == "forward"
    if contender in RUNTIMES:
        return (_openvino if contender == OPENVINO else _onnxruntime)(work, directory)
    if contender in IN_JAX:
        if forward:
            return _jax_forward(work, directory, contender)
        return (_plain if contender == PLAIN else _ours)(work, directory)
    return (_torch_forward if forward else _torch)(work, directory, contender)


def outputs_of(found: Any, channels_first: bool = False) -> list[np.ndarray]:
    """Returns what a model gave as float32 arrays, maps with their channels last."""
    found = found if isinstance(found, tuple | list) else [found]
    # NumPy has no bfloat16, so that PyTorch has to widen its own.
    arrays = [np.asarray(x.float().cpu() if hasattr(x, "cpu") else x, np.float32) for x in found]
    return [x.transpose(0, 2, 3, 1) if channels_first and x.ndim == 4 else x for x in arrays]


def differing(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> str:
    """Says how outputs differ from those that are expected; "" if they do not.

    Args:
        found: Of some images.
        expected: Of the first of them.
        tolerance: Allowed difference, as a share of the largest value.
    """
    for ours, theirs in zip(expected, found, strict=True):
        first = theirs[: len(ours)]
        if first.shape != ours.shape:
            return f"outputs are {ours.shape} and {first.shape}"
        difference = np.abs(first - ours).max() / np.abs(ours).max()
        if not difference <= tolerance:
            return f"outputs differ by {difference:.2g} of the largest"
    return ""


def _load_ours(work: Work, directory: Path, model: Any) -> Any:
    from safetensors.numpy import load_file

    from mobilevit_jax.convert.native import from_native

    return from_native(model, load_file(directory / OUR_WEIGHTS))


def plain_port(work: Work, variables: Any) -> tuple[Any, Any]:
    """Returns the plain port of a work's model, and our variables as it takes them."""
    import jax.numpy as jnp
    from plain_flax import MobileViT, from_ours

    size = work.model.removeprefix("mobilevit_")
    return MobileViT(size, dtype=jnp.dtype(work.dtype)), from_ours(variables)


def _jax_forward(work: Work, directory: Path, contender: str) -> Call:
    import jax

    import mobilevit_jax as mvj

    model = mvj.create_model(work.model, dtype=work.dtype)
    variables = _load_ours(work, directory, model)
    if contender == PLAIN:
        model, variables = plain_port(work, variables)
    variables = jax.device_put(variables)
    if contender == FUSED:
        variables = mvj.fuse_batch_norm(model, variables)
    images = jax.device_put(work.images())
    apply = jax.jit(model.apply)
    return lambda: jax.block_until_ready(apply(variables, images))


def _ours(work: Work, directory: Path) -> Call:
    import jax
    import jax.numpy as jnp

    from mobilevit_jax import create_model
    from mobilevit_jax.tasks.classification_objective import ClassificationObjective
    from mobilevit_jax.training import parallel
    from mobilevit_jax.training.optimizer import OptimizerConfig, create_optimizer
    from mobilevit_jax.training.state import EMAConfig, create_state, state_from
    from mobilevit_jax.training.step import make_train_step

    model = create_model(
        work.model, num_classes=_CLASSES, bn_axis_name=parallel.AXIS, dtype=work.dtype
    )
    config = OptimizerConfig(weight_decay=_DECAY)
    optimizer = create_optimizer(config, lambda step: jnp.float32(1e-3))
    objective, average = ClassificationObjective(_SMOOTHING), EMAConfig(_AVERAGE)
    # A new run draws its weights first, as PyTorch's constructors do.
    create_state(model, optimizer, average, objective.metrics, 0)
    variables = jax.device_put(_load_ours(work, directory, model))
    state = state_from(variables, optimizer, average, objective.metrics)
    return _steps(work, make_train_step(model, optimizer, objective, average, seed=0), state)


def _plain(work: Work, directory: Path) -> Call:
    import jax
    from plain_flax import training_step

    from mobilevit_jax import create_model

    net, variables = plain_port(work, _load_ours(work, directory, create_model(work.model)))
    jax.jit(net.init)(jax.random.key(0), np.zeros((1, work.size, work.size, 3), np.float32))
    begin, step = training_step(net)
    return _steps(work, step, begin(jax.device_put(variables)))


def _steps(work: Work, function: Any, state: Any) -> Call:
    """Returns what calls `function(state, batch) -> (state, metrics)` again and again."""
    import jax

    from mobilevit_jax.training import parallel
    from mobilevit_jax.training.compile import lower

    step = parallel.pmap_train(function)
    batch = parallel.shard(
        {
            "image": work.images(),
            "label": work.labels().astype(np.int32),
            "weight": np.ones(work.batch, np.float32),
        }
    )
    state = parallel.replicate(state)
    lower(step, state, batch).compile()  # the calls find it, as the trainer's do

    def call() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return call


def _torch_forward(work: Work, directory: Path, contender: str) -> Call:
    import torch

    device, model = _torch_model(work, directory, contender)
    dtype = getattr(torch, work.dtype)
    model = model.eval().to(dtype)
    images = torch_images(work, contender, device).to(dtype)

    @torch.inference_mode()
    def call() -> Any:
        found = model(images)
        _wait(device)
        return found

    return call


def _torch(work: Work, directory: Path, contender: str) -> Call:
    import torch

    device, model = _torch_model(work, directory, contender)
    model.train()
    tensors = [p.detach() for p in model.parameters()]
    tensors += [b for b in model.buffers() if b.is_floating_point()]
    average = [tensor.clone() for tensor in tensors]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=_DECAY)
    images = torch_images(work, contender, device)
    labels = torch.from_numpy(work.labels()).to(device)
    narrow = work.dtype != "float32"

    def precision() -> contextlib.AbstractContextManager[Any]:
        if not narrow:
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=getattr(torch, work.dtype))

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision():
            logits = model(images.float() / 255)
            loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=_SMOOTHING)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, tensors, 1 - _AVERAGE)
        _wait(device)

    return call


def _torch_model(work: Work, directory: Path, contender: str) -> tuple[str, Any]:
    import torch
    from safetensors.torch import load_file
    from torch_models import create

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = create(work.model)
    model.load_state_dict(load_file(directory / TORCH_WEIGHTS))
    model = model.to(device)
    if "channels-last" in contender:
        model = model.to(memory_format=torch.channels_last)
    if "compile" in contender:
        model.compile()
    return device, model


def torch_images(work: Work, contender: str, device: str) -> Any:
    """Returns the work's images as PyTorch takes them, [b, 3, h, w], on a device."""
    import torch

    last = "channels-last" in contender
    layout = torch.channels_last if last else torch.contiguous_format
    images = torch.from_numpy(work.images()).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=layout).to(device)


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _onnxruntime(work: Work, directory: Path) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(
        directory / ONNX_FILE, options, providers=["CPUExecutionProvider"]
    )
    given = {INPUT: _channels_first(work)}
    return lambda: session.run(None, given)


def _openvino(work: Work, directory: Path) -> Call:
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
        "PERFORMANCE_HINT": "LATENCY",
        # Otherwise it takes bfloat16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(directory / ONNX_FILE, "CPU", options)
    images = _channels_first(work)
    return lambda: list(compiled(images, share_inputs=True, share_outputs=True).values())


def _channels_first(work: Work) -> np.ndarray:
    return np.ascontiguousarray(work.images().transpose(0, 3, 1, 2))
