"""What the processes of `against_pytorch.py` run: the same work, by each contender.

Both sides get images that are on the device already, float32 for a forward pass and uint8 for a
training step: converted, forward, label smoothing 0.1, backward, AdamW, and the weights' moving
average. Each call waits until its work is done.
"""

# Neither torch nor transformers need be installed where the types are checked.
# pyright: reportMissingImports=false

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Call = Callable[[], None]

OURS, FUSED = "ours", "ours, norms fused"
EAGER, CHANNELS_LAST = "eager", "eager channels-last"
COMPILE, COMPILE_CHANNELS_LAST = "torch.compile", "torch.compile channels-last"
CONTENDERS = (OURS, FUSED, EAGER, CHANNELS_LAST, COMPILE, COMPILE_CHANNELS_LAST)

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


def entrants(work: Work) -> list[str]:
    """Returns the contenders of a work; norms are fused for inference alone."""
    return [name for name in CONTENDERS if name != FUSED or work.kind == "forward"]


def prepare(contender: str, work: Work) -> Call:
    """Returns what does the work once; PyTorch compiles when that is called first."""
    if contender in (OURS, FUSED):
        return _ours_forward(work, contender == FUSED) if work.kind == "forward" else _ours(work)
    return _torch_forward(work, contender) if work.kind == "forward" else _torch(work, contender)


def _ours_forward(work: Work, fused: bool) -> Call:
    import jax

    import mobilevit_jax as mvj

    model = mvj.create_model(work.model, dtype=work.dtype)
    images = jax.device_put(work.images())
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    if fused:
        variables = mvj.fuse_batch_norm(variables)
    apply = jax.jit(model.apply)
    return lambda: jax.block_until_ready(apply(variables, images))


def _ours(work: Work) -> Call:
    import jax
    import jax.numpy as jnp

    from mobilevit_jax import create_model
    from mobilevit_jax.tasks.classification_objective import ClassificationObjective
    from mobilevit_jax.training import parallel
    from mobilevit_jax.training.compiling import lower
    from mobilevit_jax.training.optimizer import OptimizerConfig, create_optimizer
    from mobilevit_jax.training.state import EMAConfig, create_state
    from mobilevit_jax.training.step import make_train_step

    model = create_model(
        work.model, num_classes=_CLASSES, bn_axis_name=parallel.AXIS, dtype=work.dtype
    )
    config = OptimizerConfig(weight_decay=_DECAY)
    optimizer = create_optimizer(config, lambda step: jnp.float32(1e-3))
    objective, average = ClassificationObjective(_SMOOTHING), EMAConfig(_AVERAGE)
    state = create_state(model, optimizer, average, objective.metrics, 0)
    step = parallel.pmap_train(make_train_step(model, optimizer, objective, average, seed=0))
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


def _torch_forward(work: Work, contender: str) -> Call:
    import torch

    device, model = _torch_model(work, contender)
    dtype = getattr(torch, work.dtype)
    model = model.eval().to(dtype)
    images = _torch_images(work, contender, device).to(dtype)

    @torch.inference_mode()
    def call() -> None:
        model(images)
        _wait(device)

    return call


def _torch(work: Work, contender: str) -> Call:
    import torch

    device, model = _torch_model(work, contender)
    model.train()
    tensors = [p.detach() for p in model.parameters()]
    tensors += [b for b in model.buffers() if b.is_floating_point()]
    average = [tensor.clone() for tensor in tensors]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=_DECAY)
    images = _torch_images(work, contender, device)
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


def _torch_model(work: Work, contender: str) -> tuple[str, Any]:
    import torch
    from torch_models import create

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = create(work.model).to(device)
    if "channels-last" in contender:
        model = model.to(memory_format=torch.channels_last)
    if "compile" in contender:
        model.compile()
    return device, model


def _torch_images(work: Work, contender: str, device: str) -> Any:
    import torch

    last = "channels-last" in contender
    layout = torch.channels_last if last else torch.contiguous_format
    images = torch.from_numpy(work.images()).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=layout).to(device)


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
