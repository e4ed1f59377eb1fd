"""What stands in for data sets and for detectors where the real ones would only take time."""

from pathlib import Path
from typing import Any

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.data.sources import DatasetInfo
from mobilevit_jax.models.anchors import AnchorConfig, anchors
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.models.layers import BatchNorm, Conv
from mobilevit_jax.tasks.detection.boxes import encode, to_centres

WHOLE = np.array([[0.5, 0.5, 1, 1]], np.float32)


class SmallDetector(nn.Module):
    """Three convolutions and one level of anchors."""

    num_classes: int = 9
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps images [b, h, w, 3] to logits [b, A, num_classes] and offsets [b, A, 4]."""
        x = images
        for index in range(3):
            x = Conv(16, 3, 2, name=f"conv_{index}")(x)
            x = nn.silu(BatchNorm(axis_name=self.bn_axis_name, name=f"norm_{index}")(x, train))
        x = Conv(4 * (4 + self.num_classes), use_bias=True, name="predict")(x)
        x = x.reshape(len(x), -1, 4 + self.num_classes)
        return x[..., 4:], x[..., :4]

    def anchors(self, height: int, width: int) -> np.ndarray:
        """Returns four anchors for each 8 x 8 pixels, [A, 4]."""
        config = AnchorConfig(min_scale=0.4, aspect_ratios=((2,),))
        return anchors([(-(-height // 8), -(-width // 8))], config)


def build_small_detector(config: ModelConfig, num_classes: int, bn_axis_name: str) -> SmallDetector:
    """Takes the place of `ModelConfig.build`."""
    return SmallDetector(config.num_classes or num_classes)


class SmallYolox(nn.Module):
    """Five convolutions, whose last three maps have strides 8, 16 and 32."""

    num_classes: int = 8
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Maps images [b, h, w, 3] to logits [b, A, C], boxes [b, A, 4], objectness [b, A]."""
        x, levels = images, []
        for index in range(5):
            x = Conv(16, 3, 2, name=f"conv_{index}")(x)
            x = nn.silu(BatchNorm(axis_name=self.bn_axis_name, name=f"norm_{index}")(x, train))
            if index > 1:
                out = Conv(5 + self.num_classes, use_bias=True, name=f"predict_{index}")(x)
                levels.append(out.reshape(len(x), -1, 5 + self.num_classes))
        out = jnp.concatenate(levels, axis=1)
        return out[..., 5:], out[..., :4], out[..., 4]

    def points(self, height: int, width: int) -> np.ndarray:
        """Returns (column, row, stride) of each place, [A, 3]."""
        levels = []
        for stride in (8, 16, 32):
            y, x = np.mgrid[: -(-height // stride), : -(-width // stride)]
            levels.append(np.stack([x, y, np.full_like(x, stride)], axis=-1).reshape(-1, 3))
        return np.concatenate(levels).astype(np.float32)


def build_small_yolox(config: ModelConfig, num_classes: int, bn_axis_name: str) -> SmallYolox:
    """Takes the place of `ModelConfig.build`."""
    return SmallYolox(config.num_classes or num_classes)


class TableDetector(nn.Module):
    """Finds in an image whose pixels all are k what line k of a table says."""

    num_classes: int
    candidates: int

    def apply(self, variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns logits [b, candidates, num_classes] and offsets [b, candidates, 4]."""
        height, width = images.shape[1] // 2, images.shape[2] // 2
        line = jnp.round(images[:, height, width, 0] * 255).astype(jnp.int32)
        return variables["logits"][line], variables["offsets"][line]

    def anchors(self, height: int, width: int) -> np.ndarray:
        """Returns the whole image, as often as there are candidates."""
        return WHOLE.repeat(self.candidates, axis=0)


def table(found: list[list[tuple[list[float], int, float]]], num_classes: int, candidates: int):
    """Returns a `TableDetector` and its variables.

    Args:
        found: For each image (corners as shares of what the network sees, label, score above
            0.1).
        num_classes: With the background.
        candidates: At least as many as are found in an image.
    """
    lines = max(32, len(found))  # of one size for all tests, which then compile the same
    logits = np.full((lines, candidates, num_classes), -30, np.float32)
    logits[..., 0] = 30
    offsets = np.zeros((lines, candidates, 4), np.float32)
    for line, image in enumerate(found):
        for place, (corners, label, score) in enumerate(image):
            box = to_centres(jnp.asarray([corners], jnp.float32))
            offsets[line, place] = np.asarray(encode(box, jnp.asarray(WHOLE)))[0]
            logits[line, place, 0] = np.log1p(-score)
            logits[line, place, label] = np.log(score)
    variables = {"logits": jnp.asarray(logits), "offsets": jnp.asarray(offsets)}
    return TableDetector(num_classes, candidates), variables


class MemorySplit:
    """Pictures of one colour, whose number it is, with objects."""

    def __init__(self, sizes, objects, names=("a", "b", "c"), category_ids=(), bad=()) -> None:
        """Makes the records.

        Args:
            sizes: (height, width) of each picture.
            objects: For each picture (corners in pixels, label from 1, crowd or not).
            names: Of the classes.
            category_ids: Of the classes.
            bad: Pictures that are cut short.
        """
        splits = {"test": len(sizes)}
        self.info = DatasetInfo("memory", Path("nowhere"), splits, names, {}, category_ids)
        self.name = "test"
        self._records = []
        for number, (size, found) in enumerate(zip(sizes, objects, strict=True)):
            data = cv2.imencode(".png", np.full((*size, 3), number, np.uint8))[1].tobytes()
            corners = np.array([box for box, *_ in found], np.float32).reshape(-1, 4)
            corners /= np.array([size[1], size[0]] * 2, np.float32)
            self._records.append(
                {
                    "image": data[:20] if number in bad else data,
                    "image/id": 1000 + 7 * number,
                    "name": f"{number}.png",
                    "objects": {
                        "bbox": corners[:, [1, 0, 3, 2]],
                        "label": np.array([label - 1 for _, label, _ in found], np.int64),
                        "is_crowd": np.array([crowd for *_, crowd in found], bool),
                        "area": np.array(
                            [(b[2] - b[0]) * (b[3] - b[1]) for b, *_ in found], np.float32
                        ),
                    },
                }
            )

    def __len__(self) -> int:
        return len(self._records)

    def records(self, ids) -> list[dict[str, Any]]:
        """Returns the records with these ids."""
        return [dict(self._records[i]) for i in ids]
