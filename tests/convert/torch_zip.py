"""Writes files as `torch.save` does, opcode by opcode and without PyTorch; reads them whole."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mobilevit_jax.convert import torch_file

STORAGES = {
    "bool": "BoolStorage",
    "uint8": "ByteStorage",
    "int8": "CharStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}


class Raw(NamedTuple):
    """Opcodes that leave one value on the pickle machine's stack."""

    opcodes: bytes


def glob(module: str, name: str) -> Raw:
    return Raw(b"c%b\n%b\n" % (module.encode(), name.encode()))


def call(function: Raw, *arguments: Any) -> Raw:
    return Raw(function.opcodes + value(tuple(arguments)) + b"R")


def storage(key: str, kind: str = "FloatStorage", count: int = 0) -> Raw:
    return Raw(value(("storage", glob("torch", kind), key, "cpu", count)) + b"Q")


def tensor(where: Raw, offset: Any, shape: Any, strides: Any) -> Raw:
    rebuild = glob("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, where, offset, shape, strides, False, ordered_dict({}))


def ordered_dict(entries: Mapping[Any, Any]) -> Raw:
    items = b"".join(value(key) + value(entry) for key, entry in entries.items())
    return Raw(call(glob("collections", "OrderedDict")).opcodes + b"(" + items + b"u")


def value(item: Any) -> bytes:
    match item:
        case Raw():
            return item.opcodes
        case None:
            return b"N"
        case bool():
            return b"\x88" if item else b"\x89"
        case int():
            return b"I%d\n" % item
        case float():
            return b"G" + struct.pack(">d", item)
        case str():
            data = item.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case tuple():
            return b"(" + b"".join(map(value, item)) + b"t"
        case list():
            return b"]" + b"(" + b"".join(map(value, item)) + b"e"
        case dict():
            items = b"".join(value(key) + value(entry) for key, entry in item.items())
            return b"}" + b"(" + items + b"u"
    raise TypeError(type(item))


def write_zip(
    path: Path,
    contents: Any,
    records: Mapping[str, bytes],
    *,
    byteorder: str | None = "little",
    folder: str = "archive",
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Writes the archive: what was saved, and the bytes of its storages by their key."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", b"\x80\x02" + value(contents) + b".")
        if byteorder is not None:
            archive.writestr(f"{folder}/byteorder", byteorder)
        for key, data in records.items():
            archive.writestr(f"{folder}/data/{key}", data)
        archive.writestr(f"{folder}/version", b"3\n")
        for name, data in (extra or {}).items():
            archive.writestr(f"{folder}/{name}", data)


def write_torch(path: Path, contents: Any) -> None:
    """Writes nested dictionaries and lists with NumPy arrays, which become tensors."""
    records: dict[str, bytes] = {}
    write_zip(path, _with_tensors(contents, records), records)


def _with_tensors(item: Any, records: dict[str, bytes]) -> Any:
    if isinstance(item, np.ndarray):
        key = str(len(records))
        records[key] = item.tobytes()
        strides = tuple(int(np.prod(item.shape[i + 1 :])) for i in range(item.ndim))
        where = storage(key, STORAGES[item.dtype.name], item.size)
        return tensor(where, 0, item.shape, strides)
    if isinstance(item, Mapping):
        return {key: _with_tensors(entry, records) for key, entry in item.items()}
    if isinstance(item, list):
        return [_with_tensors(entry, records) for entry in item]
    return item


def read_arrays(path: Path) -> Any:
    """Reads a file whole: every tensor in its dictionaries becomes an array."""

    def arrays(item):
        if isinstance(item, torch_file.Tensor):
            return item.numpy()
        if isinstance(item, dict):
            return {key: arrays(entry) for key, entry in item.items()}
        return item

    with torch_file.opened(path) as contents:
        return arrays(contents)
