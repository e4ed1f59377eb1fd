"""One call from an image to an answer, for weights of any task and source."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mobilevit_jax.pretrained import load_weights
from mobilevit_jax.tasks import create_predictor

if TYPE_CHECKING:
    from mobilevit_jax.tasks import Predictor


def load_predictor(
    source: str | Path,
    *,
    size: int | None = None,
    convention: Literal["v0.1", "later", "yolox"] | None = None,
    iou_threshold: float | None = None,
    class_agnostic: bool | None = None,
    **selection: Any,
) -> "Predictor":
    """Loads weights and returns what answers for images.

    Args:
        source: See `mobilevit_jax.pretrained.load_weights`.
        size: Height and width of what the model gets in pixels; the weights' own if None.
        convention: Detection: how boxes are suppressed, see `DetectionConfig`; by default as the
            run has it.
        iou_threshold: Detection: overlap above which the worse of two boxes goes.
        class_agnostic: Detection: whether it goes whatever the classes.
        **selection: `checkpoint`, `raw`, `revision` and `allow_half` of `load_weights`.

    Returns:
        A callable that takes an image or a list of images (paths, Pillow images, or uint8 arrays
        [h, w, 3] in RGB). A classifier gives for each image its most probable classes, a detector
        boxes in pixels of the image with names and scores, a segmentation model a mask of the
        image's own size.

    Raises:
        ConfigurationError: As `load_weights` does.
        DataError: As `load_weights` does.
    """
    loaded = load_weights(source, **selection)
    processor = loaded.processor if size is None else loaded.processor.for_size(size)
    return create_predictor(
        loaded,
        processor,
        convention=convention,
        iou_threshold=iou_threshold,
        class_agnostic=class_agnostic,
    )
