"""Classification of single images, as `predict` and notebooks use it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from mobilevit_jax.processing import ImageProcessor

if TYPE_CHECKING:
    from mobilevit_jax.processing import ImageInput


@dataclass(frozen=True)
class Class:
    """One class of an answer.

    Attributes:
        name: Its name.
        index: Its place among the logits.
        probability: From 0 to 1.
    """

    name: str
    index: int
    probability: float


class Classifier:
    """Names what images show.

    Attributes:
        processor: What images go through.
        class_names: In the order of the logits.
    """

    def __init__(
        self,
        model: Any,
        variables: Any,
        processor: ImageProcessor,
        class_names: Sequence[str],
    ) -> None:
        """Puts the weights on the device; the first call compiles."""
        self.processor = processor
        self.class_names = tuple(class_names)
        self._variables = jax.device_put(variables)
        self._probabilities = jax.jit(lambda v, x: jax.nn.softmax(model.apply(v, x)))

    def __call__(
        self,
        images: "ImageInput | list[ImageInput] | tuple[ImageInput, ...]",
        *,
        top: int = 5,
        batch: int | None = None,
    ) -> Any:
        """Classifies an image or several.

        Args:
            images: A path, a Pillow image or a uint8 array [h, w, 3] in RGB; or a list of these.
            top: Classes of each, at most as many as there are.
            batch: Rows that the images are padded to, so that calls share a compilation.

        Returns:
            Its most probable classes, a list of `Class`, most probable first; for a list of images
            a list of such lists.

        Raises:
            DataError: If an image cannot be read; it is named.
        """
        if not isinstance(images, list | tuple):
            return self([images], top=top, batch=batch)[0]
        pixels = self.processor(images)
        count = len(pixels)
        padded = np.resize(pixels, (max(batch or count, count), *pixels.shape[1:]))
        scores = np.asarray(self._probabilities(self._variables, padded))[:count]
        return [self._answer(row, top) for row in scores]

    def _answer(self, scores: np.ndarray, top: int) -> list[Class]:
        order = np.argsort(-scores, kind="stable")[:top]
        names = self.class_names
        return [
            Class(names[i] if i < len(names) else str(i), int(i), float(scores[i])) for i in order
        ]
