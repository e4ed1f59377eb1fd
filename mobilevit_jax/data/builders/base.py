"""What the builders share: items in hashed order, loaded by threads, written shard by shard.

TFDS's `GeneratorBasedBuilder` shuffles through files once a split exceeds 1 GB, and that code
needs TensorFlow (`core/shuffle.py` of 4.9.10 calls `tf.io.gfile`). Its `ShardBasedBuilder` writes
the shards in the order that it is given. So a builder here lists its items first, which also
gives progress a total and finds missing files before anything is written, and the items are
shuffled as a list, by a hash of their keys.
"""

import collections
import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from mobilevit_jax.base.cores import usable_cores
from mobilevit_jax.errors import DataError

Progress = Callable[[str, int, int], None]
"""Called with (split, items done, items in the split), now and then and at the end of a split."""

SHARD_BYTES = 256 * 2**20
_PROGRESS_EVERY = 64


class Item(NamedTuple):
    """One example to be.

    Attributes:
        key: Unique within its split; its hash is the place in the stored order.
        size: Bytes that it will take, roughly; decides the number of shards.
        content: What the builder's `example` needs to make it.
    """

    key: str
    size: int
    content: Any


class StoredBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Base of the package's builders.

    A subclass sets `name` and `VERSION`, and defines `features`, `items` and `example`.

    Attributes:
        takes_source: Whether the data come from files that the user names.
    """

    name = "stored"
    VERSION = tfds.core.Version("1.0.0")
    takes_source = True

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        config: str | tfds.core.BuilderConfig | None = None,
        source: Path | None = None,
        name: str | None = None,
        skip_bad_images: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Prepares a builder; nothing is read or written yet.

        Args:
            data_dir: Where TFDS keeps data sets.
            config: A configuration or its name, for builders that have some.
            source: The directory that holds the data.
            name: Stores the data set under this name instead of the builder's.
            skip_bad_images: Leaves out and counts images that cannot be decoded, instead of
                stopping at the first.
            progress: Called as the examples are stored.
        """
        self.source = source
        self.skip_bad_images = skip_bad_images
        self.skipped: dict[str, list[str]] = {}
        self._progress = progress
        self._metadata = tfds.core.MetadataDict()
        if name is not None:
            # As TFDS does in its own read-only builder.
            self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        super().__init__(data_dir=data_dir, config=config)

    @abstractmethod
    def features(self) -> tfds.features.FeaturesDict:
        """Returns the features of an example."""

    @abstractmethod
    def items(self) -> Mapping[str, Sequence[Item]]:
        """Returns the items of every split; raises if the source is not as it should be."""

    @abstractmethod
    def example(self, item: Item) -> dict[str, Any]:
        """Makes the example of an item, in any thread; a `DataError` marks a bad image."""

    def extra_metadata(self) -> dict[str, Any]:
        """Returns what `metadata.json` says besides what it says of every data set.

        `sources` knows "category_ids" (a number for each class) and "notes" ({split: {what: how
        often}}).
        """
        return {}

    @classmethod
    def splits_in(cls, source: Path) -> set[str]:
        """Returns the splits that a source offers now, where a quick look tells."""
        del source
        return set()

    def _info(self) -> tfds.core.DatasetInfo:
        return _LocalInfo(
            builder=self,
            description=(type(self).__doc__ or "").split("\n\n")[0],
            features=self.features(),
            metadata=self._metadata,
        )

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        del dl_manager
        shards = {}
        for split, items in self.items().items():
            ordered = sorted(items, key=lambda item: _hash(item.key))
            count = max(1, min(len(items), round(sum(i.size for i in items) / SHARD_BYTES)))
            bounds = [round(len(items) * i / count) for i in range(count + 1)]
            shards[split] = [
                partial(self._shard, split, ordered, bounds[i], bounds[i + 1]) for i in range(count)
            ]
        return shards

    def _shard(
        self, split: str, items: Sequence[Item], start: int, stop: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        load = partial(self._load, split)
        for done, (item, example) in enumerate(
            zip(items[start:stop], ordered_map(load, items[start:stop]), strict=True), start + 1
        ):
            if self._progress and (done % _PROGRESS_EVERY == 0 or done == len(items)):
                self._progress(split, done, len(items))
            if example is not None:
                yield item.key, example
        if stop == len(items):
            self._finish_split(split, len(items))

    def _load(self, split: str, item: Item) -> dict[str, Any] | None:
        try:
            return self.example(item)
        except DataError:
            if not self.skip_bad_images:
                raise
            self.skipped.setdefault(split, []).append(item.key)
            return None

    def _finish_split(self, split: str, count: int) -> None:
        if len(self.skipped.get(split, ())) == count:
            raise DataError(f"none of the {count} images of the split {split!r} can be decoded")
        # TFDS writes the metadata after the last shard.
        self._metadata.update(
            builder=type(self).name,
            source=str(self.source) if self.source else None,
            splits=sorted(self.items()),
            skipped={name: sorted(keys) for name, keys in self.skipped.items()},
            **self.extra_metadata(),
        )

    def _example_writer(self) -> tfds.core.ExampleWriter:
        file_format = self.info.file_format
        assert file_format is not None  # download_and_prepare has set it
        return _ShardFileWriter(file_format)

    # TFDS prints about downloads, of which there are none.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


class _LocalInfo(tfds.core.DatasetInfo):
    """A description that is not looked for on TFDS's server."""

    def initialize_from_bucket(self) -> None:
        """Does nothing; TFDS would leave an empty temporary directory behind at each call."""


class _ShardFileWriter(tfds.core.ExampleWriter):
    """Writes the file of a shard, whole."""

    def write(self, path: Any, examples: Iterable[Any]) -> Any:
        if self.file_format is tfds.core.FileFormat.PARQUET:
            # TFDS 4.9.10 slices what it is given by position, batch after batch, and so drops
            # every second hundred of an iterator; slices of a list are right.
            examples = list(examples)
        return super().write(path, examples)


def ordered_map(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Maps by threads, in order, a bounded number of items ahead.

    `ThreadPoolExecutor.map` would start all items at once and hold every result.

    Args:
        function: Called with each item; should release the interpreter lock for most of its time.
        items: What to map.
    """
    threads = usable_cores()
    waiting: collections.deque[Future[Any]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 8 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).digest()
