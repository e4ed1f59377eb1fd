"""Tensors and arrays in a pickle of PyTorch's: what they are told by, read when they are asked for.

Elements lie in records beside the pickle, or in it as NumPy has them. What is held here are shapes,
types and places, checked; a pickle may give anything instead.
"""

import math
import re
from typing import Any, Final, NoReturn, Protocol

import numpy as np

from mobilevit_jax.convert.stand_ins import RefusedError, Sealed
from mobilevit_jax.errors import DataError, shortened

# Types of NumPy's, as it pickles them.
_NUMBERS: Final = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")
# A tensor that was expanded (strides of 0) may have more elements than its storage, up to these.
_EXPANDED_ELEMENTS: Final = 2**24


class Record(Protocol):
    """The bytes of one storage."""

    def read(self, dtype: np.dtype) -> np.ndarray:
        """Returns the bytes, uint8 [n], of elements of a type in the order of this machine."""
        ...


class Text(Sealed):
    """Bytes as text, which is how PyTorch's protocol has them; they are made when wanted."""

    __slots__ = ("_text",)

    def __init__(self, text: Any = None, *_: Any):
        self._text = text

    def read(self) -> bytes:
        """Returns the bytes; raises ValueError or TypeError if they were something else."""
        return self._text.encode("latin1") if isinstance(self._text, str) else self._text


class ArrayType(Sealed):
    """Stands for a type of NumPy's; `dtype` is None unless it is one of plain numbers."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any = None, *_: Any):
        plain = type(code) is str and _NUMBERS.fullmatch(code)
        self.dtype: np.dtype | None = np.dtype(code) if plain else None

    def __setstate__(self, state: Any) -> None:
        if self.dtype and type(state) is tuple and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Storage(Sealed):
    """A record seen as elements of one type; `dtype` is None where the tensor says it."""

    __slots__ = ("dtype", "record")

    def __init__(self, record: Record, dtype: np.dtype | None):
        self.record, self.dtype = record, dtype


class DType(Sealed):
    """Stands for a `torch.dtype`, or for a class of storages of that type."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype | None):
        self.dtype = dtype


class Tensor(Sealed):
    """A tensor of a file, whose elements are read when they are asked for.

    Attributes:
        shape: Its shape.
        dtype: NumPy's counterpart of its type.
    """

    __slots__ = ("_offset", "_storage", "_strides", "dtype", "shape")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None):
        if not isinstance(storage, Storage):
            raise RefusedError("a tensor lies in something that is no storage")
        if isinstance(dtype, DType):
            dtype = dtype.dtype
        self.dtype: np.dtype = dtype or storage.dtype or _no_dtype()
        self.shape, self._strides = _sizes(shape), _sizes(strides)
        (self._offset,) = _sizes((offset,))
        if len(self.shape) != len(self._strides):
            raise RefusedError("a tensor has another number of strides than of dimensions")
        self._storage = storage

    def numpy(self) -> np.ndarray:
        """Returns the elements, as a read-only view of their storage where they lie in one.

        Raises:
            DataError: If the storage is missing or damaged, there are not as many elements as the
                shape says, or no array has such a shape.
        """
        try:  # an empty array of NumPy's has a stand-in for its data
            return self._read() if self.size else np.empty(self.shape, self.dtype)
        except DataError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"its elements cannot be read ({shortened(error)})") from error

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    def _read(self) -> np.ndarray:
        data, size = self._storage.record.read(self.dtype), self.dtype.itemsize
        last = sum((n - 1) * s for n, s in zip(self.shape, self._strides, strict=True))
        if (self._offset + last + 1) * size > data.size:
            raise DataError("it reaches beyond its storage")
        strides = [s * size for s in self._strides]
        array = np.ndarray(self.shape, self.dtype, data, self._offset * size, strides)
        if array.size > max(data.size // size, _EXPANDED_ELEMENTS):
            raise DataError(f"its shape {self.shape} is far larger than its storage")
        return array


class Array(Tensor):
    """An array of NumPy's, whose elements stand in the pickle; no tensor until they are known."""

    __slots__ = ("_axes", "_data", "_kind", "_stored_shape")

    def __init__(self, *_: Any):
        self.shape, self.dtype = (), np.dtype(object)

    def __setstate__(self, state: Any) -> None:
        match state:
            case (int(), shape, kind, fortran, data):
                self.fill(shape, kind, data, "F" if fortran is True else "C")

    def fill(self, shape: Any, kind: Any, data: Any, order: Any, axes: Any = None) -> None:
        """Takes bytes of plain numbers, which lie in an order of NumPy's; "K" is that of `axes`."""
        if not (isinstance(kind, ArrayType) and kind.dtype):
            return
        shape = _sizes(shape)
        if order == "K":
            axes = _sizes(axes)
        elif order in ("C", "F") and axes is None:
            axes = tuple(range(len(shape)))
        else:
            raise RefusedError("an array lies in an order that is none")
        if order == "F":  # the rows of what lies turned round
            shape, axes = shape[::-1], axes[::-1]
        if sorted(axes) != list(range(len(shape))):
            raise RefusedError("an array has axes that are none")
        self._stored_shape, self._axes, self._kind, self._data = shape, axes, kind.dtype, data
        self.shape = tuple(shape[axis] for axis in axes)
        self.dtype = kind.dtype.newbyteorder("=")

    @property
    def nbytes(self) -> int:
        """The number of bytes of its elements; 0 until they are known."""
        return 0 if self.dtype == object else self.size * self.dtype.itemsize

    def _read(self) -> np.ndarray:
        data = self._data.read() if isinstance(self._data, Text) else self._data
        if self.nbytes != len(data):
            raise DataError(f"its shape {self.shape} is not that of its {len(data)} bytes")
        array = np.ndarray(self._stored_shape, self._kind, data).transpose(self._axes)
        return array.astype(self.dtype, copy=False)


def _no_dtype() -> NoReturn:
    raise RefusedError("a tensor has no type")


def _sizes(values: Any) -> tuple[int, ...]:
    """Returns sizes, strides or an offset, once it is sure that they are none but whole numbers."""
    if not isinstance(values, tuple | list) or len(values) > 64:
        raise RefusedError("a tensor has a shape that is none")
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise RefusedError("a tensor has a size or stride that is none")
    return tuple(values)


def array_of_buffer(data: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    """Returns an array as protocol 5 has it."""
    array = Array()
    array.fill(shape, kind, data, order, axes)
    return array
