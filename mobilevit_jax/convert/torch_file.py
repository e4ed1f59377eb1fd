"""PyTorch's files, read without PyTorch and without running anything that is in them.

`torch.save` writes a zip archive (since PyTorch 1.6): `data.pkl`, a pickle that describes tensors,
and one record of plain bytes for every storage that they lie in. A pickle may name any function and
have it called while it is read. The reader here looks names up in a table of its own, which holds
stand-ins for what rebuilds a tensor; whatever else a checkpoint names gets one that does nothing,
so that no function of any other module can be reached (`torch_pickle`, `torch_tensors`,
`stand_ins`).
"""

import contextlib
import lzma
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from mobilevit_jax.convert.stand_ins import RefusedError, Sealed, Thing
from mobilevit_jax.convert.torch_pickle import Unpickler
from mobilevit_jax.convert.torch_tensors import Tensor
from mobilevit_jax.errors import DataError, shortened

__all__ = ["LEGACY_MAGIC", "Tensor", "opened", "read_legacy"]

# Bytes of the number that files from before PyTorch 1.6 begin with, as it is pickled.
LEGACY_MAGIC: Final = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

# A few kilobytes of a zip archive may stand for gigabytes: more than these are not unpacked.
# Pickles of checkpoints have some 100 kB, but for those that hold arrays of NumPy's.
_UNPACKED_BYTES: Final = 2**30
_PICKLE_BYTES: Final = 2**27

# What zipfile raises for archives that are damaged, or of a kind that it does not read.
_ZIP_ERRORS: Final = (
    *(zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, KeyError, ValueError),
    *(lzma.LZMAError, struct.error),
    # Of seeking to a place that a damaged directory names.
    *(OSError, OverflowError),
)


class _Record(Sealed):
    """The bytes of one storage, read when they are first wanted."""

    __slots__ = ("_archive", "_data", "_name", "_swapped", "_turned")

    def __init__(self, archive: zipfile.ZipFile, name: str, swapped: bool):
        self._archive, self._name, self._swapped = archive, name, swapped
        self._data: np.ndarray | None = None
        self._turned: dict[int, np.ndarray] = {}  # by the bytes of a number

    def read(self, dtype: np.dtype) -> np.ndarray:
        """Returns the bytes, uint8 [n], of elements of a type in the order of this machine."""
        if self._data is None:
            try:
                self._data = np.frombuffer(self._archive.read(self._name), np.uint8)
            except KeyError:
                raise DataError(f"its storage {self._name!r} is not in the file") from None
            except _ZIP_ERRORS as error:
                raise DataError(
                    f"its storage {self._name!r} is damaged ({shortened(error)})"
                ) from error
        unit = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
        if not self._swapped or unit == 1:
            return self._data
        if unit not in self._turned:  # once, as any number of tensors may share a storage
            whole = self._data[: self._data.size // unit * unit]
            self._turned[unit] = whole.view(f"u{unit}").byteswap().view(np.uint8)
        return self._turned[unit]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Opens a file that `torch.save` wrote.

    Args:
        path: A zip archive.

    Yields:
        What was saved, with `Tensor` for every tensor and parameter. Those can be read while the
        file is open.

    Raises:
        DataError: If the file is cut short, damaged, no file of PyTorch's, is an object of another
            class, or asks for something that no checkpoint needs.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise DataError(
            f"{path} is cut short or damaged ({shortened(error)}); download or copy it again"
        ) from error
    with archive:
        _check_sizes(archive, path)
        yield _unpickle(archive, path)


def _check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses an archive that would fill the memory; zipfile unpacks no more than it says."""
    total = sum(entry.file_size for entry in archive.infolist())
    if total > max(_UNPACKED_BYTES, path.stat().st_size):
        raise DataError(
            f"{path} would unpack to {total / 2**30:.1f} GiB, far more than its own size; pack it "
            "again without compression, as torch.save does"
        )
    for entry in archive.infolist():
        if entry.filename.endswith("/data.pkl") and entry.file_size > _PICKLE_BYTES:
            raise DataError(
                f"{path} holds more than tensors: {entry.file_size / 2**20:.0f} MiB of other "
                "objects; save the state dict alone: torch.save(model.state_dict(), ...)"
            )


def _unpickle(archive: zipfile.ZipFile, path: Path) -> Any:
    folder = _folder(archive, path)
    names = archive.namelist()
    try:
        data = archive.read(f"{folder}/data.pkl")
        order = sys.byteorder
        if f"{folder}/byteorder" in names:
            order = archive.read(f"{folder}/byteorder").decode("ascii")
    except _ZIP_ERRORS as error:
        raise DataError(
            f"{path} is damaged ({shortened(error)}); download or copy it again"
        ) from error

    def record(key: str) -> _Record:
        return _Record(archive, f"{folder}/data/{key}", order != sys.byteorder)

    try:
        contents = Unpickler(data, record).load()
        if isinstance(contents, Thing) and not contents:
            raise RefusedError(f"it is an object of {contents.name[:80]!r}")
        return contents
    except RefusedError as error:
        raise DataError(
            f"{path} holds more than tensors: {error}, and none of it was run; save the state dict "
            "alone where the file comes from: torch.save(model.state_dict(), ...)"
        ) from error
    # A damaged pickle can raise anything.
    except Exception as error:
        raise DataError(
            f"{path} is damaged: its data.pkl cannot be read ({shortened(error)}); "
            "download or copy it again"
        ) from error


def _folder(archive: zipfile.ZipFile, path: Path) -> str:
    """Returns the one folder of the archive, which `torch.save` names after the file."""
    names = archive.namelist()
    folders = [name.partition("/")[0] for name in names if name.split("/")[1:] == ["data.pkl"]]
    if len(folders) != 1:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise DataError(
            f"{path} is a zip archive, but not of PyTorch (it holds {shown or 'nothing'}); name a "
            "file that torch.save or safetensors wrote"
        )
    if f"{folders[0]}/constants.pkl" in names:
        raise DataError(
            f"{path} is a TorchScript program; save the tensors alone where PyTorch is installed: "
            "torch.save(torch.jit.load(path).state_dict(), ...)"
        )
    return folders[0]


def read_legacy(path: Path) -> Any:
    """Reads a file of the format from before PyTorch 1.6, through PyTorch itself.

    Args:
        path: A file that begins with `LEGACY_MAGIC`.

    Returns:
        What was saved, with NumPy arrays for the tensors in its dictionaries.

    Raises:
        DataError: If PyTorch is not installed, or refuses the file.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"{path} is in PyTorch's format from before version 1.6, which only PyTorch reads; "
            "install torch, or rewrite the file where it is installed: "
            "torch.save(torch.load(path, weights_only=True), path)"
        ) from error
    try:
        return _without_torch(torch.load(path, map_location="cpu", weights_only=True), torch)
    # PyTorch's reader raises many kinds of errors for files that are damaged or refused.
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise DataError(f"PyTorch refuses to read {path}: {reason[:300]}") from error


def _without_torch(contents: Any, torch: Any) -> Any:
    if isinstance(contents, torch.Tensor):
        tensor = contents.detach()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    if isinstance(contents, Mapping):
        return {key: _without_torch(value, torch) for key, value in contents.items()}
    if isinstance(contents, list | tuple):
        return [_without_torch(value, torch) for value in contents]
    return contents
