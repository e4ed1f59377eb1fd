"""Files of named tensors: what a file is goes by its contents, and writing is all or nothing.

safetensors through its library, PyTorch's zip files through `torch_file`; whatever else is given
in their place (a Git LFS pointer, a web page, half a download) is named in the error.
"""

import codecs
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import ml_dtypes
import numpy as np

from mobilevit_jax.base.atomic import replacing
from mobilevit_jax.convert import torch_file
from mobilevit_jax.convert.checkpoints import find_state_dict, is_tensor
from mobilevit_jax.convert.shards import SUFFIX as INDEX_SUFFIX
from mobilevit_jax.convert.shards import read_index
from mobilevit_jax.convert.tensors import listed
from mobilevit_jax.errors import ConfigurationError, DataError, shortened

SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".bin")
WEIGHT_FILES: Final = (
    *("model.safetensors", f"model.safetensors{INDEX_SUFFIX}"),
    *("pytorch_model.bin", f"pytorch_model.bin{INDEX_SUFFIX}"),
)
"""What the weights of a directory are called; the first that is there is taken."""

_AGAIN: Final = "download or copy it again"
_HEAD_BYTES: Final = 512
_SIGNATURES: Final = (
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it; name weights of PyTorch's"),
    (b"\x93NUMPY", "a single NumPy array; name a file of named tensors"),
)


def read_state_dict(path: str | Path, *, averaged: bool = True) -> dict[str, np.ndarray]:
    """Reads the named tensors of a weight file, without running anything that is in it.

    A checkpoint of a training is searched for its state dict, and what wrappers put before the
    names ("module.", "_orig_mod.", "net.") is taken away; see `checkpoints`.

    Args:
        path: A safetensors file or a file that `torch.save` wrote, whatever its name ends in; or
            the index of several, "....index.json".
        averaged: Whether the averaged weights (EMA) of a checkpoint that has both are taken; where
            it has raw weights alone, those are.

    Returns:
        {name: array} in the types and the layout of the file, bfloat16 as `ml_dtypes.bfloat16`.
        Arrays may be read-only.

    Raises:
        DataError: If the file is missing or empty, is not what it should be, is cut short or
            damaged, or holds something else than a state dict.
        OSError: If it cannot be read.
    """
    path = Path(path)
    if path.name.endswith(INDEX_SUFFIX):
        return find_state_dict(_read_shards(path), averaged, path)
    return _read(path, lambda contents: find_state_dict(contents, averaged, path))


def _read(path: Path, find: Callable[[Any], dict[str, Any]]) -> dict[str, np.ndarray]:
    """Reads what `find` returns of the contents of a file."""
    kind = _kind(path)
    if kind == "zip":
        with torch_file.opened(path) as contents:
            return {name: _array(tensor, name, path) for name, tensor in find(contents).items()}
    if kind == "legacy":
        return find(torch_file.read_legacy(path))
    if not (tensors := _read_safetensors(path)):
        raise DataError(f"{path} holds no tensor; name a file of weights")
    return find(tensors)


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    """Reads all files of an index, which must hold what it says."""
    if not index.is_file():
        raise DataError(f"there is no file {index}")
    tensors: dict[str, np.ndarray] = {}
    shards = read_index(index)
    for file, names in shards.items():
        path = index.with_name(file)
        if not path.is_file():
            raise DataError(
                f"{path} is missing, which holds {listed(names, 3)} as {index.name} says; {_AGAIN}"
            )
        there = _read(path, functools.partial(_plain, path=path))
        if lacking := [name for name in names if name not in there]:
            raise DataError(
                f"{path} does not hold {listed(lacking, 3)}, which {index.name} says it does; "
                f"{_AGAIN}"
            )
        elsewhere = {name for other in shards if other != file for name in shards[other]}
        tensors |= {name: there[name] for name in there if name not in elsewhere}
    return tensors


def _plain(contents: Any, path: Path) -> dict[str, Any]:
    """Returns the tensors of a part of a state dict, in which nothing is searched for."""
    if not isinstance(contents, Mapping) or not all(isinstance(name, str) for name in contents):
        raise DataError(f"{path} holds no part of a state dict, {{name: tensor}}")
    return {name: value for name, value in contents.items() if is_tensor(value)}


def write_state_dict(path: str | Path, state_dict: Mapping[str, Any]) -> None:
    """Writes named tensors; an older file stays as it is until the new one is whole.

    Args:
        path: File to write, in the format that its name ends in: .safetensors, or .pt, .pth or
            .bin for `torch.save`, which needs PyTorch. Its directory is made if need be.
        state_dict: {name: array}.

    Raises:
        ConfigurationError: If the name ends otherwise, or PyTorch is needed and not installed.
        OSError: If the file cannot be written; nothing is left of it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigurationError(
            f"{path} ends in none of {', '.join(SUFFIXES)}; the name says which format is written"
        )
    torch = None if suffix == ".safetensors" else _import_torch(path)
    # safetensors writes the memory of an array as it lies. (ascontiguousarray makes 0-d into 1-d.)
    arrays = {name: np.asarray(value, order="C") for name, value in state_dict.items()}
    with replacing(path) as unfinished:
        if torch is None:
            from safetensors.numpy import save

            # Its own save_file makes files that none but their owner may read.
            unfinished.write_bytes(save(arrays, metadata={"format": "pt"}))
        else:
            with unfinished.open("wb") as file:
                torch.save({name: _tensor(array, torch) for name, array in arrays.items()}, file)


def _kind(path: Path) -> str:
    """Returns "safetensors", "zip" or "legacy", from the first bytes of a file."""
    if path.is_dir():
        raise DataError(f"{path} is a directory; name the file of weights in it")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80") and torch_file.LEGACY_MAGIC in head[:32]:
        return "legacy"
    # A safetensors file begins with the length of a header, which is JSON.
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    _refuse(path, head)


def _refuse(path: Path, head: bytes) -> NoReturn:
    """Says what a file is that holds no weights."""
    if not head:
        raise DataError(f"{path} is empty; {_AGAIN}")
    if len(head) < 9:
        raise DataError(f"{path} is cut short to {len(head)} bytes; {_AGAIN}")
    head = head.removeprefix(codecs.BOM_UTF8)
    if head.startswith(b"version https://git-lfs"):
        raise DataError(
            f"{path} is a Git LFS pointer, not the weights; run git lfs pull where it was cloned"
        )
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            raise DataError(f"{path} is {what}")
    if head[257:262] == b"ustar":
        raise DataError(f"{path} is a tar archive; unpack it and name the weights in it")
    if head.startswith(b"\x80"):
        raise DataError(
            f"{path} is a pickle that torch.save did not write; pickles can run code, so it is not "
            "read: save its tensors with torch.save or safetensors"
        )
    # Comments may stand before the doctype.
    markup = head.lstrip().lower()
    if markup.startswith(b"<?xml") or (markup.startswith(b"<") and b"html" in markup):
        raise DataError(
            f"{path} is a web page, not weights; download the file itself (on the Hugging Face "
            "hub, /resolve/ instead of /blob/ in the address)"
        )
    text = head[:60].decode("utf-8", "replace")
    if text.replace("\n", " ").isprintable() and "\ufffd" not in text:
        begin = " ".join(text.split())
        raise DataError(f"{path} is a text file that begins with {begin!r}; {_AGAIN}")
    raise DataError(
        f"{path} is neither a safetensors nor a PyTorch file (it begins with the bytes "
        f"{head[:8].hex(' ')}); name a file of weights"
    )


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is cut short or damaged ({shortened(error)}); {_AGAIN}") from error
    # NumPy has no counterpart of some types, such as those of 8 bits.
    except (AttributeError, TypeError) as error:
        raise DataError(
            f"{path} holds a type that NumPy does not know ({shortened(error)}); save it in float32"
        ) from error


def _array(tensor: Any, name: str, path: Path) -> np.ndarray:
    try:
        return tensor.numpy()
    except DataError as error:
        raise DataError(
            f"{path} is damaged: tensor {shortened(name)!r}: {error}; {_AGAIN}"
        ) from error


def _import_torch(path: Path) -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigurationError(
            f"PyTorch is not installed, and {path.name} is written by it; install torch or write "
            f"{path.with_suffix('.safetensors').name}, which PyTorch programs read, too"
        ) from error
    return torch


def _tensor(array: np.ndarray, torch: Any) -> Any:
    # PyTorch warns of arrays that may not be written.
    array = array if array.flags.writeable else array.copy()
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
