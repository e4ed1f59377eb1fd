"""The reference's weights and inputs, drawn by rule from names and shapes.

The goldens in `tests/golden` are outputs of CVNets v0.1 (float32, CPU) for tensors drawn from a
generator seeded by the CRC-32 of the tensor's CVNets name, so that no weight file has to travel.
"""

import json
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of `golden/<name>.npz`."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def names_and_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Returns {CVNets v0.1 name: PyTorch shape} of a model.

    Args:
        model: The classifier "xxs", "xs" or "s", or one of `cvnets_head_names.json`, such as
            "ssdlite_xxs" or "deeplabv3_s_later", whose backbone has the classifier's names.
    """
    table = json.loads((GOLDEN / "cvnets_names.json").read_text())
    heads = json.loads((GOLDEN / "cvnets_head_names.json").read_text())
    if model in heads:
        backbone = table[model.split("_")[1]].items()
        left_out = ("conv_1x1_exp.", "classifier.")
        encoder = {f"encoder.{k}": shape for k, shape in backbone if not k.startswith(left_out)}
        names = encoder | heads[model]
    else:
        names = table[model]
    return {name: tuple(shape) for name, shape in names.items()}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws one tensor; its kind follows from its name and rank."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), 0])
    kind = name.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var":
        return np.asarray(0.5 + rng.random(shape), np.float32)
    normal = rng.standard_normal(shape)
    if kind in ("running_mean", "bias"):
        return np.asarray(0.1 * normal, np.float32)
    if len(shape) == 1:
        return np.asarray(1 + 0.1 * normal, np.float32)
    return np.asarray(normal * np.sqrt(1.5 / np.prod(shape[1:])), np.float32)


def state_dict(model: str, *, fusion: bool = True) -> dict[str, np.ndarray]:
    """Returns a whole state dict in CVNets naming, PyTorch layout; see `names_and_shapes`."""
    return {
        name: tensor(name, shape)
        for name, shape in names_and_shapes(model).items()
        if fusion or ".fusion." not in name
    }


def images(seed: int, count: int, height: int, width: int) -> np.ndarray:
    """Returns the reference's input in our layout, [count, height, width, 3] in [0, 1)."""
    nchw = np.random.default_rng(seed).random((count, 3, height, width)).astype(np.float32)
    return nchw.transpose(0, 2, 3, 1)


def torchvision_names(name: str, layout: str = "torchvision") -> dict[str, tuple[int, ...]]:
    """Returns {torchvision's or timm's name: PyTorch shape} of "mobilenetv2_100" or "resnet50"."""
    table = json.loads((GOLDEN / "torchvision_names.json").read_text())[name]
    column = ("torchvision", "timm").index(layout)
    return {row[column]: tuple(row[-1]) for row in table}


def torchvision_state_dict(name: str) -> dict[str, np.ndarray]:
    """Returns a whole state dict by the same rule, in torchvision's naming."""
    return {key: tensor(key, shape) for key, shape in torchvision_names(name).items()}
