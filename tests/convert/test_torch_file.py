"""PyTorch's zip files without PyTorch: exact, bounded, and nothing in them is run."""

import os
import pickle
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from mobilevit_jax.convert import torch_file
from mobilevit_jax.errors import DataError
from tests.convert.torch_zip import (
    STORAGES,
    Raw,
    call,
    glob,
    ordered_dict,
    read_arrays,
    storage,
    tensor,
    value,
    write_torch,
    write_zip,
)

FLOATS = np.arange(12, dtype=np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


@pytest.mark.parametrize("name", sorted(STORAGES))
def test_every_dtype(path, name):
    dtype = np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)
    array = np.arange(6).reshape(2, 3).astype(dtype)
    write_torch(path, {"x": array, "scalar": np.asarray(array[1, 1]), "empty": array[:0]})
    result = read_arrays(path)
    for key, expected in (("x", array), ("scalar", array[1, 1]), ("empty", array[:0])):
        assert result[key].dtype == dtype
        np.testing.assert_array_equal(result[key], expected, strict=False)
        assert result[key].shape == expected.shape


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (0, (3, 4), (4, 1), FLOATS.reshape(3, 4)),
        (0, (4, 3), (1, 4), FLOATS.reshape(3, 4).T),
        (5, (2, 3), (3, 1), FLOATS[5:11].reshape(2, 3)),
        (1, (3,), (4,), FLOATS[1::4]),
        (2, (5, 2), (0, 1), np.tile(FLOATS[2:4], (5, 1))),
        (11, (), (), FLOATS[11]),
    ],
    ids=["contiguous", "transposed", "offset", "strided", "expanded", "scalar"],
)
def test_offsets_and_strides(path, offset, shape, strides, expected):
    where = storage("0", count=12)
    write_zip(path, {"x": tensor(where, offset, shape, strides)}, {"0": FLOATS.tobytes()})
    result = read_arrays(path)["x"]
    assert result.shape == shape
    np.testing.assert_array_equal(result, expected)


def test_tensors_share_a_storage(path):
    where = storage("0", count=12)
    contents = {"a": tensor(where, 0, (12,), (1,)), "b": tensor(where, 6, (6,), (1,))}
    for order, stored in (("little", FLOATS), ("big", FLOATS.astype(">f4"))):
        write_zip(path, contents, {"0": stored.tobytes()}, byteorder=order)
        result = read_arrays(path)
        assert np.shares_memory(result["a"], result["b"])
        np.testing.assert_array_equal(result["b"], FLOATS[6:])


@pytest.mark.parametrize("dtype", ["<f4", "<i8", "<c8", "|u1"])
def test_byte_order_of_the_file(path, dtype):
    array = np.arange(1, 5).astype(dtype)
    where = storage("0", STORAGES[array.dtype.name], 4)
    contents = {"x": tensor(where, 0, (4,), (1,))}
    big = array.astype(array.dtype.newbyteorder(">")).tobytes()
    write_zip(path, contents, {"0": big}, byteorder="big")
    np.testing.assert_array_equal(read_arrays(path)["x"], array, strict=True)
    # Older files do not say; they come from machines such as ours.
    write_zip(path, contents, {"0": array.tobytes()}, byteorder=None)
    np.testing.assert_array_equal(read_arrays(path)["x"], array, strict=True)


def test_what_checkpoints_hold_besides_tensors(path):
    parameter = call(
        glob("torch._utils", "_rebuild_parameter"),
        tensor(storage("0", count=12), 0, (12,), (1,)),
        True,
        ordered_dict({}),
    )
    untyped = call(
        glob("torch._utils", "_rebuild_tensor_v3"),
        storage("0", "UntypedStorage", 48),
        *(0, (24,), (1,), False, ordered_dict({}), glob("torch", "uint16")),
    )
    # What state_dict() keeps besides its entries comes as the state of the OrderedDict.
    metadata = value({"_metadata": ordered_dict({"": {"version": 1}})})
    state_dict = Raw(ordered_dict({"p": parameter, "u": untyped}).opcodes + metadata + b"b")
    contents = {
        "model": state_dict,
        "epoch": 3,
        "loss": 0.5,
        "name": "xs",
        "none": None,
        "flags": [True, False, (1, 2)],
        "size": call(glob("torch", "Size"), (2, 3)),
        "device": call(glob("torch", "device"), "cuda", 0),
        "dtype": glob("torch", "float32"),
        "milestones": call(glob("collections", "Counter"), {10: 1}),
        "seen": call(glob("__builtin__", "set"), [1, 2]),
    }
    write_zip(path, contents, {"0": FLOATS.tobytes()})
    result = read_arrays(path)
    np.testing.assert_array_equal(result["model"]["p"], FLOATS)
    np.testing.assert_array_equal(result["model"]["u"], FLOATS.view(np.uint16))
    assert (result["epoch"], result["loss"], result["name"]) == (3, 0.5, "xs")
    assert result["flags"] == [True, False, (1, 2)] and result["none"] is None
    assert result["size"] == (2, 3) and result["milestones"] == {10: 1}
    assert result["seen"] == {1, 2}


# Each would leave a file behind if what it asks for were done.
ATTACKS = {
    "os.system": lambda mark: call(glob("os", "system"), f"touch {mark}"),
    "posix.system": lambda mark: call(glob("posix", "system"), f"touch {mark}"),
    "subprocess": lambda mark: call(glob("subprocess", "check_call"), ["touch", mark]),
    "eval": lambda mark: call(glob("builtins", "eval"), f"open({mark!r}, 'w')"),
    "exec in Python 2": lambda mark: call(glob("__builtin__", "eval"), f"open({mark!r}, 'w')"),
    "open": lambda mark: call(glob("builtins", "open"), mark, "w"),
    "pathlib": lambda mark: call(glob("pathlib", "Path.touch"), mark),
    "numpy": lambda mark: call(glob("numpy.testing._private.utils", "runstring"), mark, {}),
    "torch.load": lambda mark: call(glob("torch.storage", "_load_from_bytes"), mark),
    "getattr": lambda mark: call(glob("builtins", "getattr"), glob("torch", "Size"), "__class__"),
    "reader's modules": lambda mark: call(
        glob("mobilevit_jax.convert.torch_file", "sys.modules.get"), "os"
    ),
    "instance": lambda mark: Raw(b"(" + value(f"touch {mark}") + b"ios\nsystem\n"),
    "object": lambda mark: Raw(b"(cos\nsystem\n" + value(f"touch {mark}") + b"o"),
    "stack global": lambda mark: Raw(
        b"\x8c\x02os\x8c\x06system\x93" + value((f"touch {mark}",)) + b"R"
    ),
    "new object": lambda mark: Raw(b"csubprocess\nPopen\n" + value((f"touch {mark}",)) + b"\x81"),
    "persistent id": lambda mark: Raw(b"Pos.system\n"),
}


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_nothing_is_run(tmp_path, path, attack):
    mark = tmp_path / "ran"
    good = tensor(storage("0", count=12), 0, (12,), (1,))
    contents = {"x": good, "y": ATTACKS[attack](str(mark))}
    write_zip(path, contents, {"0": FLOATS.tobytes()})
    with pytest.raises(DataError, match=r"weights\.pt holds more than tensors"):
        read_arrays(path)
    assert not mark.exists()


def test_the_attacks_are_real(tmp_path):
    """So that the test above cannot pass for a mistake in its files."""
    mark = tmp_path / "ran"
    for attack in ("os.system", "eval", "open", "instance", "object", "stack global"):
        opcodes = ATTACKS[attack](str(mark)).opcodes
        data = b"\x80\x02" + opcodes + b"."
        script = f"import pickle; pickle.loads({data!r})"
        subprocess.run([sys.executable, "-c", script], check=True)
        assert mark.exists(), attack
        mark.unlink()


def test_what_was_asked_for_is_named(path):
    write_zip(path, {"x": call(glob("os", "system"), "true")}, {})
    with pytest.raises(DataError, match=r"asks for 'os\.system'.*none of it was run.*state_dict"):
        read_arrays(path)


@pytest.mark.parametrize(
    "target",
    [
        glob("torch._utils", "_rebuild_tensor_v2"),
        glob("torch", "FloatStorage"),
        glob("collections", "OrderedDict"),
        storage("0", count=12),
        tensor(storage("0", count=12), 0, (12,), (1,)),
    ],
    ids=["function", "dtype", "class", "storage", "tensor"],
)
def test_state_of_the_reader_cannot_be_changed(path, target):
    state = ({"__call__": 1, "shape": (10**9,)}, {"_call": 1, "shape": (10**9,)})
    write_zip(path, {"x": Raw(target.opcodes + value(state) + b"b")}, {"0": FLOATS.tobytes()})
    with pytest.raises(DataError, match="holds more than tensors: it sets the state"):
        read_arrays(path)
    good = {"x": tensor(storage("0", count=12), 0, (12,), (1,))}
    write_zip(path, good, {"0": FLOATS.tobytes()})
    np.testing.assert_array_equal(read_arrays(path)["x"], FLOATS)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "message"),
    [
        (0, (13,), (1,), "reaches beyond its storage"),
        (1, (12,), (1,), "reaches beyond its storage"),
        (12, (), (), "reaches beyond its storage"),
        (0, (4, 3), (4, 1), "reaches beyond its storage"),
        (0, (2**62, 2**62), (0, 0), "elements cannot be read"),
        (-1, (2,), (1,), "none"),
        (0, (2,), (-1,), "none"),
        (0, (-2,), (1,), "none"),
        (0, (2.0,), (1,), "none"),
        (0, (2, 2), (1,), "another number of strides"),
        (0, "ab", (1, 1), "none"),
        ("0", (2,), (1,), "none"),
    ],
)
def test_tensors_stay_within_their_storage(path, offset, shape, strides, message):
    contents = {"x": tensor(storage("0", count=12), offset, shape, strides)}
    write_zip(path, contents, {"0": FLOATS.tobytes()})
    with pytest.raises(DataError, match=message):
        read_arrays(path)


def test_storage_is_missing_or_shorter_than_said(path):
    contents = {"x": tensor(storage("7", count=12), 0, (12,), (1,))}
    write_zip(path, contents, {"0": FLOATS.tobytes()})
    with pytest.raises(DataError, match="'archive/data/7' is not in the file"):
        read_arrays(path)
    write_zip(path, contents, {"7": FLOATS.tobytes()[:-1]})
    with pytest.raises(DataError, match="reaches beyond"):
        read_arrays(path)


def test_kinds_of_tensors_that_are_not_read_arrays(path):
    where = storage("0", "QInt8Storage", 12)
    write_zip(path, {"x": tensor(where, 0, (12,), (1,))}, {"0": bytes(12)})
    with pytest.raises(DataError, match=r"asks for 'torch\.QInt8Storage'"):
        read_arrays(path)
    rebuild = glob("torch._utils", "_rebuild_tensor_v2")
    arguments = (storage("0", count=12), 0, (12,), (1,), False, ordered_dict({}), {"neg": True})
    write_zip(path, {"x": call(rebuild, *arguments)}, {"0": FLOATS.tobytes()})
    with pytest.raises(DataError, match="negated lazily"):
        read_arrays(path)


def test_damaged_anywhere_is_one_clear_error(tmp_path, path):
    """Every cut, and every byte turned over: right numbers or a DataError, never anything else."""
    write_torch(path, {"a": FLOATS, "b": {"c": FLOATS[:3]}, "epoch": 3})
    whole = path.read_bytes()
    damaged = tmp_path / "damaged.pt"
    for end in range(4, len(whole) - 1, 7):
        damaged.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"damaged\.pt"):
            read_arrays(damaged)
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 300, replace=False):
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        damaged.write_bytes(changed)
        try:
            result = read_arrays(damaged)
        except DataError:
            continue
        if isinstance(result, dict) and isinstance(result.get("a"), np.ndarray):
            np.testing.assert_array_equal(result["a"], FLOATS)


def test_zip_archives_of_others(tmp_path):
    npz = tmp_path / "weights.npz"
    np.savez(npz, a=FLOATS)
    with pytest.raises(
        DataError, match=r"weights\.npz is a zip archive, but not of PyTorch.*a\.npy"
    ):
        read_arrays(npz)
    script = tmp_path / "model.pt"
    write_zip(script, {}, {}, extra={"constants.pkl": b""})
    with pytest.raises(DataError, match="TorchScript"):
        read_arrays(script)
    compressed = tmp_path / "repacked.pt"
    write_torch(compressed, {"a": FLOATS})
    with zipfile.ZipFile(compressed) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in entries.items():
            target.writestr(name, data)
    np.testing.assert_array_equal(read_arrays(compressed)["a"], FLOATS)


def test_legacy_file_without_pytorch(path):
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"rest")
    assert torch_file.LEGACY_MAGIC in path.read_bytes()
    script = (
        "import sys; from pathlib import Path; sys.modules['torch'] = None\n"
        "from mobilevit_jax.convert import torch_file\n"
        "torch_file.read_legacy(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, os.fspath(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "before version 1.6" in result.stderr and "weights_only=True" in result.stderr
