"""The weights that every contender of a work computes with, and what they must hold before timing.

A process of its own draws them, converts them for PyTorch and for the inference runtimes, and
compares the outputs, so that no contender's process is warmed up or filled by it. It matters which
weights are drawn: transformers initialises every layer from N(0, 0.02), the norms' scales too, with
which activations fade to denormal numbers, and a CPU computes those many times slower.
"""

# Neither torch nor transformers need be installed where the types are checked.
# pyright: reportMissingImports=false

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from contenders import (
    INPUT,
    ONNX_FILE,
    OUR_WEIGHTS,
    OUTPUTS,
    TORCH_WEIGHTS,
    Work,
    differing,
    outputs_of,
    plain_port,
    torch_images,
    torchvision_name,
)

from mobilevit_jax.errors import DataError

_TOLERANCE = 1e-3  # of outputs in float32, as a share of the largest
_FIELDS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def write(work: Work, directory: Path, others: bool, runtimes: bool, plain: bool = False) -> None:
    """Writes the weights of a work, and the outputs that they give for its images.

    Args:
        work: What is going to be timed.
        directory: Where the files go.
        others: Whether PyTorch's weights are wanted too, of the same values.
        runtimes: Whether the graph for onnxruntime and OpenVINO is.
        plain: Whether the plain port is to give the same outputs, too.

    Raises:
        DataError: If an activation is a denormal number, or the sides give different outputs.
    """
    import jax
    from safetensors.numpy import save_file

    import mobilevit_jax as mvj
    from mobilevit_jax.analysis.programs import draw_variables
    from mobilevit_jax.convert.native import to_native

    model = mvj.create_model(work.model)
    variables = draw_variables(model)
    save_file(to_native(variables), directory / OUR_WEIGHTS)
    # Training starts from images of bytes, but the weights are the same.
    images = work.images()[:1].astype(np.float32)
    images = images if work.kind == "forward" else images / 255

    @jax.jit
    def forward(variables: Any, images: Any) -> Any:
        return model.apply(variables, images, capture_intermediates=True, mutable="intermediates")

    with jax.default_matmul_precision("float32"):  # a GPU's own is TF32
        found, kept = jax.device_get(forward(variables, images))
    refuse_denormals("ours", flax_activations(kept["intermediates"]))
    expected = outputs_of(found)
    np.savez(directory / OUTPUTS, *expected)
    if plain:
        compare_plain(work, variables, images, expected)
    if others or runtimes:
        twin = torch_twin(work.model, model, variables, directory)
        compare(twin, images, expected)
        if runtimes:
            export(twin, work, directory / ONNX_FILE)


def torch_twin(name: str, model: Any, variables: Any, directory: Path) -> Any:
    """Builds PyTorch's model with our weights, and writes them; returns it for evaluation."""
    import torch_models
    from safetensors.numpy import save_file
    from safetensors.torch import load_file

    save_file(torch_weights(model, variables), directory / TORCH_WEIGHTS)
    twin = torch_models.create(name)
    twin.load_state_dict(load_file(directory / TORCH_WEIGHTS))
    return twin.eval()


def torch_weights(model: Any, variables: Any) -> dict[str, np.ndarray]:
    """Returns our variables under the names of `torch_models`' modules."""
    import mobilevit_jax as mvj
    from mobilevit_jax import convert

    if torchvision_name(mvj.models.model_name(model)):
        return convert.to_state_dict(model, variables, "torchvision")
    if not isinstance(model, mvj.models.SSDLite):
        found = convert.to_state_dict(model, variables, "huggingface")
        return {f"model.{name}": array for name, array in found.items()}
    # transformers has no detector: the backbone by way of a classifier, whose head is left out.
    classifier = mvj.create_model(mvj.models.model_name(model).removeprefix("ssdlite_"))
    drawn = mvj.analysis.programs.draw_variables(classifier)
    whole = {part: drawn[part] | {"backbone": variables[part]["backbone"]} for part in drawn}
    found = {
        name.replace("mobilevit.", "backbone.", 1): array
        for name, array in convert.to_state_dict(classifier, whole, "huggingface").items()
        if not name.startswith(("classifier.", "mobilevit.conv_1x1_exp."))
    }
    for name, array in convert.native.to_native(variables).items():
        _, *modules, leaf = name.split("/")
        if modules[0] == "backbone":
            continue
        turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        found[".".join([*modules, _FIELDS.get(leaf, leaf)])] = np.ascontiguousarray(turned)
        if leaf == "var":
            found[".".join([*modules, "num_batches_tracked"])] = np.zeros((), np.int64)
    return found


def compare(twin: Any, images: np.ndarray, expected: list[np.ndarray]) -> None:
    """Runs PyTorch's model, watching all its modules.

    Args:
        twin: The model, for evaluation.
        images: float32 [b, h, w, 3].
        expected: Our outputs.

    Raises:
        DataError: If an activation is a denormal number, or the outputs are not ours.
    """
    import torch

    names = {module: name for name, module in twin.named_modules()}
    kept: dict[str, np.ndarray] = {}

    def keep(module: Any, given: Any, result: Any) -> None:
        if isinstance(result, torch.Tensor):
            kept[names[module]] = result.numpy()

    with torch.inference_mode(), contextlib.ExitStack() as hooks:
        for module in names:
            hooks.callback(module.register_forward_hook(keep).remove)
        found = outputs_of(twin(torch.from_numpy(images).permute(0, 3, 1, 2)), channels_first=True)
    refuse_denormals("PyTorch's", kept)
    if problem := differing(found, expected, _TOLERANCE):
        raise DataError(f"ours and PyTorch's model have equal weights, but {problem}")


def compare_plain(
    work: Work,
    variables: Any,
    images: np.ndarray,
    expected: list[np.ndarray],
    tolerance: float = _TOLERANCE,
) -> None:
    """Raises DataError if the plain port's outputs in float32 are not ours; see `compare`."""
    import jax

    net, weights = plain_port(dataclasses.replace(work, dtype="float32"), variables)
    with jax.default_matmul_precision("float32"):
        found = outputs_of(jax.jit(net.apply)(weights, images))
    if problem := differing(found, expected, tolerance):
        raise DataError(f"ours and the plain port have equal weights, but {problem}")


def refuse_denormals(whose: str, activations: Mapping[str, np.ndarray]) -> None:
    """Raises DataError if an activation is a number so small that a CPU computes it slowly."""
    bad = {name: share for name, x in activations.items() if (share := _denormal(x))}
    if bad:
        name = max(bad, key=bad.__getitem__)
        raise DataError(
            f"{whose} activations are denormal numbers in {len(bad)} of {len(activations)} places "
            f"({bad[name]:.0%} of {name}), which would be timed instead of the model; draw weights "
            "that keep activations at their size"
        )


def _denormal(x: np.ndarray) -> float:
    return float(np.mean((x != 0) & (np.abs(x) < np.finfo(np.float32).tiny)))


def flax_activations(tree: Any) -> dict[str, np.ndarray]:
    """Returns the arrays that `capture_intermediates` kept, by their paths."""
    import jax

    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(array, np.float32)
        for path, array in jax.tree_util.tree_leaves_with_path(tree)
    }


def export(twin: Any, work: Work, file: Path) -> None:
    """Writes the graph that `torch.onnx` makes of PyTorch's model, for the work's images."""
    import torch

    # What it says of itself is not about the model.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            twin,
            (torch_images(work, "eager", "cpu"),),
            str(file),
            dynamo=True,
            external_data=False,
            input_names=[INPUT],
            verbose=False,
        )
