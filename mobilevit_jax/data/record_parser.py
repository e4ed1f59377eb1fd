"""Parses the stored examples: `tf.train.Example` messages, with the features that TFDS describes.

TFDS's own parser (`features.deserialize_example_np`) walks the whole feature tree for each record
and takes several times as long as reading it. This one knows the flat features that vision data
sets have, and leaves a data set with any other to TFDS.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Where data sets of TFDS keep the name of an image.
_NAME_FEATURES = ("name", "file_name", "filename", "image/filename", "id")


class RecordParser:
    """Turns a serialised example into a dict, images left encoded."""

    def __init__(self, features: Any) -> None:
        """Prepares the parser.

        Args:
            features: The `tfds.features.FeaturesDict` of the data set.
        """
        from tensorflow_datasets.proto import tf_example_pb2

        self._features = features
        self._message: Any = getattr(tf_example_pb2, "Example")  # noqa: B009 (generated module)
        self._fields: list[tuple[tuple[str, ...], str, Callable[[Any], Any]]] = []
        self._flat = self._collect((), features, features.get_serialized_info())
        self._name_feature = next((n for n in _NAME_FEATURES if n in features), None)

    def parse(self, record: bytes | memoryview) -> dict[str, Any]:
        """Returns the features of a record, nested as the data set's are.

        A "name" is added if the data set has one under another name.

        Raises:
            ValueError: If it has no image; damaged records raise other exceptions, too.
        """
        values = self._parse_flat(record) if self._flat else self._parse_any(record)
        if "image" not in values:
            raise ValueError("it has no image")
        if self._name_feature in values and "name" not in values:
            values["name"] = values[self._name_feature]
        if "name" in values:
            values["name"] = _as_text(values["name"])
        return values

    def _parse_flat(self, record: bytes | memoryview) -> dict[str, Any]:
        stored = self._message.FromString(record).features.feature
        values: dict[str, Any] = {}
        for path, key, read in self._fields:
            if key not in stored:
                continue
            parent = values
            for part in path[:-1]:
                parent = parent.setdefault(part, {})
            parent[path[-1]] = read(stored[key])
        return values

    def _parse_any(self, record: bytes | memoryview) -> dict[str, Any]:
        from tensorflow_datasets import decode, features

        decoders = {
            name: decode.SkipDecoding()
            for name, feature in self._features.items()
            if isinstance(feature, features.Image)
        }
        return self._features.deserialize_example_np(bytes(record), decoders=decoders)

    def _collect(self, path: tuple[str, ...], features: Any, specs: Any) -> bool:
        """Lists the fields of a level; False if one is not as simple as it must be."""
        for name, spec in specs.items():
            inner = (*path, name)
            feature = features[name]
            if isinstance(spec, Mapping):
                nested = getattr(feature, "feature", feature)
                if not self._collect(inner, nested, spec):
                    return False
            else:
                read = _reader(spec)
                if read is None:
                    return False
                self._fields.append((inner, "/".join(inner), read))
        return True


def _reader(spec: Any) -> Callable[[Any], Any] | None:
    """Returns the function that reads a field, or None if the field is ragged."""
    if spec.sequence_rank > 1 or spec.shape.count(None) > 1:
        return None
    dtype = spec.np_dtype
    kind = np.dtype(dtype).kind if dtype is not str else "S"
    text = kind in "SUO"
    lists = "bytes_list" if text else "float_list" if kind == "f" else "int64_list"
    if not spec.shape:
        return _scalar_reader(lists)
    shape = tuple(-1 if n is None else n for n in spec.shape)
    item_type = np.dtype(object) if text else np.dtype(dtype)

    def read(feature: Any) -> np.ndarray:
        return np.array(getattr(feature, lists).value, item_type).reshape(shape)

    return read


def _scalar_reader(lists: str) -> Callable[[Any], Any]:
    # Three plain functions: getattr by name would cost a tenth of the time of a record.
    if lists == "bytes_list":
        return lambda feature: feature.bytes_list.value[0]
    if lists == "float_list":
        return lambda feature: feature.float_list.value[0]
    return lambda feature: feature.int64_list.value[0]


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def record_name(record: dict[str, Any], record_id: int) -> str:
    """Returns what to call a record in messages."""
    name = record.get("name", f"record {record_id}")
    return name.decode() if isinstance(name, bytes) else str(name)
