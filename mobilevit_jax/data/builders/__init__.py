"""TFDS builders that need no TensorFlow: drawn shapes, ImageNet, COCO, VOC, and a user's own files.

The table holds module paths, so that listing the names imports nothing heavy.
"""

import importlib
from typing import TYPE_CHECKING

from mobilevit_jax.errors import unknown_name

if TYPE_CHECKING:
    from mobilevit_jax.data.builders.base import StoredBuilder

__all__ = ["BUILDERS", "load_builder"]

BUILDERS: dict[str, str] = {
    "shapes": "mobilevit_jax.data.builders.shapes:Shapes",
    "image_folder": "mobilevit_jax.data.builders.image_folder:ImageFolder",
    "parquet": "mobilevit_jax.data.builders.parquet:Parquet",
    "imagenet": "mobilevit_jax.data.builders.imagenet:ImageNet",
    "coco": "mobilevit_jax.data.builders.coco:Coco",
    "yolo": "mobilevit_jax.data.builders.yolo:Yolo",
    "voc_detection": "mobilevit_jax.data.builders.voc_detection:VocDetection",
    "coco_segmentation": "mobilevit_jax.data.builders.coco_segmentation:CocoSegmentation",
    "voc_segmentation": "mobilevit_jax.data.builders.voc_segmentation:VocSegmentation",
    "mask_folder": "mobilevit_jax.data.builders.mask_folder:MaskFolder",
}


def load_builder(name: str) -> "type[StoredBuilder]":
    """Returns the builder class of a name in `BUILDERS`.

    Raises:
        ConfigurationError: If there is no such builder.
    """
    if name not in BUILDERS:
        raise unknown_name("data set builder", name, BUILDERS)
    module, _, attribute = BUILDERS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
