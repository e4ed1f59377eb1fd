"""Weight files: read by contents, wrong ones named, written whole or not at all."""

import json
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mobilevit_jax.convert.files import read_state_dict, write_state_dict
from mobilevit_jax.errors import ConfigurationError, DataError
from tests.convert.torch_zip import call, glob, write_torch, write_zip

TENSORS = {
    "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "norm.num_batches_tracked": np.asarray(7),
}


def prefixed(prefix: str) -> dict[str, np.ndarray]:
    return {prefix + name: tensor for name, tensor in TENSORS.items()}


def assert_same(result, expected=TENSORS):
    assert set(result) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(result[name], tensor, strict=True, err_msg=name)


def write_safetensors_by_hand(path: Path, dtype: str, data: bytes) -> None:
    header = {"x": {"dtype": dtype, "shape": [len(data)], "data_offsets": [0, len(data)]}}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "pytorch_model.bin"])
def test_contents_decide_and_not_the_name(tmp_path, name):
    path = tmp_path / name
    save_file(TENSORS, path)
    assert_same(read_state_dict(path))
    write_torch(path, TENSORS)
    assert_same(read_state_dict(str(path)))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_types_are_those_of_the_file(tmp_path, dtype):
    tensors = {"x": np.arange(4).astype(dtype)}
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    assert_same(read_state_dict(path), tensors)
    write_torch(path, tensors)
    assert_same(read_state_dict(path), tensors)


def cvnets_checkpoint(**state_dicts):
    return {"iterations": 10, "epoch": 2, "best_metric": 70.5, "optim_state_dict": {}} | state_dicts


OTHER = {"conv.weight": np.zeros((2, 3), np.float32)}


@pytest.mark.parametrize(
    ("contents", "averaged"),
    [
        (cvnets_checkpoint(model_state_dict=OTHER, ema_state_dict=TENSORS), True),
        (cvnets_checkpoint(model_state_dict=TENSORS, ema_state_dict=OTHER), False),
        (cvnets_checkpoint(model_state_dict=TENSORS), True),
        ({"state_dict": OTHER, "state_dict_ema": TENSORS, "arch": "mobilevit_s"}, True),
        ({"state_dict": TENSORS, "state_dict_ema": None}, True),
        ({"state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}}, True),
        ({"model": prefixed("module."), "model_ema": OTHER, "optimizer": {"state": {}}}, False),
        ({"model": {"state_dict": TENSORS}}, True),
        (prefixed("module."), True),
        (prefixed("_orig_mod.module."), True),
        ({"model_ema": prefixed("module.") | {"n_averaged": np.asarray(5)}}, True),
        (TENSORS | {"epoch": 3, "optimizer": {"lr": 0.1}}, True),
    ],
    ids=[
        *("CVNets averaged", "CVNets raw", "CVNets without average", "timm", "timm raw"),
        *("Lightning", "torchvision", "nested twice", "DataParallel", "compiled DataParallel"),
        *("AveragedModel", "with other things"),
    ],
)
def test_checkpoints_that_nest(tmp_path, contents, averaged):
    path = tmp_path / "checkpoint.pt"
    write_torch(path, contents)
    assert_same(read_state_dict(path, averaged=averaged))


def test_a_prefix_of_some_names_is_no_wrapper(tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = TENSORS | {"module.extra": np.ones(2, np.float32)}
    save_file(tensors, path)
    assert_same(read_state_dict(path), tensors)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, "holds an empty dictionary, no state dict"),
        ({"epoch": 3, "lr": 0.1}, r"a dictionary of 'epoch' \(int\), 'lr' \(float\), no state"),
        ({"net": TENSORS, "epoch": 1}, r"'net' \(dictionary with tensors\), 'epoch' \(int\)"),
        (TENSORS | {"head": TENSORS}, r"'head' \(dictionary with tensors\)"),
        ([1, 2], "holds one list, no state dict"),
        (TENSORS["conv.weight"], "holds one tensor, no state dict"),
        ({0: TENSORS["conv.weight"]}, r"'0' \(tensor\), no state dict"),
    ],
)
def test_what_a_file_holds_instead_is_said(tmp_path, contents, message):
    path = tmp_path / "weights.pt"
    write_torch(path, contents)
    with pytest.raises(DataError, match=rf"weights\.pt.*{message}"):
        read_state_dict(path)


def test_raw_weights_that_are_not_there(tmp_path):
    path = tmp_path / "checkpoint.pt"
    write_torch(path, {"ema_state_dict": TENSORS})
    assert_same(read_state_dict(path))
    with pytest.raises(DataError, match="holds averaged weights alone"):
        read_state_dict(path, averaged=False)


def test_dictionaries_that_contain_themselves(tmp_path):
    path = tmp_path / "weights.pt"
    # An empty dictionary, remembered, whose entry "model" is itself.
    cycle = b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", cycle)
    with pytest.raises(DataError, match="no state dict"):
        read_state_dict(path)


@pytest.mark.parametrize("top", ["state_dict", "net", None])
def test_dictionaries_that_are_in_many_places(tmp_path, top):
    """A file of some kilobytes that spells out nine million entries."""
    numbers = {str(i): i for i in range(3000)}
    shared = {str(i): numbers for i in range(3000)}
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        contents = pickle.dumps(shared if top is None else {top: shared}, protocol=2)
        archive.writestr("archive/data.pkl", contents)
    start = time.thread_time()
    with pytest.raises(DataError, match="dictionary without tensors.*no state dict"):
        read_state_dict(path)
    assert time.thread_time() - start < 2


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 22421304\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; download"),
        (b"\x10\x00\x00", "cut short to 3 bytes"),
        (LFS, "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html><head>", "web page.*/resolve/ instead of /blob/"),
        (b"<html>Sign in</html>", "web page"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "web page"),
        (b"<!-- saved by hand -->\n<!-- 2 -->\n<!doctype HTML><head>", "web page"),
        (b"\xef\xbb\xbf" + LFS, "Git LFS pointer"),
        (b"\xef\xbb\xbfEntry not found", "text file that begins with 'Entry not found'"),
        (b"Entry not found", "text file that begins with 'Entry not found'"),
        (b'{"error": "Repository not found"}', 'text file that begins with \'{"error"'),
        (b"\x1f\x8b\x08" + bytes(20), "gzip file; unpack"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5 file, as Keras"),
        (b"\x93NUMPY\x01\x00" + bytes(20), "single NumPy array"),
        (pickle.dumps({"x": [1.0] * 9}), "pickle that torch.save did not write.*not read"),
        (b"\xff\xd8\xff\xe0" + bytes(range(20)), "neither.*begins with the bytes ff d8 ff e0"),
    ],
)
def test_other_things_are_named(tmp_path, data, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_tar_archive(tmp_path):
    (tmp_path / "weights").write_bytes(b"x" * 1000)
    with tarfile.open(tmp_path / "weights.tar", "w") as archive:
        archive.add(tmp_path / "weights", "weights")
    with pytest.raises(DataError, match="tar archive; unpack"):
        read_state_dict(tmp_path / "weights.tar")


@pytest.mark.parametrize("write", [save_file, lambda tensors, path: write_torch(path, tensors)])
def test_cut_files(tmp_path, write):
    path = tmp_path / "weights.bin"
    write(TENSORS, path)
    whole = path.read_bytes()
    for end in {4, 12, 60, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"weights\.bin is .*(cut short|damaged)"):
            read_state_dict(path)


def test_damaged_tensor_is_named(tmp_path):
    path = tmp_path / "weights.pt"
    write_torch(path, TENSORS)
    whole = path.read_bytes()
    place = whole.index(TENSORS["conv.weight"].tobytes())
    path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    with pytest.raises(DataError, match=r"weights\.pt is damaged: tensor 'conv\.weight'"):
        read_state_dict(path)


def test_safetensors_with_types_that_are_not_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors_by_hand(path, "F8_E4M3", bytes(8))
    with pytest.raises(DataError, match=r"weights\.safetensors holds a type .*float32"):
        read_state_dict(path)


def test_safetensors_without_tensors(tmp_path):
    save_file({}, tmp_path / "weights.safetensors")
    with pytest.raises(DataError, match=r"weights\.safetensors holds no tensor"):
        read_state_dict(tmp_path / "weights.safetensors")


def test_code_in_a_file_is_not_run(tmp_path):
    mark = tmp_path / "ran"
    path = tmp_path / "weights.pt"
    write_zip(path, {"x": call(glob("os", "system"), f"touch {mark}")}, {})
    with pytest.raises(DataError, match=r"more than tensors.*'os\.system'"):
        read_state_dict(path)
    assert not mark.exists()


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(DataError, match="there is no file .*nothing"):
        read_state_dict(tmp_path / "nothing.pt")
    with pytest.raises(DataError, match="is a directory; name the file"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_memory_is_that_of_the_weights_alone(tmp_path, kind):
    """A checkpoint of a training holds four times the weights; those that are asked for count."""
    size = 4 * 2**20
    weights = {f"w{i}": np.full(size // 16, i, np.float32) for i in range(4)}
    path = tmp_path / f"weights.{kind}"
    if kind == "pt":
        write_torch(path, {"model_state_dict": weights, "ema_state_dict": weights, "o": weights})
    else:
        save_file(weights, path)
    tracemalloc.start()
    result = read_state_dict(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_same(result, weights)
    assert size <= peak < 1.5 * size


def test_writing_safetensors(tmp_path):
    tensors = {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.asarray(0),
        "half": np.ones(2, ml_dtypes.bfloat16),
        "big": np.arange(3, dtype=">f4"),
    }
    path = tmp_path / "new" / "model.safetensors"
    write_state_dict(path, tensors)
    result = load_file(path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(result[name], tensor)
        assert result[name].shape == tensor.shape
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}
    assert os.listdir(path.parent) == ["model.safetensors"]
    # Like any other file: readable to those whom the umask lets.
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writing_replaces_a_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"older")
    write_state_dict(path, TENSORS)
    assert_same(read_state_dict(path))


def test_endings_that_say_no_format(tmp_path):
    with pytest.raises(ConfigurationError, match=r"model\.ckpt ends in none of \.safetensors"):
        write_state_dict(tmp_path / "model.ckpt", TENSORS)
    assert not list(tmp_path.iterdir())


def test_without_pytorch_its_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigurationError, match=r"install torch or write model\.safetensors"):
        write_state_dict(tmp_path / "model.pt", TENSORS)
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    write_state_dict(path, TENSORS)
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_state_dict(path, {"x": np.zeros(5000, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert_same(read_state_dict(path))


def test_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    write_state_dict(path, TENSORS)
    script = (
        "import os, signal, sys, numpy as np; from mobilevit_jax.convert import files\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_state_dict(sys.argv[1], {'x': np.zeros(9)})"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)])
    assert result.returncode == -signal.SIGKILL
    assert_same(read_state_dict(path))
    assert not [p for p in tmp_path.iterdir() if p != path and p.suffix != ".tmp"]


@pytest.mark.parity
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_pytorch_reads_what_is_written(tmp_path, suffix):
    torch = pytest.importorskip("torch")
    frozen = np.ones(2, np.float32)
    frozen.flags.writeable = False
    tensors = TENSORS | {"half": np.ones(2, ml_dtypes.bfloat16), "frozen": frozen}
    path = tmp_path / f"model{suffix}"
    write_state_dict(path, tensors)
    result = torch.load(path, weights_only=True)
    assert result["half"].dtype == torch.bfloat16
    assert torch.equal(result["conv.weight"], torch.from_numpy(TENSORS["conv.weight"]))
    assert_same(read_state_dict(path), tensors)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parity
def test_legacy_checkpoint(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "checkpoint.pth"
    tensors = {name: torch.from_numpy(tensor) for name, tensor in prefixed("module.").items()}
    torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=False)
    assert_same(read_state_dict(path))
