"""From images to named boxes, in one call."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import jax
import numpy as np

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.detection.kinds import detect_images, kind_of
from mobilevit_jax.tasks.detection.nms import Detections, NMSConfig
from mobilevit_jax.tasks.detection.pixels import pixel_boxes
from mobilevit_jax.tasks.prediction import image_batches

if TYPE_CHECKING:
    from mobilevit_jax.processing import ImageInput

_BATCH = 32
_DEFAULTS = DetectionConfig()


class Detection(NamedTuple):
    """An object that was found.

    Attributes:
        box: (x1, y1, x2, y2) in pixels of the image.
        label: Its class, from 1.
        name: The name of that class.
        score: Its probability.
    """

    box: tuple[float, float, float, float]
    label: int
    name: str
    score: float


class Detector:
    """Finds objects in images.

    detector = Detector(model, variables, processor, class_names)
    for found in detector("street.jpg"):
        print(found.name, found.score, found.box)

    Attributes:
        processor: What images go through.
        class_names: Of class 1 and on.
    """

    def __init__(
        self,
        model: Any,
        variables: Any,
        processor: ImageProcessor,
        class_names: Sequence[str],
        config: DetectionConfig = _DEFAULTS,
    ) -> None:
        """Puts the weights on the device; compiles nothing yet.

        Raises:
            ConfigurationError: If there is not one name for each class, or the images are not
                letterboxed and the detector wants such.
        """
        kind = kind_of(model)
        kind.check_processor(processor)
        classes = model.num_classes - kind.unnamed
        if len(class_names) != classes:
            raise ConfigurationError(
                f"the detector has {classes} classes of objects, but there are {len(class_names)} "
                "names"
            )
        self._variables = jax.device_put(variables)
        self.processor = processor
        self.class_names = tuple(class_names)
        self._nms_config = kind.nms(config)
        self._detect = jax.jit(functools.partial(detect_images, model), static_argnames="nms")

    @overload
    def __call__(
        self, images: "ImageInput", score_threshold: float = 0.3, *, batch: int | None = None
    ) -> list[Detection]: ...

    @overload
    def __call__(
        self,
        images: "list[ImageInput] | tuple[ImageInput, ...]",
        score_threshold: float = 0.3,
        *,
        batch: int | None = None,
    ) -> list[list[Detection]]: ...

    def __call__(
        self,
        images: "ImageInput | list[ImageInput] | tuple[ImageInput, ...]",
        score_threshold: float = 0.3,
        *,
        batch: int | None = None,
    ) -> list[Detection] | list[list[Detection]]:
        """Finds the objects in one image or in several.

        Images are taken up to 32 at once, in batches of one size, which is compiled for when it is
        first met: 1, 32, or the number of images if less.

        Args:
            images: A path, a Pillow image or a uint8 array [h, w, 3] in RGB; or a list of these,
                of any sizes.
            score_threshold: Least probability. Below the configuration's, the network is compiled
                again.
            batch: Rows that fewer images are padded to, so that calls share a compilation.

        Returns:
            The detections, best first; for a list of images a list of such lists.

        Raises:
            DataError: If an image cannot be read.
            ConfigurationError: If the threshold is not in [0, 1].
        """
        if not isinstance(images, list | tuple):
            return self([images], score_threshold, batch=batch)[0]
        nms = self._nms(score_threshold)
        found: list[list[Detection]] = []
        for arrays, pixels in image_batches(images, self.processor, batch, _BATCH):
            outputs: Any = jax.device_get(self._detect(self._variables, pixels, nms=nms))
            for image, *row in zip(arrays, *outputs, strict=False):  # not the padding
                found.append(self._named(image.shape, Detections(*row), score_threshold))
        return found

    def _nms(self, score_threshold: float) -> NMSConfig:
        """Returns the configuration's numbers, with a lower threshold where one is asked for.

        A higher one is applied to the result, which is the same: a box is only ever suppressed by
        one of a higher score.
        """
        nms = self._nms_config
        if not 0 <= score_threshold <= 1:
            raise ConfigurationError(f"score_threshold must be in [0, 1]; got {score_threshold}")
        return dataclasses.replace(nms, score_threshold=min(nms.score_threshold, score_threshold))

    def _named(
        self, shape: tuple[int, ...], outputs: Detections, score_threshold: float
    ) -> list[Detection]:
        """Returns one image's detections; not what was found beyond its edges."""
        boxes = pixel_boxes(np.asarray(outputs.boxes), shape[0], shape[1], self.processor)
        kept = np.asarray(outputs.valid & (outputs.scores >= score_threshold))
        kept &= (boxes[:, 2:] > boxes[:, :2]).all(1)
        columns = (boxes[kept], outputs.labels[kept], outputs.scores[kept])
        return [
            Detection((box[0], box[1], box[2], box[3]), label, self.class_names[label - 1], score)
            for box, label, score in zip(*(x.tolist() for x in columns), strict=True)
        ]
