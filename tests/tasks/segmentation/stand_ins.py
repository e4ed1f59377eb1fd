"""A model and data of seconds for the tests of segmentation."""

from pathlib import Path
from typing import Any

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.data.masks import encode_mask
from mobilevit_jax.data.sources import DatasetInfo
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.models.layers import BatchNorm, Conv

NAMES = ("background", "cat", "dog", "cow")


class PixelNet(nn.Module):
    """Classifies each pixel by its colour; with `aux_head`, twice in training."""

    num_classes: int = len(NAMES)
    aux_head: bool = False
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> Any:
        """Maps images [b, h, w, 3] to logits [b, h, w, num_classes]."""
        x = BatchNorm(axis_name=self.bn_axis_name, name="norm")(images, train)
        logits = Conv(self.num_classes, use_bias=True, name="classifier")(x)
        if not (self.aux_head and train):
            return logits
        return logits, 0.5 * logits


def build_pixel_net(config: ModelConfig, num_classes: int, bn_axis_name: str) -> PixelNet:
    """Takes the place of `ModelConfig.build`."""
    axis = bn_axis_name if config.sync_batch_norm else None
    return PixelNet(config.num_classes or num_classes, bool(config.aux_head), axis)


def variables_of(num_classes: int = len(NAMES), seed: int = 0) -> Any:
    """Draws variables that give every class some pixels."""
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((1, 1, 3, num_classes)).astype(np.float32)
    bias = -kernel.sum((0, 1, 2)) / 2
    norm = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    return {
        "params": {"norm": norm, "classifier": {"kernel": kernel, "bias": bias}},
        "batch_stats": {"norm": {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}},
    }


def areas(height: int, width: int, seed: int, classes: int = len(NAMES)) -> np.ndarray:
    """Draws a mask with areas of each class and some void."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([*range(classes), 255], (5, 6)).astype(np.uint8)
    resized = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)


def info_of(names: tuple[str, ...], count: int = 1) -> DatasetInfo:
    """Describes a data set that is nowhere."""
    return DatasetInfo("memory", Path("nowhere"), {"train": count}, names, mask_names=names)


class MemorySplit:
    """Images of different sizes with masks, in memory."""

    name = "train"

    def __init__(self, count: int, *, masks: dict[int, bytes] | None = None, bad=()) -> None:
        self.info = info_of(NAMES, count)
        self.stored = []
        for number in range(count):
            rng = np.random.default_rng(number)
            height, width = rng.integers(20, 60, 2).tolist()
            mask = areas(height, width, number)
            noise = rng.integers(0, 50, (height, width, 3))
            image = (noise + 50 * (mask[:, :, None] % 4) + [0, 20, 40]).astype(np.uint8)
            self.stored.append(
                {
                    "image": cv2.imencode(".png", image)[1].tobytes(),
                    "mask": encode_mask(mask),
                    "name": f"{number}.png",
                }
            )
        for number, data in (masks or {}).items():
            self.stored[number]["mask"] = data
        for number in bad:
            self.stored[number]["image"] = self.stored[number]["image"][:20]

    def __len__(self) -> int:
        return len(self.stored)

    def records(self, ids) -> list[dict[str, Any]]:
        return [dict(self.stored[int(i)]) for i in ids]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax of the last axis in float64."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def as_jax(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts a batch on the device."""
    return {name: jnp.asarray(value) for name, value in batch.items()}
