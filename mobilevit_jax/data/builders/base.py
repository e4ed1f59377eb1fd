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
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from mobilevit_jax.base.cores import usable_cores
from mobilevit_jax.data.builders.class_names import class_names, look_alikes
from mobilevit_jax.data.builders.splits import Splits, draw, find_split_folders
from mobilevit_jax.errors import ConfigurationError, DataError, count, quoted

Progress = Callable[[str, int, int], None]
"""Called with (split, items done, items in the split), now and then and at the end of a split."""

SHARD_BYTES = 256 * 2**20
_PROGRESS_EVERY = 64
_IN_TRAIN = "images that are in train, too"


class Item(NamedTuple):
    """One example to be.

    Attributes:
        key: Unique within its split; its hash is the place in the stored order.
        size: Bytes that it will take, roughly; decides the number of shards.
        content: What the builder's `example` needs to make it.
        group: Items of one group are stored one after another, as one read brings them all.
    """

    key: str
    size: int
    content: Any
    group: str = ""


class StoredBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Base of the package's builders.

    A subclass sets `name` and `VERSION`, and defines `features`, `items` and `example`.

    Attributes:
        takes_source: Whether the data come from files that the user names.
        layout: What the directory that they name must hold, for messages.
        called: What the splits are called in the source, where only folders or files tell.
        notes: {split: {what: how often}}, what `mobilevit prepare` says besides the counts.
    """

    name = "stored"
    VERSION = tfds.core.Version("1.0.0")
    takes_source = True
    layout = ""

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        config: str | tfds.core.BuilderConfig | None = None,
        source: Path | None = None,
        name: str | None = None,
        skip_bad_images: bool = False,
        validation_share: float | None = None,
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
            validation_share: Draws about this share of the training images as the validation split,
                by a hash of their keys.
            progress: Called as the examples are stored.
        """
        self.source = source
        self.skip_bad_images = skip_bad_images
        self.skipped: dict[str, list[str]] = {}
        self.validation_share = validation_share
        self.notes: dict[str, Counter[str]] = collections.defaultdict(Counter)
        self.called: dict[str, str] = {}
        self._progress = progress
        self._metadata = tfds.core.MetadataDict()
        if name is not None:
            # As TFDS does in its own read-only builder.
            self.name = name  # pyright: ignore[reportAttributeAccessIssue]
        super().__init__(data_dir=data_dir, config=config)

    @cached_property
    def folder(self) -> Path:
        """The source, which must be there.

        Raises:
            ConfigurationError: If none is given.
            DataError: If it is no directory.
        """
        if self.source is None:
            raise ConfigurationError(
                f"{type(self).name} needs --source, a directory of {self.layout}"
            )
        if not self.source.is_dir():
            raise DataError(
                f"the source {self.source} is not a directory; it must hold {self.layout}"
            )
        return self.source

    @abstractmethod
    def features(self) -> tfds.features.FeaturesDict:
        """Returns the features of an example."""

    @abstractmethod
    def items(self) -> Mapping[str, Sequence[Item]]:
        """Returns the items of every split; raises if the source is not as it should be."""

    @abstractmethod
    def example(self, item: Item) -> dict[str, Any]:
        """Makes the example of an item, in any thread; a `DataError` marks a bad image."""

    def classes_of(self, item: Item) -> Collection[str]:
        """Returns the classes that an item shows, as far as its annotations tell in advance.

        A validation split is not drawn where a class would be left without an image.
        """
        del item
        return ()

    def check_stored(self, split: str, items: Sequence[Item]) -> None:
        """Called with the items of a split when their examples are written; may add notes.

        Raises:
            DataError: If the split as a whole is not as it should be.
        """

    def fetched(self, items: Sequence[Item]) -> Iterable[Item]:
        """Reads on in a source, item after item, where `example` cannot by itself.

        Args:
            items: Some items of a split, in the order in which they are stored.

        Returns:
            The same items, with the content that `example` takes.
        """
        return items

    def extra_metadata(self) -> dict[str, Any]:
        """Returns what `metadata.json` says besides what it says of every data set.

        `sources` knows "category_ids" (a number for each class).
        """
        return {}

    @classmethod
    def splits_in(cls, source: Path) -> set[str]:
        """Returns the splits that a source offers now, where a quick look tells.

        Raises:
            DataError: If it is not in the layout.
        """
        del source
        return set()

    def split_folders(self, parent: Path) -> Splits:
        """Returns the folder of each split in a directory of the source.

        If a validation split is to be drawn and there are no folders of usual names, the directory
        itself is the training split.

        Raises:
            DataError: If a folder has a name that no split can have, or two are one split.
        """
        folders = find_split_folders(parent, undivided=self.validation_share is not None)
        self.called = folders.called
        return folders

    @cached_property
    def split_items(self) -> Mapping[str, Sequence[Item]]:
        """What `items` returns, and the validation split where it is to be drawn."""
        items = dict(self.items())
        name = self.called.get("validation", "validation")
        if name != "validation":
            what = f"images, called {name!r} in the source"
            self.notes["validation"][what] = len(items["validation"])
        training = {item.key for item in items.get("train", ())}
        for split in items:
            self.notes[split] += look_alikes(class_names(self.info.features))
            if not split.startswith("train"):  # VOC's train_aug holds train
                self.notes[split][_IN_TRAIN] = sum(item.key in training for item in items[split])
        return items if self.validation_share is None else self._with_validation(items)

    def _with_validation(self, items: dict[str, Sequence[Item]]) -> dict[str, Sequence[Item]]:
        """Moves the drawn ones of the training images into a split of their own."""
        option = f"--validation-share {self.validation_share:g}"
        if "validation" in items or "train" not in items:
            has = "has a validation split" if "validation" in items else "has no split 'train'"
            raise ConfigurationError(
                f"{self.source} {has} (there are {', '.join(items)}), so none is drawn from train; "
                f"leave {option} out"
            )
        train = items["train"]
        drawn = draw((item.key for item in train), self.validation_share or 0)
        parts = {
            "train": [item for item in train if item.key not in drawn],
            "validation": [item for item in train if item.key in drawn],
        }
        classes = {name for item in train for name in self.classes_of(item)}
        for split, part in parts.items():
            lacking = classes.difference(*(self.classes_of(item) for item in part))
            if lacking or not part:
                which = f" of the class {quoted(min(lacking), 60)}" if lacking and part else ""
                raise DataError(
                    f"{option} of {count(len(train), 'image')} leaves none{which} in the split "
                    f"{split!r}; choose another share, or put images into a folder 'validation'"
                )
        others = {item.key for split in items if split != "train" for item in items[split]}
        if others & drawn:
            raise ConfigurationError(
                f"{option} would draw {min(others & drawn)}, which another split of {self.source} "
                "has as well; leave it out"
            )
        self.notes["validation"][f"of {len(train)} images of train, drawn by {option}"] = len(drawn)
        return {**items, **parts}

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
        for split, items in self.split_items.items():
            ordered = sorted(items, key=lambda item: (_hash(item.group), _hash(item.key)))
            count = max(1, min(len(items), round(sum(i.size for i in items) / SHARD_BYTES)))
            bounds = [round(len(items) * i / count) for i in range(count + 1)]
            shards[split] = [
                partial(self._shard, split, ordered, bounds[i], bounds[i + 1]) for i in range(count)
            ]
        return shards

    def _shard(
        self, split: str, items: Sequence[Item], start: int, stop: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        load, part = partial(self._load, split), items[start:stop]
        for done, (item, example) in enumerate(
            zip(part, ordered_map(load, self.fetched(part)), strict=True), start + 1
        ):
            if self._progress and (done % _PROGRESS_EVERY == 0 or done == len(items)):
                self._progress(split, done, len(items))
            if example is not None:
                yield item.key, example
        if stop == len(items):
            self._finish_split(split, items)

    def _load(self, split: str, item: Item) -> dict[str, Any] | None:
        try:
            return self.example(item)
        except DataError:
            if not self.skip_bad_images:
                raise
            self.skipped.setdefault(split, []).append(item.key)
            return None

    def _finish_split(self, split: str, items: Sequence[Item]) -> None:
        if len(self.skipped.get(split, ())) == len(items):
            raise DataError(
                f"none of the {len(items)} images of the split {split!r} can be decoded"
            )
        self.check_stored(split, items)
        # TFDS writes the metadata after the last shard.
        self._metadata.update(
            builder=type(self).name,
            source=str(self.source) if self.source else None,
            splits=sorted(self.split_items),
            validation_share=self.validation_share,
            notes={name: dict(+notes) for name, notes in self.notes.items() if +notes},
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
