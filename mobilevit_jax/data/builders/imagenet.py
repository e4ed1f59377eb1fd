"""ILSVRC2012 from the official archives, which are indexed and never unpacked.

A source directory holds, under their official names,

* `ILSVRC2012_img_train.tar`: a tar of 1000 tars, one a class, `n01440764.tar`, ...;
* `ILSVRC2012_img_val.tar`: 50,000 images, whose classes it does not tell;
* for them, `ILSVRC2012_devkit_t12.tar.gz`, the development kit, which has the classes in its own
  numbering and the table of that numbering; or, instead of it, a text file `val_wnids.txt` with
  the WordNet id of each validation image, one a line in the order of the images.

One of the two image archives is enough: then there is one split. As an uncompressed tar can be
read anywhere, its index of (offset, size) lets the images be stored in a shuffled order without a
second copy on the disk. Random reads from a slow disk take their time; a copy on an SSD helps.
"""

import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from PIL import Image

from mobilevit_jax.base.texts import read_text
from mobilevit_jax.data.builders.base import Item, StoredBuilder
from mobilevit_jax.data.decode import decode_image, quiet_decoders
from mobilevit_jax.data.imagenet_names import imagenet_classes
from mobilevit_jax.errors import DataError, shortened

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VALIDATION_TAR = "ILSVRC2012_img_val.tar"
DEVKIT_TAR = "ILSVRC2012_devkit_t12.tar.gz"
VALIDATION_WNIDS = "val_wnids.txt"

_ARCHIVES = {"train": TRAIN_TAR, "validation": VALIDATION_TAR}
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_END_MARK = 2 * tarfile.BLOCKSIZE  # a tar ends with two blocks of zeros


class _Stored(NamedTuple):
    archive: Path
    offset: int
    size: int
    label: str


class ImageNet(StoredBuilder, skip_registration=True):
    """ILSVRC2012, 1,281,167 training and 50,000 validation images of 1000 classes."""

    name = "imagenet"
    layout = f"{TRAIN_TAR} or {VALIDATION_TAR}"

    def features(self) -> tfds.features.FeaturesDict:
        """Returns image (JPEG, RGB or greyscale), label (WordNet ids, sorted), and file name."""
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=list(imagenet_classes())),
                "name": tfds.features.Text(),
            }
        )

    @classmethod
    def splits_in(cls, source: Path) -> set[str]:
        """Returns the splits whose archives are there."""
        return {split for split, archive in _ARCHIVES.items() if (source / archive).is_file()}

    def items(self) -> Mapping[str, Sequence[Item]]:
        """Returns the images of each split, by their places in the archives."""
        splits = self.splits_in(self.folder)
        if not splits:
            raise DataError(f"{self.folder} has no {self.layout}; see image-net.org/download")
        index = {}
        # The small archive first: what is wrong with it shows at once.
        if "validation" in splits:
            index["validation"] = list(_index_validation(self.folder))
        if "train" in splits:
            index["train"] = list(_index_train(self.folder / TRAIN_TAR))
        for split, items in index.items():
            if not items:
                raise DataError(f"{self.folder / _ARCHIVES[split]} has no images")
        return index

    def example(self, item: Item) -> dict[str, Any]:
        """Reads an image and re-encodes it if it is not an RGB or greyscale JPEG."""
        stored: _Stored = item.content
        with stored.archive.open("rb") as file:
            file.seek(stored.offset)
            data = file.read(stored.size)
        name = f"{item.key} in {stored.archive}"
        data = as_plain_jpeg(data, name=name)
        decode_image(data, name=name)
        return {"image": io.BytesIO(data), "label": stored.label, "name": item.key}


def as_plain_jpeg(data: bytes, *, name: str) -> bytes:
    """Returns a JPEG that every decoder reads alike, the same bytes where it is one already.

    ILSVRC2012 has 22 JPEG files in CMYK and one PNG file by the name of .JPEG. They are known by
    what they are, not by a list.

    Args:
        data: An image file.
        name: What to call it in an error.

    Raises:
        DataError: If it is not an image, or cut short.
    """
    quiet_decoders()
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                return data
    except Exception as error:  # Pillow's readers have no common exception
        raise DataError(f"{name}: not an image that can be decoded") from error
    pixels = decode_image(data, name=name, channel_order="rgb")
    buffer = io.BytesIO()
    # Full colour resolution and little loss: the image was compressed once already.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _index_train(archive: Path) -> Iterator[Item]:
    classes = imagenet_classes()
    # All of the outer tar first, which is quick: so a cut shows before 1000 tars are listed.
    for offset, member in list(_members(archive)):
        wnid = Path(member.name).stem
        if not member.name.endswith(".tar") or wnid not in classes:
            raise DataError(f"{archive}: {member.name} is not the tar of one of the 1000 classes")
        for start, image in _members(archive, offset, member.size):
            place = _Stored(archive, start, image.size, wnid)
            yield Item(Path(image.name).name, image.size, place)


def _index_validation(source: Path) -> Iterator[Item]:
    archive = source / VALIDATION_TAR
    labels = _validation_wnids(source)
    for offset, member in _members(archive):
        name = Path(member.name).name
        match = _VALIDATION_NAME.fullmatch(name)
        if not match:
            raise DataError(f"{archive}: {member.name} is not named ILSVRC2012_val_NNNNNNNN.JPEG")
        number = int(match[1])
        if not 1 <= number <= len(labels):
            raise DataError(f"{archive}: {name} has no class; {len(labels)} images have one")
        place = _Stored(archive, offset, member.size, labels[number - 1])
        yield Item(name, member.size, place)


class _Window(io.RawIOBase):
    """A part of a file as a file, for tars within a tar."""

    def __init__(self, file: Any, start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._start + self._position)
        read = self._file.read(wanted)
        buffer[: len(read)] = read
        self._position += len(read)
        return len(read)


def _members(
    archive: Path, start: int = 0, size: int | None = None
) -> Iterator[tuple[int, tarfile.TarInfo]]:
    """Yields (offset of the data in the file, header) of the files in a tar within a file."""
    end = archive.stat().st_size if size is None else start + size
    last = start
    # Headers are 512 bytes with an image's length between them: read no more than that.
    with archive.open("rb", buffering=0) as file:
        try:
            with tarfile.open(fileobj=_Window(file, start, end - start), mode="r:") as tar:
                for member in tar:
                    offset = start + member.offset_data
                    last = offset + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    if last > end:
                        raise _cut_short(archive)
                    if member.isfile():
                        yield offset, member
        except tarfile.TarError as error:
            raise DataError(f"{archive} is not a tar, cut short or damaged: {error}") from error
        # tarfile takes the end of a file for the end of the archive, wherever it was cut.
        file.seek(last)
        mark = file.read(min(_END_MARK, end - last))
    if len(mark) < _END_MARK or any(mark):
        raise _cut_short(archive)


def _cut_short(archive: Path) -> DataError:
    return DataError(f"{archive} was cut short; download or copy it again")


def _validation_wnids(source: Path) -> list[str]:
    """Returns the WordNet id of each validation image, in the order of their numbers."""
    if (source / VALIDATION_WNIDS).is_file():
        origin = source / VALIDATION_WNIDS
        wnids = read_text(origin).split()
    elif (source / DEVKIT_TAR).is_file():
        origin = source / DEVKIT_TAR
        wnids = _devkit_wnids(origin)
    else:
        raise DataError(
            f"{source} has {VALIDATION_TAR} but not the classes of its images: add {DEVKIT_TAR} "
            f"from image-net.org, or {VALIDATION_WNIDS} with a WordNet id a line"
        )
    unknown = set(wnids) - set(imagenet_classes())
    if unknown:
        raise DataError(f"{origin}: {sorted(unknown)[0]!r} is not one of the 1000 classes")
    return wnids


def _devkit_wnids(devkit: Path) -> list[str]:
    from scipy.io import loadmat

    try:
        with tarfile.open(devkit) as tar:
            files = {Path(m.name).name: m for m in tar if m.isfile()}
            truth = _read_member(tar, files["ILSVRC2012_validation_ground_truth.txt"])
            table = _read_member(tar, files["meta.mat"])
        synsets = loadmat(io.BytesIO(table), squeeze_me=True)["synsets"]
        numbers = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        return [numbers[int(line)] for line in truth.split()]
    except Exception as error:  # SciPy's reader raises whatever its parsing trips over
        raise DataError(
            f"{devkit} is damaged or not the development kit: {shortened(error)}"
        ) from error


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # it is a file: _devkit_wnids asked
    return file.read()
