"""A model's options as an experiment states them."""

from dataclasses import dataclass, fields
from typing import Any, Literal

import jax.numpy as jnp

from mobilevit_jax.models import create_model
from mobilevit_jax.tasks.detection.anchors import AnchorConfig

# Fields that are no option of a module under their own name.
_RENAMED = {"name", "num_classes", "sync_batch_norm", "unbiased_variance", "dtype"}
_ANCHORS = {"anchor_scales", "anchor_ratios"}


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and its options; None takes the model's own published value.

    Options that only some models have are None by default, and refused for the others.

    Attributes:
        name: One of `list_models()`; `mobilevit models` shows them.
        num_classes: Classes, with the background for detectors and segmentation models; None
            takes the data set's.
        patch_sizes: Side of a patch in layer_3, layer_4, layer_5.
        fusion: Whether blocks concatenate their input and fuse it (ablation of Figure 12).
        kernel_size: Side of the blocks' local and fusion convolutions.
        dropout: Rate in the transformers.
        attention_dropout: Rate on attention maps.
        ffn_dropout: Rate inside the feed-forward networks.
        classifier_dropout: Classifiers: rate before the classifier, 0.1.
        output_stride: 32, 16 or 8; segmentation models have 16, the others 32.
        anchor_scales: Detectors: scale of the first level's anchors, and where the scales end.
        anchor_ratios: Detectors: aspect ratios of each of the six levels' anchors.
        aspp_features: Segmentation: channels of the pyramid, 256.
        aspp_rates: Segmentation: dilations of the pyramid, 6, 12 and 18.
        aspp_dropout: Segmentation: rate after the pyramid, 0.1.
        channel_dropout: Segmentation: whether that drops whole channels.
        head_dropout: Segmentation: rate in front of the classifier, 0.1.
        aux_head: Segmentation: whether training has a second classifier, on layer_4.
        aux_width: Segmentation: least channels of that one, 256.
        aux_dropout: Segmentation: rate in front of that one, 0.1.
        align_corners: Segmentation: whether upsampling puts corner pixels on one another.
        sync_batch_norm: Whether batch statistics are averaged over devices; the paper's
            classification runs keep each device's own.
        unbiased_variance: Whether running variances are unbiased, as PyTorch keeps them.
        remat: Whether activations are computed again in the backward pass to save memory.
        freeze_backbone: Whether only the head is trained; see `init_from`.
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
    classifier_dropout: float | None = None
    output_stride: int | None = None
    anchor_scales: tuple[float, float] | None = None
    anchor_ratios: tuple[tuple[float, ...], ...] | None = None
    aspp_features: int | None = None
    aspp_rates: tuple[int, int, int] | None = None
    aspp_dropout: float | None = None
    channel_dropout: bool | None = None
    head_dropout: float | None = None
    aux_head: bool | None = None
    aux_width: int | None = None
    aux_dropout: float | None = None
    align_corners: bool | None = None
    sync_batch_norm: bool = False
    unbiased_variance: bool = True
    remat: bool = False
    freeze_backbone: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, num_classes: int, bn_axis_name: str) -> Any:
        """Creates the module.

        Args:
            num_classes: Classes of the data set, used if the configuration has none.
            bn_axis_name: Devices' axis that synchronised batch norm averages over.

        Returns:
            A `MobileViT`, `SSDLite` or `DeepLabV3`.

        Raises:
            ConfigurationError: As `create_model` does, also for an option that the model does not
                have.
        """
        names = [f.name for f in fields(self) if f.name not in _RENAMED | _ANCHORS]
        options = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return create_model(
            self.name,
            num_classes=num_classes if self.num_classes is None else self.num_classes,
            bn_axis_name=bn_axis_name if self.sync_batch_norm else None,
            bn_unbiased=self.unbiased_variance,
            dtype=jnp.dtype(self.dtype),
            **options,
            **self._anchor_options(),
        )

    def _anchor_options(self) -> dict[str, AnchorConfig]:
        """Returns the option of detectors that two fields stand for, if they are set."""
        options: dict[str, Any] = {}
        if self.anchor_scales is not None:
            options["min_scale"], options["max_scale"] = self.anchor_scales
        if self.anchor_ratios is not None:
            # Those out of a JSON file are lists inside.
            options["aspect_ratios"] = tuple(map(tuple, self.anchor_ratios))
        return {"anchor_config": AnchorConfig(**options)} if options else {}
