"""The PyTorch side of the comparison: transformers' models, and SSDLite of torch modules.

transformers has no SSDLite on MobileViT, so one of the same shapes stands here, on transformers'
backbone. Weights are random: only time and memory are compared.
"""

# Neither torch nor transformers need be installed where the types are checked.
# pyright: reportMissingImports=false

from typing import Any

import torch
from torch import nn
from transformers import (
    MobileViTConfig,
    MobileViTForImageClassification,
    MobileViTForSemanticSegmentation,
    MobileViTModel,
)

from mobilevit_jax import create_model
from mobilevit_jax.convert.config import to_huggingface
from mobilevit_jax.models.ssdlite import LEVELS
from mobilevit_jax.tasks.detection.anchors import anchors_per_location


def create(name: str) -> nn.Module:
    """Builds the network of one of our names; it takes images [b, 3, h, w].

    Returns:
        A module that gives logits, for segmentation at the size of the images, or for detection
        class logits [b, A, classes] and offsets [b, A, 4].
    """
    kind, _, size = name.rpartition("_")
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


class _Block(nn.Sequential):
    """Convolution, batch norm and, if asked for, ReLU."""

    def __init__(
        self,
        inputs: int,
        features: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        convolution = nn.Conv2d(
            inputs, features, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        layers = [convolution, nn.BatchNorm2d(features), *([nn.ReLU()] if relu else [])]
        super().__init__(*layers)


def _separable(inputs: int, features: int, stride: int) -> nn.Sequential:
    depthwise = _Block(inputs, inputs, 3, stride, groups=inputs, relu=False)
    return nn.Sequential(depthwise, _Block(inputs, features))


def _predictor(inputs: int, width: int, outputs: int, depthwise: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    if inputs != width:
        layers.append(_Block(inputs, width))
    if depthwise:
        layers.append(_Block(width, width, 3, groups=width, relu=False))
    return nn.Sequential(*layers, nn.Conv2d(width, outputs, 1))


class SSDLite(nn.Module):
    """The detector of `mobilevit_jax.models.ssdlite`, layer by layer."""

    def __init__(self, size: str) -> None:
        """Builds it for a size of MobileViT."""
        super().__init__()
        ours = create_model(f"ssdlite_mobilevit_{size}")
        config = _config(f"mobilevit_{size}")
        self.numbers = 4 + ours.num_classes
        self.backbone = MobileViTModel(config, expand_output=False)
        channels = [*ours.variant.channels[4:], *(level.features for level in LEVELS[2:])]
        self.extras = nn.ModuleList(
            _separable(before, after, 2)
            for before, after in zip(channels[1:4], channels[2:5], strict=True)
        )
        self.pooled = nn.Conv2d(channels[4], channels[5], 1, bias=False)
        counts = anchors_per_location(ours.anchor_config)
        self.heads = nn.ModuleList(
            _predictor(inputs, level.width, count * self.numbers, level is not LEVELS[-1])
            for inputs, level, count in zip(channels, LEVELS, counts, strict=True)
        )

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps images [b, 3, h, w] to logits [b, A, classes] and offsets [b, A, 4]."""
        found = self.backbone(pixel_values=images, output_hidden_states=True, return_dict=True)
        maps = list(found.hidden_states[-2:])
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        pooled = nn.functional.adaptive_avg_pool2d(maps[-1], 1)
        maps.append(nn.functional.relu(self.pooled(pooled)))
        rows = [
            head(x).permute(0, 2, 3, 1).reshape(len(images), -1, self.numbers)
            for head, x in zip(self.heads, maps, strict=True)
        ]
        outputs = torch.cat(rows, 1)
        return outputs[..., 4:], outputs[..., :4]
