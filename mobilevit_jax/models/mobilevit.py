"""MobileViT: the classifier (Mehta & Rastegari, ICLR 2022; CVNets v0.1)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mobilevit_jax.models.backbone import BackboneModel
from mobilevit_jax.models.layers import ConvBlock, Dense, Dropout


class MobileViT(BackboneModel):
    """The classifier; `create_model` builds it by name. Other fields: see `BackboneModel`.

    Attributes:
        num_classes: Classes, or 0 for pooled features.
        classifier_dropout: Rate before the classifier.
    """

    num_classes: int = 1000
    classifier_dropout: float = 0.1

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
            `features`, also {"conv_1", "layer_1", ..., "layer_5", "conv_1x1_exp"}.
        """
        frozen = train and self.freeze_backbone
        maps = self.stages(images, train)
        exp_channels = self.variant.exp_channels
        x = ConvBlock(exp_channels, dtype=self.dtype, name="conv_1x1_exp", **self.norm)(
            maps["layer_5"], train and not frozen
        )
        # Pretrained with the backbone and frozen with it.
        x = lax.stop_gradient(x) if frozen else x
        maps = {**maps, "conv_1x1_exp": x}
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        if self.num_classes:
            x = Dropout(self.classifier_dropout)(x, train)
            x = Dense(self.num_classes, dtype=self.dtype, name="classifier")(x)
        x = x.astype(jnp.float32)
        return (x, maps) if features else x


def attention_maps(
    model: nn.Module, variables: Any, images: jax.Array
) -> dict[str, tuple[jax.Array, ...]]:
    """Returns the attention maps of every MobileViT block, for looking inside.

    Args:
        model: Any model of `create_model`.
        variables: Its parameters and batch statistics.
        images: [b, h, w, 3] in [0, 1].

    Returns:
        {"layer_3", "layer_4", "layer_5"} -> one array [b, p, heads, n, n] for each transformer
        layer: p places in a patch, n patches in row-major order; the last axis sums to 1.
    """
    _, state = model.apply(variables, images, mutable=["intermediates"])
    stages: Any = state["intermediates"]["backbone"]
    return {
        stage: tuple(
            blocks["mobilevit"][f"transformer_{index}"]["attention"]["attention"][0]
            for index in range(len(blocks["mobilevit"]))
        )
        for stage, blocks in sorted(stages.items())
    }
