"""A model's options as an experiment states them."""

from dataclasses import dataclass, fields
from typing import Literal

import jax.numpy as jnp

from mobilevit_jax.models import create_model
from mobilevit_jax.models.mobilevit import MobileViT


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and its options; None takes the published value of the size.

    Attributes:
        name: One of `list_models()`; `mobilevit models` shows them.
        num_classes: Classes; None takes the data set's.
        patch_sizes: Side of a patch in layer_3, layer_4, layer_5.
        fusion: Whether blocks concatenate their input and fuse it (ablation of Figure 12).
        kernel_size: Side of the blocks' local and fusion convolutions.
        dropout: Rate in the transformers.
        attention_dropout: Rate on attention maps.
        ffn_dropout: Rate inside the feed-forward networks.
        classifier_dropout: Rate before the classifier.
        output_stride: 32, 16 or 8.
        sync_batch_norm: Whether batch statistics are averaged over devices; the paper's
            classification runs keep each device's own.
        unbiased_variance: Whether running variances are unbiased, as PyTorch keeps them.
        remat: Whether activations are computed again in the backward pass to save memory.
        freeze_backbone: Whether only the classifier is trained; see `init_from`.
        dtype: Type of the computation; parameters, statistics and losses stay float32.
    """

    name: str = "mobilevit_s"
    num_classes: int | None = None
    patch_sizes: tuple[int, int, int] = (2, 2, 2)
    fusion: bool = True
    kernel_size: int = 3
    dropout: float | None = None
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    classifier_dropout: float = 0.1
    output_stride: int = 32
    sync_batch_norm: bool = False
    unbiased_variance: bool = True
    remat: bool = False
    freeze_backbone: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, num_classes: int, bn_axis_name: str) -> MobileViT:
        """Creates the module.

        Args:
            num_classes: Classes of the data set, used if the configuration has none.
            bn_axis_name: Devices' axis that synchronised batch norm averages over.

        Raises:
            ConfigurationError: As `create_model` does.
        """
        renamed = {"name", "sync_batch_norm", "unbiased_variance", "dtype", "num_classes"}
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in renamed}
        if self.dropout is None:
            del options["dropout"]
        return create_model(
            self.name,
            num_classes=num_classes if self.num_classes is None else self.num_classes,
            bn_axis_name=bn_axis_name if self.sync_batch_norm else None,
            bn_unbiased=self.unbiased_variance,
            dtype=jnp.dtype(self.dtype),
            **options,
        )
