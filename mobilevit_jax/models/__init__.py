"""Models: backbones, heads, and the registry that joins them by name."""

from mobilevit_jax.models.attention import attention_maps
from mobilevit_jax.models.backbones.mobilevit import VARIANTS, MobileViT, Variant
from mobilevit_jax.models.heads.classifier import Classifier
from mobilevit_jax.models.heads.deeplabv3 import DeepLabV3
from mobilevit_jax.models.heads.ssdlite import SSDLite
from mobilevit_jax.models.heads.yolox import YOLOX
from mobilevit_jax.models.model import Backbone, Model
from mobilevit_jax.models.registry import (
    create_model,
    kind_of,
    list_models,
    model_name,
    with_options,
)

__all__ = [
    "VARIANTS",
    "YOLOX",
    "Backbone",
    "Classifier",
    "DeepLabV3",
    "MobileViT",
    "Model",
    "SSDLite",
    "Variant",
    "attention_maps",
    "create_model",
    "kind_of",
    "list_models",
    "model_name",
    "with_options",
]
