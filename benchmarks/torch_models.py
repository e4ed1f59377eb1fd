"""The PyTorch side of the comparison: transformers' and torchvision's models, and an SSDLite.

transformers has no SSDLite on MobileViT, so one that computes the same stands here, on its
backbone. Its modules are named as ours, so that `equal_weights` can carry our weights over.
"""

# Nothing of PyTorch need be installed where the types are checked.
# pyright: reportMissingImports=false

from collections import OrderedDict
from typing import Any

import torch
from contenders import torchvision_name
from torch import nn
from transformers import (
    MobileViTConfig,
    MobileViTForImageClassification,
    MobileViTForSemanticSegmentation,
    MobileViTModel,
    MobileViTV2Config,
    MobileViTV2ForImageClassification,
)

from mobilevit_jax import create_model
from mobilevit_jax.convert.config import to_huggingface
from mobilevit_jax.models.anchors import anchors_per_location
from mobilevit_jax.models.heads.ssdlite import LEVELS


def create(name: str) -> nn.Module:
    """Builds the network of one of our names; it takes images [b, 3, h, w].

    Returns:
        A module that gives logits, for segmentation at the size of the images, or for detection
        class logits [b, A, classes] and offsets [b, A, 4].
    """
    if network := torchvision_name(name):
        from torchvision import models

        return models.get_model(network, weights=None)
    kind, _, size = name.rpartition("_")
    if kind == "mobilevitv2":
        config = MobileViTV2Config(**to_huggingface(create_model(name)))
        return _Logits(MobileViTV2ForImageClassification(config))
    if kind == "ssdlite_mobilevit":
        return SSDLite(size)
    config = _config(name)
    if kind == "deeplabv3_mobilevit":
        return _Segmenter(MobileViTForSemanticSegmentation(config))
    return _Logits(MobileViTForImageClassification(config))


def _config(name: str) -> Any:
    return MobileViTConfig(**to_huggingface(create_model(name)))


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=images, return_dict=True).logits


class _Segmenter(_Logits):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        return nn.functional.interpolate(logits, images.shape[2:], mode="bilinear")


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def _block(
    inputs: int,
    features: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution, batch norm and, if asked for, ReLU."""
    conv = nn.Conv2d(inputs, features, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(features)
    return _named(conv=conv, norm=norm, relu=nn.ReLU()) if relu else _named(conv=conv, norm=norm)


def _separable(inputs: int, features: int) -> nn.Sequential:
    depthwise = _block(inputs, inputs, 3, 2, groups=inputs, relu=False)
    return _named(depthwise=depthwise, pointwise=_block(inputs, features))


def _predictor(inputs: int, width: int, outputs: int, depthwise: bool) -> nn.Sequential:
    layers: dict[str, nn.Module] = {}
    if inputs != width:
        layers["project"] = _block(inputs, width)
    if depthwise:
        layers["depthwise"] = _block(width, width, 3, groups=width, relu=False)
    return _named(**layers, predict=nn.Conv2d(width, outputs, 1))


class SSDLite(nn.Module):
    """Our SSDLite, layer by layer."""

    def __init__(self, size: str) -> None:
        """Builds it for a size of MobileViT."""
        super().__init__()
        ours = create_model(f"ssdlite_mobilevit_{size}")
        self.numbers = 4 + ours.num_classes
        self.backbone = MobileViTModel(_config(f"mobilevit_{size}"), expand_output=False)
        channels = [*ours.backbone.variant.channels[4:], *(level.features for level in LEVELS[2:])]
        counts = anchors_per_location(ours.anchor_config)
        for level, before, after in zip(LEVELS[2:5], channels[1:4], channels[2:5], strict=True):
            self.add_module(level.name, _separable(before, after))
        self.extra_pool = nn.Conv2d(channels[4], channels[5], 1, bias=False)
        for index, (level, inputs, count) in enumerate(zip(LEVELS, channels, counts, strict=True)):
            predictor = _predictor(
                inputs, level.width, count * self.numbers, level is not LEVELS[-1]
            )
            self.add_module(f"head_{index}", predictor)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps images [b, 3, h, w] to logits [b, A, classes] and offsets [b, A, 4]."""
        found = self.backbone(pixel_values=images, output_hidden_states=True, return_dict=True)
        maps = list(found.hidden_states[-2:])
        for level in LEVELS[2:5]:
            maps.append(self.get_submodule(level.name)(maps[-1]))
        pooled = nn.functional.adaptive_avg_pool2d(maps[-1], 1)
        maps.append(nn.functional.relu(self.extra_pool(pooled)))
        rows = [
            self.get_submodule(f"head_{index}")(x)
            .permute(0, 2, 3, 1)
            .reshape(len(images), -1, self.numbers)
            for index, x in enumerate(maps)
        ]
        outputs = torch.cat(rows, 1)
        return outputs[..., 4:], outputs[..., :4]
