import dataclasses

import pytest

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.nms import NMS_CONFIGS


def test_the_convention_says_what_is_not_given():
    assert DetectionConfig().nms() == NMS_CONFIGS["v0.1"]
    assert DetectionConfig(convention="later").nms() == NMS_CONFIGS["later"]
    nms = DetectionConfig(convention="later", score_threshold=0.2, iou_threshold=0.6).nms()
    assert nms == dataclasses.replace(NMS_CONFIGS["later"], score_threshold=0.2, iou_threshold=0.6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convention": "latter"}, "unknown detection.convention 'latter'.*did you mean 'later'"),
        ({"max_boxes": 0}, "detection.max_boxes must be at least 1; got 0"),
        ({"negative_ratio": 0}, "detection.negative_ratio"),
        ({"match_threshold": 0}, "detection.match_threshold must be in"),
        ({"score_threshold": 1.5}, "score_threshold must be in"),
        ({"iou_threshold": -0.1}, "iou_threshold must be in"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        DetectionConfig(**options)
