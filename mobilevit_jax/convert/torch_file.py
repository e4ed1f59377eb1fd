"""PyTorch's files, read without PyTorch and without running anything that is in them.

`torch.save` writes a zip archive (since PyTorch 1.6): `data.pkl`, a pickle that describes tensors,
and one record of plain bytes for every storage that they lie in. A pickle may name any function and
have it called while it is read. The reader here looks names up in a table of its own, which holds
stand-ins for what rebuilds a tensor and nothing else, so that no function of any other module can
be reached, whatever the pickle asks for. This is what `torch.load(weights_only=True)` does, too.
"""

import contextlib
import io
import pickle
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import ml_dtypes
import numpy as np

from mobilevit_jax.errors import DataError

# Bytes of the number that files from before PyTorch 1.6 begin with, as it is pickled.
LEGACY_MAGIC: Final = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

_DTYPES: Final[dict[str, np.dtype]] = {
    **{
        name: np.dtype(name)
        for name in (
            *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
            *("float16", "float32", "float64", "complex64", "complex128"),
        )
    },
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in (
            *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
        )
    },
}
_STORAGES: Final = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}

# What zipfile raises for archives that are damaged, or of a kind that it does not read.
_ZIP_ERRORS: Final = (
    *(zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, KeyError, ValueError),
    # Of seeking to a place that a damaged directory names.
    OSError,
)


class _RefusedError(pickle.UnpicklingError):
    """The pickle asks for something that weights do not need; the message says for what."""


class _Sealed:
    """Base of what a pickle can get hold of: it may not change the state of any of it."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise _RefusedError(f"it sets the state of a {type(self).__name__.strip('_').lower()}")


class _Record(_Sealed):
    """The bytes of one storage, read when they are first wanted."""

    __slots__ = ("_archive", "_data", "_name", "_swapped")

    def __init__(self, archive: zipfile.ZipFile, name: str, swapped: bool):
        self._archive, self._name, self._swapped = archive, name, swapped
        self._data: np.ndarray | None = None

    def read(self, dtype: np.dtype) -> np.ndarray:
        """Returns the bytes, uint8 [n], of elements of a type in the order of this machine."""
        if self._data is None:
            try:
                self._data = np.frombuffer(self._archive.read(self._name), np.uint8)
            except KeyError:
                raise DataError(f"its storage {self._name!r} is not in the file") from None
            except _ZIP_ERRORS as error:
                raise DataError(f"its storage {self._name!r} is damaged ({error})") from error
        unit = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
        if not self._swapped or unit == 1:
            return self._data
        whole = self._data[: self._data.size // unit * unit]
        return whole.view(f"u{unit}").byteswap().view(np.uint8)


class _Storage(_Sealed):
    """A record seen as elements of one type; `dtype` is None where the tensor says it."""

    __slots__ = ("dtype", "record")

    def __init__(self, record: _Record, dtype: np.dtype | None):
        self.record, self.dtype = record, dtype


class _DType(_Sealed):
    """Stands for a `torch.dtype`, or for a class of storages of that type."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype | None):
        self.dtype = dtype


class _Allowed(_Sealed):
    """Stands for a function or class that a pickle may call."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


class _Dict(dict):
    """Stands for an OrderedDict; what a state dict keeps besides its entries is left out."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class Tensor(_Sealed):
    """A tensor of a file, whose elements are read when they are asked for.

    Attributes:
        shape: Its shape.
        dtype: NumPy's counterpart of its type.
    """

    __slots__ = ("_offset", "_storage", "_strides", "dtype", "shape")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None):
        if not isinstance(storage, _Storage):
            raise _RefusedError("a tensor lies in something that is no storage")
        if isinstance(dtype, _DType):
            dtype = dtype.dtype
        self.dtype: np.dtype = dtype or storage.dtype or _no_dtype()
        self.shape, self._strides = _sizes(shape), _sizes(strides)
        (self._offset,) = _sizes((offset,))
        if len(self.shape) != len(self._strides):
            raise _RefusedError("a tensor has another number of strides than of dimensions")
        self._storage = storage

    def numpy(self) -> np.ndarray:
        """Returns the elements as a read-only view of their storage.

        Raises:
            DataError: If the storage is missing, damaged, or too short for the tensor.
        """
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        data, size = self._storage.record.read(self.dtype), self.dtype.itemsize
        last = sum((n - 1) * s for n, s in zip(self.shape, self._strides, strict=True))
        if (self._offset + last + 1) * size > data.size:
            raise DataError("it reaches beyond its storage")
        strides = [s * size for s in self._strides]
        try:
            return np.ndarray(self.shape, self.dtype, data, self._offset * size, strides)
        except (ValueError, OverflowError) as error:
            raise DataError(f"it has an impossible shape ({error})") from error


def _no_dtype() -> NoReturn:
    raise _RefusedError("a tensor has no type")


def _sizes(values: Any) -> tuple[int, ...]:
    """Returns sizes, strides or an offset, once it is sure that they are none but whole numbers."""
    if not isinstance(values, tuple | list) or len(values) > 64:
        raise _RefusedError("a tensor has a shape that is none")
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise _RefusedError("a tensor has a size or stride that is none")
    return tuple(values)


def _rebuild_tensor(storage, offset, shape, strides, grad=None, hooks=None, metadata=None):
    if metadata:
        raise _RefusedError("a tensor is conjugated or negated lazily")
    return Tensor(storage, offset, shape, strides)


def _rebuild_tensor_of_type(storage, offset, shape, strides, grad, hooks, dtype, metadata=None):
    if metadata:
        raise _RefusedError("a tensor is conjugated or negated lazily")
    return Tensor(storage, offset, shape, strides, dtype)


def _rebuild_parameter(data: Any, *unused: Any) -> Any:
    return data


def _table() -> Mapping[tuple[str, str], object]:
    """Returns all that a pickle may name: {(module, name): stand-in}."""
    table: dict[tuple[str, str], object] = {
        ("collections", "OrderedDict"): _Allowed(_Dict),
        # Of the state of a learning rate schedule, in the checkpoints of a training.
        ("collections", "Counter"): _Allowed(_Dict),
        ("torch", "Size"): _Allowed(tuple),
        ("torch", "device"): _Allowed(lambda *_: None),
        ("torch._utils", "_rebuild_tensor"): _Allowed(_rebuild_tensor),
        ("torch._utils", "_rebuild_tensor_v2"): _Allowed(_rebuild_tensor),
        ("torch._utils", "_rebuild_tensor_v3"): _Allowed(_rebuild_tensor_of_type),
        ("torch._utils", "_rebuild_parameter"): _Allowed(_rebuild_parameter),
        ("torch._utils", "_rebuild_parameter_with_state"): _Allowed(_rebuild_parameter),
        ("torch", "UntypedStorage"): _DType(None),
        ("torch.storage", "UntypedStorage"): _DType(None),
    }
    for name, dtype in _DTYPES.items():
        table["torch", name] = _DType(dtype)
    for name, dtype in _STORAGES.items():
        table["torch", name] = _DType(_DTYPES[dtype])
    # The same pickles are read by Python 2 and 3, which name this module differently.
    for module in ("builtins", "__builtin__"):
        table[module, "set"] = _Allowed(frozenset)
        table[module, "complex"] = _Allowed(complex)
    return table


_TABLE: Final = _table()


class _Unpickler(pickle.Unpickler):
    """Reads `data.pkl`, with the table above in the place of Python's modules."""

    def __init__(self, data: bytes, record: Callable[[str], _Record]):
        super().__init__(io.BytesIO(data))
        self._record = record
        self._records: dict[str, _Record] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _TABLE:
            raise _RefusedError(f"it asks for {f'{module}.{name}'[:80]!r}")
        return _TABLE[module, name]

    def persistent_load(self, pid: Any, /) -> _Storage:
        match pid:
            case ("storage", _DType() as kind, str(key), _, int()):
                if key not in self._records:
                    self._records[key] = self._record(key)
                return _Storage(self._records[key], kind.dtype)
        raise _RefusedError("it refers to something that is no storage")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Opens a file that `torch.save` wrote.

    Args:
        path: A zip archive.

    Yields:
        What was saved, with `Tensor` for every tensor and parameter. Those can be read while the
        file is open.

    Raises:
        DataError: If the file is cut short, damaged, no file of PyTorch's, or holds anything but
            tensors in dictionaries, lists and tuples with numbers and strings.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise DataError(
            f"{path} is cut short or damaged ({error}); download or copy it again"
        ) from error
    with archive:
        yield _unpickle(archive, path)


def _unpickle(archive: zipfile.ZipFile, path: Path) -> Any:
    folder = _folder(archive, path)
    names = archive.namelist()
    try:
        data = archive.read(f"{folder}/data.pkl")
        order = sys.byteorder
        if f"{folder}/byteorder" in names:
            order = archive.read(f"{folder}/byteorder").decode("ascii")
    except _ZIP_ERRORS as error:
        raise DataError(f"{path} is damaged ({error}); download or copy it again") from error

    def record(key: str) -> _Record:
        return _Record(archive, f"{folder}/data/{key}", order != sys.byteorder)

    try:
        return _Unpickler(data, record).load()
    except _RefusedError as error:
        raise DataError(
            f"{path} holds more than tensors: {error}, and none of it was run; save the state dict "
            "alone where the file comes from: torch.save(model.state_dict(), ...)"
        ) from error
    # A damaged pickle can raise anything.
    except Exception as error:
        raise DataError(
            f"{path} is damaged: its data.pkl cannot be read ({' '.join(str(error).split())}); "
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
    return contents
