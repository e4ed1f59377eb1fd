"""What the processes of `input_pipeline.py` run: JPEG files in memory to random-resized crops.

All of them cut the same kind of box (8 to 100% of the area, aspect 3/4 to 4/3, ten tries), resize
it bilinearly to a square, mirror half of them, and give uint8.
"""

# Neither torch nor tensorflow need be installed where the types are checked.
# pyright: reportMissingImports=false

import importlib.util
import io
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobilevit_jax.data.augment import (
    AugmentConfig,
    decode_and_augment,
    example_rng,
    random_crop,
)
from mobilevit_jax.data.sampler import PlannedBatch
from mobilevit_jax.errors import ConfigurationError

OURS, OURS_ALONE = "ours (Grain loader)", "ours, decode and augment alone"
PILLOW, DATALOADER = "Pillow alone", "Pillow in a torch DataLoader"
TF_DATA = "tf.data, decode_and_crop_jpeg"
READERS = (OURS, TF_DATA, DATALOADER, OURS_ALONE, PILLOW)
# What each needs besides the package, and how to get it.
NEEDS = {
    DATALOADER: ("torch", "the extra 'parity': pip install -e '.[parity]'"),
    TF_DATA: ("tensorflow", "pip install tensorflow-cpu, which the package itself never imports"),
}

_CONFIG = AugmentConfig()
_BATCHES = 20_000  # more than anyone waits for


@dataclass(frozen=True)
class Reading:
    """What is read, and how.

    Attributes:
        files: The JPEGs.
        size: Height and width of a crop in pixels.
        threads: Threads, or worker processes of a DataLoader.
        batch: Images of a batch.
    """

    files: list[bytes]
    size: int
    threads: int
    batch: int


def check_installed(reader: str) -> None:
    """Raises a ConfigurationError that says how to install what a reader needs."""
    module, how = NEEDS.get(reader, ("numpy", ""))
    if importlib.util.find_spec(module) is None:
        raise ConfigurationError(f"{reader!r} needs {module}, which is not installed: {how}")


def open_reader(reader: str, reading: Reading) -> Iterator[int]:
    """Returns an endless iterator that reads on; each item is a number of images made."""
    check_installed(reader)
    openers: dict[str, Callable[[Reading], Iterator[int]]] = {
        OURS: _loader,
        OURS_ALONE: lambda reading: _in_threads(_ours, reading),
        PILLOW: lambda reading: _in_threads(_pillow, reading),
        DATALOADER: _data_loader,
        TF_DATA: _tf_data,
    }
    return openers[reader](reading)


def _ours(data: bytes, number: int, size: int) -> np.ndarray:
    rng = example_rng(0, 0, number)
    return decode_and_augment(data, rng, size, size, _CONFIG, name="image")


def _pillow(data: bytes, number: int, size: int) -> np.ndarray:
    from PIL import Image

    rng = example_rng(0, 0, number)
    flip = rng.random() < _CONFIG.flip_probability
    image = Image.open(io.BytesIO(data)).convert("RGB")
    top, left, height, width = random_crop(image.height, image.width, rng, _CONFIG)
    box = (left, top, left + width, top + height)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def _in_threads(make: Callable[[bytes, int, int], np.ndarray], reading: Reading) -> Iterator[int]:
    """Makes images and drops them, a batch a task, with one task waiting for each thread."""

    def work(start: int) -> int:
        for number in range(start, start + reading.batch):
            make(reading.files[number % len(reading.files)], number, reading.size)
        return reading.batch

    starts = itertools.count(0, reading.batch)
    if reading.threads == 1:
        yield from map(work, starts)
    with ThreadPoolExecutor(reading.threads) as pool:
        tasks = deque(pool.submit(work, next(starts)) for _ in range(2 * reading.threads))
        while True:
            yield tasks.popleft().result()
            tasks.append(pool.submit(work, next(starts)))


class _Files:
    """Files in memory, as the loader takes records."""

    def __init__(self, files: list[bytes]) -> None:
        self._files = files

    def records(self, ids: Any) -> list[dict[str, Any]]:
        return [{"image": self._files[i % len(self._files)], "label": 0} for i in ids]


def _loader(reading: Reading) -> Iterator[int]:
    from mobilevit_jax.data.loader import LoaderConfig, load_batches
    from mobilevit_jax.processing import ImageProcessor
    from mobilevit_jax.tasks.classification import training_examples

    rows, size = reading.batch, reading.size
    plan = [
        PlannedBatch(size, size, np.arange(step * rows, (step + 1) * rows))
        for step in range(_BATCHES)
    ]
    examples = training_examples(_CONFIG, ImageProcessor(), seed=0)
    config = LoaderConfig(threads=reading.threads)
    with load_batches(_Files(reading.files), plan, examples, config) as batches:
        for batch in batches:
            yield len(batch["image"])


class _Examples:
    """The files as a torch data set."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __len__(self) -> int:
        return _BATCHES * self._reading.batch

    def __getitem__(self, number: int) -> Any:
        import torch

        files = self._reading.files
        image = _pillow(files[number % len(files)], number, self._reading.size)
        return torch.from_numpy(image.copy()), 0


def _data_loader(reading: Reading) -> Iterator[int]:
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    examples: Any = _Examples(reading)
    batches = DataLoader(examples, reading.batch, num_workers=reading.threads, prefetch_factor=2)
    for images, _ in batches:
        yield len(images)


def _tf_data(reading: Reading) -> Iterator[int]:
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(reading.threads)
    tf.config.threading.set_intra_op_parallelism_threads(reading.threads)
    box = tf.zeros([1, 0, 4], tf.float32)
    size = (reading.size, reading.size)

    def example(data: Any) -> Any:
        begin, shape, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            box,
            area_range=_CONFIG.crop_scale,
            aspect_ratio_range=_CONFIG.crop_ratio,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        top, left, _ = tf.unstack(begin)
        height, width, _ = tf.unstack(shape)
        crop = tf.stack([top, left, height, width])
        image = tf.image.decode_and_crop_jpeg(data, crop, channels=3)
        image = tf.image.random_flip_left_right(tf.image.resize(image, size))
        return tf.cast(tf.round(image), tf.uint8)

    files = tf.data.Dataset.from_tensor_slices(reading.files).repeat()
    batches = files.map(example, num_parallel_calls=reading.threads).batch(reading.batch)
    options = tf.data.Options()
    options.threading.private_threadpool_size = reading.threads
    options.threading.max_intra_op_parallelism = 1
    for images in batches.prefetch(2).with_options(options):
        yield len(images)
