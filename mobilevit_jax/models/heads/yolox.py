"""YOLOX (Ge et al. 2021, arXiv 2107.08430): a detector without anchors, one box for each place.

Three levels of stride 8, 16 and 32 go through the neck (`models.pafpn`); at every place of each,
one branch tells the classes, and another the box and whether there is an object at all.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.layers import Common, Conv
from mobilevit_jax.models.model import Head, Model, Stages, deepest
from mobilevit_jax.models.names import HeadNames, Row, Tensors, apart
from mobilevit_jax.models.pafpn import PAFPN, block, conv_3x3, kernel_init
from mobilevit_jax.models.patches import resize_bilinear

# Objects are rare: scores begin at 1 in 100 (Lin et al. 2017, section 4.1).
_FIRST_BIAS = -math.log((1 - 0.01) / 0.01)
_WIDTH_STEP, _WIDEST = 32, 256
_WIDEST_DEPTHWISE = 64


class DecoupledHead(nn.Module):
    """What is found at each place of a level.

    Attributes:
        num_classes: Classes.
        width: Channels of its convolutions.
        depthwise: Whether the 3x3 ones are separable.
        common: See `layers.Common`.
    """

    num_classes: int
    width: int
    depthwise: bool = False
    common: Common = Common()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Maps [b, h, w, c] to class logits, box numbers and objectness, [b, h * w, outputs]."""
        x = block(self.width, "stem", self.common)(x, train)
        classes = self._branch("classes", x, train)
        boxes = self._branch("boxes", x, train)
        found = (
            self._predict("predict_classes", classes, self.num_classes, _FIRST_BIAS),
            self._predict("predict_boxes", boxes, 4, 0.0),
            self._predict("predict_objectness", boxes, 1, _FIRST_BIAS),
        )
        return tuple(one.reshape(x.shape[0], -1, one.shape[-1]) for one in found)

    def _branch(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        for index in range(2):
            conv = conv_3x3(self.width, f"{name}_{index}", self.common, self.depthwise)
            x = conv(x, train)
        return x

    def _predict(self, name: str, x: jax.Array, outputs: int, first_bias: float) -> jax.Array:
        return Conv(
            outputs,
            use_bias=True,
            # Boxes in bfloat16 would lie a quarter of a pixel beside, and many costs be equal.
            dtype=jnp.float32,
            kernel_init=kernel_init,
            first_bias=first_bias,
            name=name,
        )(x)


class YOLOX(Model):
    """The detector; `create_model` builds it by name. Other fields: see `Model`.

    Attributes:
        num_classes: Classes; there is no background among them.
        head_width: Channels of the head's convolutions; as many as the backbone's map of stride 16
            has, rounded up to a multiple of 32 and at most 256, if not told.
        depthwise: Whether the 3x3 convolutions of neck and head are separable; if not told, they
            are where that makes a width of 64 or less.
    """

    num_classes: int = 80
    head_width: int = 128
    depthwise: bool = False

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, features: bool = False
    ) -> tuple[jax.Array, ...] | tuple[tuple[jax.Array, ...], dict[str, jax.Array]]:
        """Tells of every place what is there.

        Args:
            images: [b, h, w, 3] in [0, 1], channels in the order of the weights; h and w multiples
                of 32.
            train: Whether dropout and batch statistics are on.
            features: Whether the stages' maps and the neck's are returned too.

        Returns:
            Class logits [b, A, num_classes], boxes [b, A, 4] as `decode` takes them, and logits of
            objectness [b, A], float32, in the order of `points(h, w)`; with `features`, (those,
            the stages' maps and "pan_3", "pan_4" and "pan_5").

        Raises:
            ConfigurationError: If a side is no multiple of 32.
        """
        sizes = _level_sizes(self.backbone.stages, *images.shape[1:3])
        maps = self.maps(images, train)
        # Blocks of some backbones enlarge maps that do not hold whole patches.
        levels = [resize_bilinear(maps[name], size) for name, size in sizes.items()]
        pan = PAFPN(self.depthwise, self.common, name="neck")(levels, train)
        found = []
        for index, x in enumerate(pan):
            options = self.num_classes, self.head_width, self.depthwise, self.common
            found.append(DecoupledHead(*options, name=f"head_{index}")(x, train))
        classes, boxes, objectness = (
            jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True)
        )
        outputs = classes, boxes, objectness[..., 0]
        named = {f"pan_{level}": x for level, x in enumerate(pan, 3)}
        return (outputs, {**maps, **named}) if features else outputs

    def points(self, height: int, width: int) -> np.ndarray:
        """Returns the places where objects are looked for, of images of `height` x `width` pixels.

        Returns:
            float32 [A, 3] as (column, row, stride), both counted in places of their level from 0;
            level after level from the finest, row after row; 3,549 at 416x416.

        Raises:
            ConfigurationError: If a side is no multiple of 32.
        """
        stages, parts = self.backbone.stages, []
        for name, (rows, columns) in _level_sizes(stages, height, width).items():
            y, x = np.mgrid[:rows, :columns]
            stride = np.full_like(x, stages[name][0])
            parts.append(np.stack([x, y, stride], axis=-1).reshape(-1, 3))
        return np.concatenate(parts).astype(np.float32)


def _levels(stages: Stages) -> tuple[str, str, str]:
    """Returns the backbone's stages of the three levels, finest first."""
    coarse = deepest(stages, 32)
    middle = deepest(stages, 16, before=coarse)
    return deepest(stages, 8, before=middle), middle, coarse


def _level_sizes(stages: Stages, height: int, width: int) -> dict[str, tuple[int, int]]:
    """Returns (height, width) of each level's map, by the stage's name."""
    strides = {name: stages[name][0] for name in _levels(stages)}
    coarsest = max(strides.values())
    if height % coarsest or width % coarsest or not height * width:
        raise ConfigurationError(
            f"images of {height}x{width} pixels do not fit the detector's levels: both sides must "
            f"be multiples of {coarsest}; pad or resize them"
        )
    return {name: (height // stride, width // stride) for name, stride in strides.items()}


def _width(backbone: Any) -> int:
    """Of MobileViT XXS, XS and S this gives 64, 96 and 128, of which only 64 is separable."""
    stages = backbone.stages
    _, channels = stages[_levels(stages)[1]]
    return min(math.ceil(channels / _WIDTH_STEP) * _WIDTH_STEP, _WIDEST)


def _check(model: YOLOX) -> None:
    for field in ("num_classes", "head_width"):
        if getattr(model, field) < 1:
            raise ConfigurationError(f"{field} must be at least 1; got {getattr(model, field)!r}")
    stages = model.backbone.stages
    strides = [stages[name][0] for name in _levels(stages)]
    if any(coarse % fine for fine, coarse in itertools.pairwise(strides)):
        raise ConfigurationError(
            "the head needs maps whose strides are multiples of one another, and the backbone's "
            f"have {', '.join(map(str, strides))}; choose another backbone or head"
        )


def _recognise(tensors: Tensors) -> dict[str, Any]:
    return {
        "num_classes": tensors.outputs("head_0/predict_classes/kernel"),
        "head_width": tensors.outputs("head_0/stem/conv/kernel"),
        "depthwise": "head_0/classes_0/depthwise/conv/kernel" in tensors,
    }


def _block(ours: str, theirs: str) -> tuple[Row, Row]:
    return apart(ours, f"{theirs}.conv", f"{theirs}.bn")


def _conv_3x3(ours: str, theirs: str) -> Iterator[Row]:
    yield from _block(ours, theirs)
    yield from _block(f"{ours}/depthwise", f"{theirs}.dconv")
    yield from _block(f"{ours}/pointwise", f"{theirs}.pconv")


def _neck_rows() -> Iterator[Row]:
    for ours, theirs in (("lateral_5", "lateral_conv0"), ("lateral_4", "reduce_conv1")):
        yield from _block(f"neck/{ours}", f"backbone.{theirs}")
    for ours, theirs in (("downsample_3", "bu_conv2"), ("downsample_4", "bu_conv1")):
        yield from _conv_3x3(f"neck/{ours}", f"backbone.{theirs}")
    joined = {
        "top_down_4": "C3_p4",
        "top_down_3": "C3_p3",
        "bottom_up_4": "C3_n3",
        "bottom_up_5": "C3_n4",
    }
    for ours, theirs in joined.items():
        ours, theirs = f"neck/{ours}", f"backbone.{theirs}"
        for index, name in enumerate(("through", "beside", "project"), 1):
            yield from _block(f"{ours}/{name}", f"{theirs}.conv{index}")
        yield from _block(f"{ours}/bottleneck_1x1", f"{theirs}.m.0.conv1")
        yield from _conv_3x3(f"{ours}/bottleneck_3x3", f"{theirs}.m.0.conv2")


def _head_rows() -> Iterator[Row]:
    ours = "head_{level}"
    yield from _block(f"{ours}/stem", "head.stems.{level}")
    for name, short in (("classes", "cls"), ("boxes", "reg"), ("objectness", "obj")):
        if name != "objectness":
            branch = f"head.{short}_convs.{{level}}.{{number}}"
            yield from _conv_3x3(f"{ours}/{name}_{{number}}", branch)
        yield Row(f"{ours}/predict_{name}", f"head.{short}_preds.{{level}}", "dense")


HEAD = Head(
    name="yolox",
    prefix="yolox_",
    module=YOLOX,
    task="detection",
    input_size=416,
    first_named=0,
    letterboxed=True,
    check=_check,
    saved_as="YOLOX",
    recognise=_recognise,
    class_modules=("predict_classes",),
    defaults={
        "head_width": _width,
        "depthwise": lambda backbone: _width(backbone) <= _WIDEST_DEPTHWISE,
    },
    names={"cvnets": (HeadNames((*_neck_rows(), *_head_rows()), prefixes=("encoder.",)),)},
)
