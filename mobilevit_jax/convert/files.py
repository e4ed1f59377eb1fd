"""Files of named tensors: what a file is goes by its contents, and writing is all or nothing.

safetensors through its library, PyTorch's zip files through `torch_file`; whatever else is given
in their place (a Git LFS pointer, a web page, half a download) is named in the error.
"""

import codecs
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import ml_dtypes
import numpy as np

from mobilevit_jax.base.atomic import replacing
from mobilevit_jax.convert import torch_file
from mobilevit_jax.errors import ConfigurationError, DataError, shortened

SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".bin")

# Where checkpoints keep their state dict: CVNets; timm and Lightning; torchvision's scripts.
_AVERAGED: Final = ("ema_state_dict", "state_dict_ema", "model_ema")
_RAW: Final = ("model_state_dict", "state_dict", "model")
# What torch.nn.DataParallel, torch.compile and Lightning put before every name.
_PREFIXES: Final = ("module.", "_orig_mod.", "model.")
# torch.optim.swa_utils.AveragedModel counts its updates in a tensor beside the "module." ones.
_AVERAGE_COUNTER: Final = "n_averaged"

_AGAIN: Final = "download or copy it again"
_HEAD_BYTES: Final = 512
_SIGNATURES: Final = (
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it; name weights of PyTorch's"),
    (b"\x93NUMPY", "a single NumPy array; name a file of named tensors"),
)


def read_state_dict(path: str | Path, *, averaged: bool = True) -> dict[str, np.ndarray]:
    """Reads the named tensors of a weight file, without running anything that is in it.

    A checkpoint of a training is searched for its state dict, and what wrappers put before every
    name ("module.", "_orig_mod.", "model.") is taken away.

    Args:
        path: A safetensors file or a file that `torch.save` wrote, whatever its name ends in.
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
    kind = _kind(path)
    if kind == "safetensors":
        tensors = _read_safetensors(path)
    elif kind == "legacy":
        tensors = _state_dict(torch_file.read_legacy(path), averaged, path)
    else:
        with torch_file.opened(path) as contents:
            tensors = {
                name: _array(tensor, name, path)
                for name, tensor in _state_dict(contents, averaged, path).items()
            }
    if not tensors:
        raise DataError(f"{path} holds no tensor; name a file of weights")
    return _without_prefixes(tensors)


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


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch_file.Tensor | np.ndarray)


def _holds_tensors(value: Any, known: dict[tuple[int, int], bool], depth: int = 4) -> bool:
    """Whether a value is a tensor or a dictionary with one; a pickle may nest without end.

    `known` has the answers so far, by identity and depth: a few bytes of a pickle can put the same
    dictionary in thousands of places, and it is walked once.
    """
    if not isinstance(value, Mapping) or not depth:
        return _is_tensor(value)
    key = id(value), depth
    if key not in known:
        known[key] = any(_holds_tensors(inner, known, depth - 1) for inner in value.values())
    return known[key]


def _state_dict(contents: Any, averaged: bool, path: Path, depth: int = 4) -> dict[str, Any]:
    """Finds the state dict in what a file holds."""
    if not isinstance(contents, Mapping) or not depth:
        raise DataError(f"{path} holds {_describe(contents)}, no state dict")
    known: dict[tuple[int, int], bool] = {}
    for key in (*(_AVERAGED if averaged else ()), *_RAW):
        inner = contents.get(key)
        if isinstance(inner, Mapping) and _holds_tensors(inner, known):
            return _state_dict(inner, averaged, path, depth - 1)
    tensors = {name: value for name, value in contents.items() if _is_tensor(value)}
    nested = [
        name
        for name, value in contents.items()
        if isinstance(value, Mapping) and _holds_tensors(value, known)
    ]
    if not averaged and any(key in nested for key in _AVERAGED):
        raise DataError(f"{path} holds averaged weights alone; ask for those, not for raw ones")
    if nested or not tensors or not all(isinstance(name, str) for name in tensors):
        raise DataError(
            f"{path} holds {_describe(contents)}, no state dict; save the one of the model alone, "
            "{name: tensor}"
        )
    return tensors


def _describe(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"one {'tensor' if _is_tensor(value) else type(value).__name__.lower()}"
    if not value:
        return "an empty dictionary"
    known: dict[tuple[int, int], bool] = {}
    kinds = [
        f"{str(key)[:40]!r} ({_kind_of_entry(inner, known)})"
        for key, inner in itertools.islice(value.items(), 6)
    ]
    return f"a dictionary of {', '.join(kinds)}{', ...' if len(value) > 6 else ''}"


def _kind_of_entry(value: Any, known: dict[tuple[int, int], bool]) -> str:
    if _is_tensor(value):
        return "tensor"
    if isinstance(value, Mapping):
        return f"dictionary {'with' if _holds_tensors(value, known) else 'without'} tensors"
    return type(value).__name__


def _array(tensor: Any, name: str, path: Path) -> np.ndarray:
    try:
        return tensor.numpy()
    except DataError as error:
        raise DataError(
            f"{path} is damaged: tensor {shortened(name)!r}: {error}; {_AGAIN}"
        ) from error


def _without_prefixes(tensors: dict[str, Any]) -> dict[str, Any]:
    """Takes away what stands before every name."""
    for prefix in _PREFIXES:
        kept = [name for name in tensors if name != _AVERAGE_COUNTER]
        if kept and all(name.startswith(prefix) for name in kept):
            stripped = {name.removeprefix(prefix): tensors[name] for name in kept}
            return _without_prefixes(stripped)
    return tensors


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
