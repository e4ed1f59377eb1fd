"""Segmentation of single images, as `predict` and notebooks use it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from mobilevit_jax.base.atomic import replacing
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.prediction import image_batches
from mobilevit_jax.tasks.segmentation.maps import make_classify, resize_classes, whole_images

if TYPE_CHECKING:
    from mobilevit_jax.processing import ImageInput


_BATCH = 16  # the logits of one image at 512x512 are 22 MB


class Segmenter:
    """Tells the class of every pixel.

    Attributes:
        processor: What images go through: whole, at the size of the processor's crop.
        class_names: In the order of the values of a mask.
    """

    def __init__(
        self,
        model: Any,
        variables: Any,
        processor: ImageProcessor,
        class_names: Sequence[str],
    ) -> None:
        """Puts the weights on the device; the first call compiles."""
        self.processor = whole_images(processor)
        self.class_names = tuple(class_names)
        self._variables = jax.device_put(variables)
        self._classify = jax.jit(make_classify(model))

    def __call__(
        self,
        images: "ImageInput | list[ImageInput] | tuple[ImageInput, ...]",
        *,
        batch: int | None = None,
    ) -> Any:
        """Segments an image or several.

        Args:
            images: A path, a Pillow image or a uint8 array [h, w, 3] in RGB; or a list of these.
            batch: Rows that fewer images are padded to, so that calls share a compilation. Images
                are taken up to 16 at once.

        Returns:
            A mask of the image's own size, uint8 [h, w]: the class index of each pixel; for a list
            of images a list of masks.

        Raises:
            DataError: If an image cannot be read; it is named.
        """
        if not isinstance(images, list | tuple):
            return self([images], batch=batch)[0]
        masks: list[np.ndarray] = []
        for arrays, pixels in image_batches(images, self.processor, batch, _BATCH):
            classes = np.asarray(self._classify(self._variables, pixels))
            masks += [
                resize_classes(map_of_image, *array.shape[:2])
                for map_of_image, array in zip(classes, arrays, strict=False)  # not the padding
            ]
        return masks


def save_palette_png(mask: np.ndarray, path: str | Path, class_names: Sequence[str] = ()) -> None:
    """Writes a mask as a PNG with a palette: its pixels are the class indices.

    Args:
        mask: uint8 [h, w].
        path: The file to write; its folder is made if need be.
        class_names: Decide the colours, see `mask_palette`; VOC's without any.

    Raises:
        OSError: If the file cannot be written.
    """
    from PIL import Image

    from mobilevit_jax.data.masks import mask_palette

    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"a mask is uint8 [h, w], not {mask.dtype} {list(mask.shape)}")
    height, width = mask.shape
    image = Image.frombytes("P", (width, height), np.ascontiguousarray(mask).tobytes())
    image.putpalette(mask_palette(class_names).ravel().tolist())
    with replacing(Path(path)) as unfinished:
        image.save(unfinished, format="PNG")
