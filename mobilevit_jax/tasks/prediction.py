"""Images as users give them, in batches of one shape, for the predictors of all tasks."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mobilevit_jax.data.decode import as_rgb
from mobilevit_jax.errors import DataError
from mobilevit_jax.processing import ImageProcessor

if TYPE_CHECKING:
    from mobilevit_jax.processing import ImageInput


def image_batches(
    images: "Sequence[ImageInput]", processor: ImageProcessor, batch: int | None, most: int
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Yields some of the images as RGB, and what the model takes of them: float32 [rows, h, w, 3].

    All batches have as many rows, so that they share a compilation: the number of images, or
    `batch` if that is more, but no more than `most`. Images are repeated to fill them.

    Raises:
        DataError: If there are no images, or one cannot be read; it is named.
    """
    if not images:
        raise DataError("no images were given")
    rows = min(most, max(batch or 0, len(images)))
    for start in range(0, len(images), rows):
        some = enumerate(images[start : start + rows], start)
        arrays = [as_rgb(image, number) for number, image in some]
        pixels = processor([*arrays])
        yield arrays, np.resize(pixels, (rows, *pixels.shape[1:]))
