"""Settings of segmentation: augmentation, loss and the protocol of evaluation."""

from dataclasses import dataclass, field
from typing import Literal

from mobilevit_jax.data.augment_masks import MaskAugmentConfig
from mobilevit_jax.errors import check_fields, unknown_name

Protocol = Literal["fixed", "keep_aspect"]
_PROTOCOLS = ("fixed", "keep_aspect")
_CONVENTIONS = ("v0.1", "later")


@dataclass(frozen=True)
class SegmentationConfig:
    """How a segmentation model is trained and evaluated.

    Attributes:
        augment: What training images and their masks go through.
        aux_weight: Weight of the auxiliary classifier's loss, where the model has that classifier.
        convention: What such a model minimises: "v0.1" half of main + aux_weight * auxiliary, as
            CVNets v0.1 does; "later" the whole sum. Without an auxiliary classifier they are one.
            (The auxiliary logits are resized bilinearly in both, where v0.1 takes the nearest.)
        protocol: Evaluation: "fixed" resizes images to the crop's size whatever their aspect
            ratio, as the paper's numbers were measured; "keep_aspect" makes their short side as
            long as the crop's, one image at a time.
        multiple: "keep_aspect": what both sides are rounded to a multiple of. Every shape is
            compiled once; 1 keeps the exact shapes, as later CVNets does, and may take hours to
            compile, 32 leaves a dozen shapes.
    """

    augment: MaskAugmentConfig = field(default_factory=MaskAugmentConfig)
    aux_weight: float = 0.4
    convention: Literal["v0.1", "later"] = "v0.1"
    protocol: Protocol = "fixed"
    multiple: int = 1

    def __post_init__(self) -> None:
        check_fields(
            self,
            "segmentation.",
            aux_weight=(0 <= self.aux_weight < float("inf"), "0 or more"),
            multiple=(self.multiple >= 1, "at least 1"),
        )
        if self.convention not in _CONVENTIONS:
            raise unknown_name("segmentation.convention", self.convention, _CONVENTIONS)
        if self.protocol not in _PROTOCOLS:
            raise unknown_name("segmentation.protocol", self.protocol, _PROTOCOLS)
