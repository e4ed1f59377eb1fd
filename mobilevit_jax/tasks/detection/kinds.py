"""Which kind a detector is of.

They are told apart by what they have, whoever's module it is: a single-shot detector
`anchors(height, width)`, a YOLOX `points(height, width)`.
"""

from typing import Any

import jax

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.kind import Kind
from mobilevit_jax.tasks.detection.nms import Detections, NMSConfig
from mobilevit_jax.tasks.detection.single_shot import SingleShot
from mobilevit_jax.tasks.detection.yolox.kind import Yolox
from mobilevit_jax.tasks.settings import TaskSettings

_SINGLE_SHOT, _YOLOX = SingleShot(), Yolox()


def kind_of(model: Any) -> Kind:
    """Returns the kind that a detector is of."""
    return _YOLOX if hasattr(model, "points") else _SINGLE_SHOT


def check_settings(model: Any, settings: TaskSettings) -> None:
    """Raises ConfigurationError for settings that do not go with a detector."""
    kind, defaults = kind_of(model), DetectionConfig()
    for other in (_SINGLE_SHOT, _YOLOX):
        for name in () if other is kind else other.own:
            if getattr(settings.detection, name) != getattr(defaults, name):
                raise ConfigurationError(
                    f"detection.{name} is a setting of a {other.title}, and this model is a "
                    f"{kind.title}: leave it out"
                )
    kind.check(model, settings)


def detect_images(model: Any, variables: Any, images: jax.Array, nms: NMSConfig) -> Detections:
    """Returns what a detector finds in images [b, h, w, 3], floats as the model takes them."""
    height, width = images.shape[1:3]
    return kind_of(model).detect(model, model.apply(variables, images), (height, width), nms)
