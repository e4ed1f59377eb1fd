"""Options of detection, in training and after it."""

from dataclasses import dataclass, field, replace
from typing import Literal

from mobilevit_jax.data.augment_boxes import BoxAugmentConfig
from mobilevit_jax.data.mosaic import MosaicConfig
from mobilevit_jax.errors import check_fields, unknown_name
from mobilevit_jax.tasks.detection.nms import NMS_CONFIGS, NMSConfig


@dataclass(frozen=True)
class DetectionConfig:
    """How detectors are trained, and what counts as a detection.

    Attributes:
        augment: What training images and their boxes go through.
        mosaic: YOLOX: what they go through instead.
        close_mosaic: YOLOX: epochs at the end in which images come whole, without mosaic or Mixup,
            and the L1 distance of the boxes is part of the loss.
        max_boxes: Objects of a training image that take part; of more, those of the largest boxes
            are kept and the others counted. COCO has at most 93 in an image; a mosaic has four.
        match_threshold: Least intersection over union of an anchor with the object it answers for.
        negative_ratio: Background anchors in the loss for each anchor with an object.
        convention: Of non-maximum suppression: "v0.1" keeps 200 boxes a class with probabilities
            above 0.05, "later" (CVNets from v0.2 on) 200 an image above 0.01, of the best 400 of
            each class; mAP is a little higher with the latter. "yolox" keeps 300 an image above
            0.01, with an overlap of 0.65. None takes "yolox" for a YOLOX, "v0.1" for others. See
            `nms.NMSConfig`.
        score_threshold: Least probability of a detection; None takes the convention's.
        iou_threshold: Overlap above which the worse of two boxes of a class goes; None takes the
            convention's.
        class_agnostic: Whether it goes whatever the classes.
    """

    augment: BoxAugmentConfig = field(default_factory=BoxAugmentConfig)
    mosaic: MosaicConfig = field(default_factory=MosaicConfig)
    close_mosaic: int = 15
    max_boxes: int = 100
    match_threshold: float = 0.5
    negative_ratio: int = 3
    convention: Literal["v0.1", "later", "yolox"] | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        check_fields(
            self,
            "detection.",
            max_boxes=(self.max_boxes >= 1, "at least 1"),
            close_mosaic=(self.close_mosaic >= 0, "0 or more"),
            negative_ratio=(self.negative_ratio >= 1, "at least 1"),
            match_threshold=(0 < self.match_threshold <= 1, "in (0, 1]"),
        )
        if self.convention is not None and self.convention not in NMS_CONFIGS:
            raise unknown_name("detection.convention", self.convention, NMS_CONFIGS)
        self.nms()

    def nms(self, convention: str = "v0.1") -> NMSConfig:
        """Returns the convention's numbers with those that are given in their place.

        Args:
            convention: The one that holds unless the configuration names another.

        Raises:
            ConfigurationError: If a threshold is not in [0, 1].
        """
        own = {"score_threshold": self.score_threshold, "iou_threshold": self.iou_threshold}
        given = {name: value for name, value in own.items() if value is not None}
        numbers = NMS_CONFIGS[self.convention or convention]
        return replace(numbers, class_agnostic=self.class_agnostic, **given)
