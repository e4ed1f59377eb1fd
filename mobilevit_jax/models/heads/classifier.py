"""The classifier: global pooling and a linear layer, on any backbone."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.errors import ConfigurationError, unknown_name
from mobilevit_jax.models.layers import ConvBlock, Dense, Dropout, dense_init
from mobilevit_jax.models.model import Head, Model, check_rates, deepest
from mobilevit_jax.models.names import HeadNames, Row, Tensors
from mobilevit_jax.models.problem_types import PROBLEM_TYPES, SINGLE_LABEL, assumed_problem_type


class Classifier(Model):
    """The classifier; `create_model` builds it by name. Other fields: see `Model`.

    A backbone that has a property `exp_channels` gets a 1x1 convolution to as many channels before
    the pooling, `conv_1x1_exp`, which counts as pretrained with it; `exp_act` is the activation
    there, if not SiLU. `classifier_init` draws the last layer's kernel, if not `dense_init`.

    Attributes:
        num_classes: Classes, or 0 for pooled features.
        classifier_dropout: Rate before the classifier.
        problem_type: What the logits stand for, one of `problem_types.PROBLEM_TYPES`; predictors
            follow it, and the model returns logits in any case.
    """

    num_classes: int = 1000
    classifier_dropout: float = 0.1
    problem_type: str = SINGLE_LABEL

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, features: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images.

        Args:
            images: [b, h, w, 3] in [0, 1], any h and w from 1 up, channels in the order that the
                weights were trained on.
            train: Whether dropout and batch statistics are on ("dropout" random key and mutable
                "batch_stats" needed).
            features: Whether the stages' maps are returned too.

        Returns:
            Logits [b, num_classes] (pooled features [b, c] if `num_classes` is 0), float32; with
            `features`, also the stages' maps and "conv_1x1_exp", if there is one.
        """
        maps = self.maps(images, train)
        x = maps[deepest(self.backbone.stages, 32)]
        if exp_channels := getattr(self.backbone, "exp_channels", 0):
            # Pretrained with the backbone and frozen with it.
            frozen = train and self.common.freeze_backbone
            act = getattr(self.backbone, "exp_act", nn.silu)
            block = ConvBlock(exp_channels, act=act, common=self.common, name="conv_1x1_exp")
            x = block(x, train and not frozen)
            x = lax.stop_gradient(x) if frozen else x
            maps = {**maps, "conv_1x1_exp": x}
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        if self.num_classes:
            x = Dropout(self.classifier_dropout)(x, train)
            init = getattr(self.backbone, "classifier_init", dense_init)
            dtype = self.common.dtype
            x = Dense(self.num_classes, dtype=dtype, kernel_init=init, name="classifier")(x)
        x = x.astype(jnp.float32)
        return (x, maps) if features else x


def _check(model: Classifier) -> None:
    if model.num_classes < 0:
        raise ConfigurationError(
            f"num_classes must be 0 (pooled features) or more; got {model.num_classes!r}"
        )
    if model.problem_type not in PROBLEM_TYPES:
        raise unknown_name("problem_type", str(model.problem_type), PROBLEM_TYPES)
    check_rates(model)


def _recognise(tensors: Tensors) -> dict[str, Any]:
    bare = "classifier/kernel" not in tensors
    count = 0 if bare else tensors.outputs("classifier/kernel")
    return {"num_classes": count, "problem_type": assumed_problem_type(count)}


HEAD = Head(
    name="classifier",
    prefix="",
    module=Classifier,
    task="classification",
    input_size=256,
    first_named=0,
    check=_check,
    saved_as="MobileViT",
    recognise=_recognise,
    class_modules=("classifier",),
    unstated=frozenset({"problem_type"}),
    names={
        "cvnets": (HeadNames((Row("classifier", "classifier.fc", "dense"),)),),
        "huggingface": (
            HeadNames(
                (Row("classifier", "classifier", "dense"),),
                # Models with a head keep the rest under it; a bare MobileViTModel has none.
                prefixes=("{family}.", ""),
            ),
        ),
        "timm": (HeadNames((Row("classifier", "head.fc", "dense"),)),),
    },
)
