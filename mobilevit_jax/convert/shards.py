"""Weights in several files, and the index that says which tensor is in which."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mobilevit_jax.base.texts import read_object
from mobilevit_jax.errors import DataError, quoted

SUFFIX: Final = ".index.json"


def read_index(path: str | Path) -> dict[str, list[str]]:
    """Reads `model.safetensors.index.json` or `pytorch_model.bin.index.json`.

    Args:
        path: The index.

    Returns:
        {name of a file beside the index: names of its tensors}.

    Raises:
        DataError: If it cannot be read, names no tensor, or names a file that is elsewhere.
    """
    where = read_object(Path(path)).get("weight_map")
    if not isinstance(where, Mapping) or not where:
        raise DataError(f"{path} has no weight_map that says which tensor is in which file")
    shards: dict[str, list[str]] = {}
    for name, file in where.items():
        if not isinstance(file, str) or file in ("", ".", "..") or set(file) & set("/\\:\0"):
            raise DataError(
                f"{path}: tensor {name[:80]!r} is said to be in {quoted(file)}, which is not the "
                "name of a file beside the index"
            )
        shards.setdefault(file, []).append(name)
    return shards
