"""The pickle inside a PyTorch file, read without reaching any function that it names.

A pickle may name any function and have it called while it is read. Names are looked up here in a
table that holds stand-ins for what rebuilds a tensor; for whatever else there are those of
`stand_ins`, which do nothing. What a pickle can get hold of cannot be changed by it, and neither
time nor memory can be spent without bound.
"""

import functools
import io
import pickle
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import ml_dtypes
import numpy as np

from mobilevit_jax.convert.stand_ins import Named, RefusedError, Sealed, Thing, attribute, named
from mobilevit_jax.convert.torch_tensors import (
    Array,
    ArrayType,
    DType,
    Record,
    Storage,
    Tensor,
    Text,
    array_of_buffer,
)

_KEY_TYPES: Final = (str, bytes, int, float, bool)

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

# Each opcode may make an object of two hundred bytes; those of checkpoints are some ten thousand.
_OPCODES: Final = 2**19
# What calls are given in all: each may copy it, and a few bytes give the same again and again.
_GIVEN_ELEMENTS: Final = 2**20


class _Allowed(Sealed):
    """Stands for a function or class that a pickle may call."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


def _check_keys(keys: Iterable[Any]) -> None:
    """Makes sure that keys of a dictionary, or what is in a set, are simple.

    Tuples of tuples of the same tuples, some dozens deep, would take years to hash. Stand-ins are
    told apart by what they are, not by what they hold.
    """
    for key in keys:
        parts = key if type(key) is tuple and len(key) <= 64 else (key,)
        if not all(
            part is None or type(part) in _KEY_TYPES or isinstance(part, Sealed | Thing)
            for part in parts
        ):
            raise RefusedError(f"a {type(key).__name__} is the key of a dictionary or in a set")


class _Dict(dict):
    """Stands for an OrderedDict; what a state dict keeps besides its entries is left out."""

    __slots__ = ()

    def __init__(self, entries: Any = ()):
        pairs = [tuple(pair) for pair in getattr(entries, "items", lambda: entries)()]
        _check_keys(key for key, _ in pairs)
        super().__init__(pairs)

    def __setstate__(self, state: object) -> None:
        pass


def _rebuild_tensor(storage, offset, shape, strides, grad=None, hooks=None, metadata=None):
    if metadata:
        raise RefusedError("a tensor is conjugated or negated lazily")
    return Tensor(storage, offset, shape, strides)


def _rebuild_tensor_of_type(storage, offset, shape, strides, grad, hooks, dtype, metadata=None):
    if metadata:
        raise RefusedError("a tensor is conjugated or negated lazily")
    return Tensor(storage, offset, shape, strides, dtype)


def _rebuild_parameter(data: Any, *unused: Any) -> Any:
    return data


def _rebuild_of_type(rebuild: Any, kind: Any, args: Any, state: Any = None) -> Any:
    """Returns a tensor of a class of its own as a plain one."""
    return rebuild(*args)


def _set(items: Any = ()) -> frozenset[Any]:
    items = list(items)
    _check_keys(items)
    return frozenset(items)


def _table() -> Mapping[tuple[str, str], object]:
    """Returns all that a pickle may name: {(module, name): stand-in}."""
    table: dict[tuple[str, str], object] = {
        ("collections", "OrderedDict"): _Allowed(_Dict),
        # Of the state of a learning rate schedule, in the checkpoints of a training.
        ("collections", "Counter"): _Allowed(_Dict),
        ("collections", "defaultdict"): _Allowed(lambda *_: _Dict()),
        ("_codecs", "encode"): _Allowed(Text),
        ("numpy", "dtype"): _Allowed(ArrayType),
        ("torch", "Size"): _Allowed(tuple),
        ("torch", "device"): _Allowed(lambda *_: None),
        ("torch.serialization", "_get_layout"): _Allowed(lambda *_: None),
        ("torch._utils", "_rebuild_tensor"): _Allowed(_rebuild_tensor),
        ("torch._utils", "_rebuild_tensor_v2"): _Allowed(_rebuild_tensor),
        ("torch._utils", "_rebuild_tensor_v3"): _Allowed(_rebuild_tensor_of_type),
        ("torch._utils", "_rebuild_parameter"): _Allowed(_rebuild_parameter),
        ("torch._utils", "_rebuild_parameter_with_state"): _Allowed(_rebuild_parameter),
        ("torch._tensor", "_rebuild_from_type_v2"): _Allowed(_rebuild_of_type),
        ("torch", "UntypedStorage"): DType(None),
        ("torch.storage", "UntypedStorage"): DType(None),
    }
    for name, dtype in _DTYPES.items():
        table["torch", name] = DType(dtype)
    for name, dtype in _STORAGES.items():
        table["torch", name] = DType(_DTYPES[dtype])
    for core in ("numpy.core", "numpy._core"):  # before NumPy 2 and since
        table[f"{core}.multiarray", "_reconstruct"] = _Allowed(Array)
        table[f"{core}.numeric", "_frombuffer"] = _Allowed(array_of_buffer)
    # The same pickles are read by Python 2 and 3, which name this module differently.
    for module in ("builtins", "__builtin__"):
        table[module, "set"] = _Allowed(_set)
        table[module, "complex"] = _Allowed(complex)
        table[module, "getattr"] = _Allowed(attribute)
    return table


_TABLE: Final = _table()


_COPIED: Final = (tuple, list, dict, set, frozenset)
_CALLING: Final = (pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX)
_HASHING: Final = (
    *(pickle.SETITEM, pickle.SETITEMS, pickle.DICT),
    *(pickle.ADDITEMS, pickle.FROZENSET),
)


def _look_first(unpickler: Any, opcode: int) -> None:
    """Runs an opcode that hashes what is on the stack, after a look at it."""
    stack = unpickler.stack
    if opcode == pickle.SETITEM[0]:
        _check_keys(stack[-2:-1])
    elif opcode in (pickle.ADDITEMS[0], pickle.FROZENSET[0]):
        _check_keys(stack)  # what stands above the mark
    else:
        _check_keys(stack[::2])
    pickle._Unpickler.dispatch[opcode](unpickler)


def _call(unpickler: Any, opcode: int) -> None:
    """Runs an opcode that calls what is on the stack; making an object of a class is a call too."""
    stack = unpickler.stack
    options = stack.pop() if opcode == pickle.NEWOBJ_EX[0] else None
    args = stack.pop()
    if options and not isinstance(stack[-1], Named):
        raise RefusedError("it makes an object with arguments by name")
    if type(args) is not tuple:
        raise RefusedError("it calls something with what are no arguments")
    unpickler.given += sum(len(part) for part in (args, *args) if isinstance(part, _COPIED))
    if unpickler.given > _GIVEN_ELEMENTS:
        raise RefusedError("it copies what it holds over and over")
    stack[-1] = stack[-1](*args)
    _count_array(unpickler)


def _set_state(unpickler: Any) -> None:
    """Runs the opcode by which older arrays get their elements."""
    unpickler.load_build()
    _count_array(unpickler)


def _count_array(unpickler: Any) -> None:
    """Makes sure that arrays do not share bytes, as reading each may copy them."""
    array = unpickler.stack[-1]
    unpickler.in_arrays += array.nbytes if isinstance(array, Array) else 0
    if unpickler.in_arrays > unpickler.size:
        raise RefusedError("its arrays have more bytes than are in it")


def _read_bytes(unpickler: Any) -> None:
    """Reads a bytearray, for which Python sets aside as much memory as the opcode asks for."""
    (size,) = struct.unpack("<Q", unpickler.read(8))
    unpickler.append(unpickler.read(min(size, sys.maxsize)))


class _Counted(dict):
    """What to do for each opcode; refuses a pickle of too many."""

    left = _OPCODES

    def __getitem__(self, opcode: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RefusedError(f"it takes more than {_OPCODES:,} steps to read")
        return super().__getitem__(opcode)


class Unpickler(pickle._Unpickler):
    """Reads `data.pkl`, with the table above in the place of Python's modules.

    The one that is written in Python: that in C sets aside as much memory for its memo as an
    opcode asks for, up to 64 GiB, and lets nobody look at the keys of dictionaries.
    """

    dispatch = {
        **pickle._Unpickler.dispatch,
        **{opcode[0]: functools.partial(_look_first, opcode=opcode[0]) for opcode in _HASHING},
        **{opcode[0]: functools.partial(_call, opcode=opcode[0]) for opcode in _CALLING},
        pickle.BUILD[0]: _set_state,
        pickle.BYTEARRAY8[0]: _read_bytes,
    }

    def __init__(self, data: bytes, record: Callable[[str], Record]):
        super().__init__(io.BytesIO(data))
        # Of this instance alone, as the count is.
        self.dispatch = _Counted(  # pyright: ignore[reportAttributeAccessIssue]
            type(self).dispatch
        )
        self._record = record
        self._records: dict[str, Record] = {}
        self.given, self.in_arrays, self.size = 0, 0, len(data)

    def find_class(self, module: str, name: str, /) -> Any:
        """Returns the stand-in for a name; there is no other way to get hold of anything."""
        found = _TABLE.get((module, name))
        return named(module, name) if found is None else found

    def persistent_load(self, pid: Any, /) -> Storage:
        """Returns a storage, which pickles of PyTorch refer to as ("storage", type, key, ...)."""
        match pid:
            case ("storage", DType() as kind, str(key), _, int()):
                if key not in self._records:
                    self._records[key] = self._record(key)
                return Storage(self._records[key], kind.dtype)
        raise RefusedError("it refers to something that is no storage")
