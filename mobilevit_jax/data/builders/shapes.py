"""`shapes`: drawn pictures of overlapping shapes, for runs that need no download."""

import dataclasses
import io
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from mobilevit_jax.data.builders.base import Item, StoredBuilder
from mobilevit_jax.data.builders.drawing import SHAPE_NAMES, SceneConfig, draw_scene


@dataclasses.dataclass(eq=False)
class ShapesConfig(tfds.core.BuilderConfig):
    """A configuration of `shapes`: how scenes look, and how many there are in each split.

    The scenes follow from the configuration's name, the split and the index alone.
    """

    scene: SceneConfig = dataclasses.field(kw_only=True)
    splits: dict[str, int] = dataclasses.field(kw_only=True)


# Clean enough for a small model and some thousand images seen.
_CLEAR = SceneConfig(
    size=64,
    largest=(0.65, 0.9),
    others=(1, 3),
    other_scale=(0.2, 0.3),
    area_limit=0.2,
    visible=0.92,
    contrast=140,
    texture=(8, 20),
    noise=3,
    squeeze=1.05,
    rotation=12,
)
# Each object nearly whole, and large enough for the cells of 16 pixels of a detector's first
# level. With the scales of the anchors from 0.3 on, instead of COCO's 0.1, each is matched by about
# nine anchors.
_APART = dataclasses.replace(
    _CLEAR,
    size=160,
    largest=(0.4, 0.6),
    others=(1, 2),
    other_scale=(0.7, 0.95),
    area_limit=0.95,
    visible=0.9,
    others_visible=0.9,
)
# Large, so that a mask predicted for every 16th pixel can follow the outlines.
_LARGE = dataclasses.replace(
    _APART,
    largest=(0.7, 0.9),
    others=(0, 1),
    other_scale=(0.5, 0.65),
    area_limit=0.5,
    visible=0.85,
    others_visible=0.85,
)
_EASY = SceneConfig(
    size=64,
    largest=(0.5, 0.75),
    others=(1, 3),
    other_scale=(0.3, 0.55),
    area_limit=0.5,
    visible=0.8,
    contrast=90,
    texture=(10, 60),
    noise=6,
    squeeze=1.15,
)
_HARD = SceneConfig(
    size=256,
    largest=(0.25, 0.6),
    others=(2, 7),
    other_scale=(0.25, 0.75),
    area_limit=0.6,
    visible=0.6,
    contrast=50,
    texture=(20, 120),
    noise=12,
    squeeze=1.5,
)


class Shapes(StoredBuilder, skip_registration=True):
    """Overlapping textured shapes, with boxes and a mask; the class is that of the largest."""

    name = "shapes"
    takes_source = False
    BUILDER_CONFIGS = [
        ShapesConfig(
            "tiny",
            description="64 pixels, a few images for tests",
            scene=_EASY,
            splits={"train": 64, "validation": 32, "test": 32},
        ),
        ShapesConfig(
            "quickstart",
            description="64 pixels, one clear object, learnt in a few minutes on a CPU",
            scene=_CLEAR,
            splits={"train": 6000, "validation": 500, "test": 1000},
        ),
        ShapesConfig(
            "detection",
            description="160 pixels, two or three clear objects to box, for a CPU",
            scene=_APART,
            splits={"train": 2000, "validation": 200, "test": 400},
        ),
        ShapesConfig(
            "segmentation",
            description="160 pixels, one or two clear objects to outline, for a CPU",
            scene=_LARGE,
            splits={"train": 2000, "validation": 200, "test": 400},
        ),
        ShapesConfig(
            "default",
            description="256 pixels, smaller and more crowded objects",
            scene=_HARD,
            splits={"train": 20000, "validation": 1000, "test": 2000},
        ),
    ]

    def features(self) -> tfds.features.FeaturesDict:
        """Returns image and mask (PNG), label, name, and objects: boxes and their labels.

        The mask is 0 for background, else 1 + class.
        """
        size = self.config.scene.size
        label = tfds.features.ClassLabel(names=SHAPE_NAMES)
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                "label": label,
                "mask": tfds.features.Image(shape=(size, size, 1), encoding_format="png"),
                "name": tfds.features.Text(),
                "objects": tfds.features.Sequence(
                    {
                        "bbox": tfds.features.BBoxFeature(),
                        "label": tfds.features.ClassLabel(names=SHAPE_NAMES),
                    }
                ),
            }
        )

    @property
    def config(self) -> ShapesConfig:
        """The configuration of this builder."""
        config = self.builder_config
        assert isinstance(config, ShapesConfig)
        return config

    def items(self) -> Mapping[str, Sequence[Item]]:
        """Returns one item a scene; classes are balanced."""
        size = self.config.scene.size**2 * 2  # a PNG with noise takes about 2 bytes a pixel
        return {
            split: [Item(f"{split}/{index:06d}", size, index) for index in range(count)]
            for split, count in self.config.splits.items()
        }

    def example(self, item: Item) -> dict[str, Any]:
        """Draws a scene."""
        seed = [zlib.crc32(self.config.name.encode()), zlib.crc32(item.key.encode())]
        label = item.content % len(SHAPE_NAMES)
        scene = draw_scene(label, self.config.scene, np.random.default_rng(seed))
        objects = zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True)
        return {
            "image": _png(scene.image[:, :, ::-1], cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
            "label": scene.label,
            "mask": _png(scene.mask, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
            "name": item.key,
            "objects": [{"bbox": tfds.features.BBox(*b), "label": n} for b, n in objects],
        }


def _png(pixels: np.ndarray, strategy: int) -> io.BytesIO:
    # Noise has no repetitions to look for: by Huffman codes alone it is smaller and faster.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, strategy]
    done, data = cv2.imencode(".png", pixels, options)
    if not done:
        raise RuntimeError("OpenCV could not encode a PNG image")
    return io.BytesIO(data.tobytes())
