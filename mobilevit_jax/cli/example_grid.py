"""A grid of a data set's first images with what weights make of them, for `evaluate --plots`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilevit_jax.cli.prediction_output import FORMS, Picture, Settings
from mobilevit_jax.data.decode import decode_image
from mobilevit_jax.data.record_parser import record_name
from mobilevit_jax.data.sources import Split
from mobilevit_jax.errors import DataError

if TYPE_CHECKING:
    from mobilevit_jax.tasks import Predictor

_SHOWN = 12
_SETTINGS = Settings(top=5, score_threshold=0.3, masks=None, batch=_SHOWN)


def draw_examples(
    predictor: "Predictor", task: str, split: Split, path: Path, *, skip_bad: bool = False
) -> None:
    """Draws the first twelve images of a split with their answers.

    Segmentation has the true masks beside, as in Figure 17 of the paper; detection is like Figure
    14.

    Args:
        predictor: From `tasks.create_predictor`.
        task: "classification", "detection" or "segmentation".
        split: The data.
        path: The PNG file to write.
        skip_bad: Whether images that cannot be decoded are left out.

    Raises:
        DataError: If an image cannot be decoded, or none can.
    """
    records, names, images = [], [], []
    for index, record in enumerate(split.records(list(range(min(_SHOWN, len(split)))))):
        name = record_name(record, index)
        try:
            images.append(decode_image(record["image"], name=name, channel_order="rgb"))
        except DataError:
            if not skip_bad:
                raise
            continue
        records.append(record)
        names.append(name)
    if not images:
        raise DataError(f"none of the first {_SHOWN} images can be decoded, so none is drawn")
    form = FORMS[task]
    raws = form.ask(predictor, images, _SETTINGS)
    if task == "segmentation":
        _compare(images, raws, records, names, predictor.class_names, path)
        return
    pictures: list[Picture] = [
        (image, form.to_json(predictor.class_names, name, image, raw, _SETTINGS), raw)
        for name, image, raw in zip(names, images, raws, strict=True)
    ]
    form.draw(pictures, predictor.class_names, path)


def _compare(
    images: list[np.ndarray],
    masks: Sequence[np.ndarray],
    records: list[dict[str, Any]],
    names: list[str],
    class_names: tuple[str, ...],
    path: Path,
) -> None:
    from mobilevit_jax.analysis.plots_detection import grid
    from mobilevit_jax.analysis.plots_segmentation import compare
    from mobilevit_jax.data.masks import decode_mask, to_segmentation

    panels = []
    for image, mask, record, name in zip(images, masks, records, names, strict=True):
        truth = decode_mask(to_segmentation(record)["mask"], name=name)
        panels.append(compare(image, mask, class_names, truth))
    grid(panels, path, columns=2)
