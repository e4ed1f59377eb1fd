"""Classification of single images, as `predict` and notebooks use it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from mobilevit_jax.models.problem_types import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    problem_type_of,
)
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


@dataclass(frozen=True)
class Value:
    """One number of an answer, of weights that are a regression.

    Attributes:
        name: What it is of.
        index: Its place among the outputs.
        value: The number, as the model computes it.
    """

    name: str
    index: int
    value: float


_MEANINGS: Mapping[str, tuple[Callable[[jax.Array], jax.Array], Any]] = {
    SINGLE_LABEL: (jax.nn.softmax, Class),
    MULTI_LABEL: (jax.nn.sigmoid, Class),
    REGRESSION: (lambda logits: logits, Value),
}


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
        meaning, self._answer_type = _MEANINGS[problem_type_of(model)]
        self._scores = jax.jit(lambda v, x: meaning(model.apply(v, x)))

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
            Its most probable classes, a list of `Class`, most probable first; of a regression its
            numbers, a list of `Value`, the highest first. For a list of images a list of such
            lists.

        Raises:
            DataError: If an image cannot be read; it is named.
        """
        if not isinstance(images, list | tuple):
            return self([images], top=top, batch=batch)[0]
        pixels = self.processor(images)
        count = len(pixels)
        padded = np.resize(pixels, (max(batch or count, count), *pixels.shape[1:]))
        scores = np.asarray(self._scores(self._variables, padded))[:count]
        return [self._answer(row, top) for row in scores]

    def _answer(self, scores: np.ndarray, top: int) -> list[Any]:
        order, names = np.argsort(-scores, kind="stable")[:top], self.class_names
        return [
            self._answer_type(names[i] if i < len(names) else str(i), int(i), float(scores[i]))
            for i in order
        ]
