"""From a record to an example of YOLO's training: which others it is put together with."""

from collections.abc import Sized
from typing import Any, Protocol

from mobilevit_jax.data.annotations import for_training, to_detection
from mobilevit_jax.data.augment import example_rng
from mobilevit_jax.data.batches import Records
from mobilevit_jax.data.decode import ChannelOrder, decode_image
from mobilevit_jax.data.mosaic import Labelled, MosaicConfig, augment_mosaic, count_others
from mobilevit_jax.data.sampler import PlannedBatch
from mobilevit_jax.errors import DataError


class SizedRecords(Records, Sized, Protocol):
    """A split, as far as it is asked for here."""


def mosaic_example(
    split: SizedRecords,
    record: dict[str, Any],
    record_id: int,
    planned: PlannedBatch,
    config: MosaicConfig,
    *,
    seed: int,
    mosaic: bool = True,
    channel_order: ChannelOrder = "bgr",
    pad_value: int = 114,
) -> Labelled:
    """Decodes a record, reads the others that a mosaic takes, and augments.

    Everything follows from (seed, epoch, record id). Crowds and boxes without area take no part.

    Args:
        split: Where the others come from; each record alike, the same one included.
        record: The record, as `split` has it.
        record_id: Its place in `split`.
        planned: Has the epoch and the size of the result in pixels.
        config: What is done.
        seed: Of the run.
        mosaic: Whether there are mosaics; the last epochs have none.
        channel_order: Of the result.
        pad_value: What pixels are that no image covers; the processor's.

    Returns:
        See `augment_mosaic`.

    Raises:
        DataError: If one of the images cannot be read or decoded, which is named; also whose
            mosaic it was wanted for, which is not made then.
    """
    rng = example_rng(seed, planned.epoch, record_id)
    more = count_others(rng, config) if mosaic else 0
    ids = rng.integers(len(split), size=more).tolist()
    first = _labelled(record, record_id, channel_order)
    try:
        records = split.records(ids) if ids else []
        others = [_labelled(*one, channel_order) for one in zip(records, ids, strict=True)]
    except DataError as error:
        raise DataError(f"{error} (wanted in the mosaic of {record['name']})") from error
    return augment_mosaic(
        first,
        others,
        rng,
        planned.height,
        planned.width,
        config,
        channel_order=channel_order,
        pad_value=pad_value,
    )


def _labelled(record: dict[str, Any], place: int, channel_order: ChannelOrder) -> Labelled:
    found = to_detection(record, place)
    image = decode_image(found["image"], name=found["name"], channel_order=channel_order)
    return Labelled(image, *for_training(found))
