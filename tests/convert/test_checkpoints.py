"""Checkpoints of trainings: where the network is in them, and what stands around it."""

import argparse
import collections
import datetime
import enum
import json
import pathlib
import pickle
import types
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from mobilevit_jax.convert import to_state_dict
from mobilevit_jax.convert.files import read_state_dict
from mobilevit_jax.errors import DataError
from mobilevit_jax.models import create_model
from mobilevit_jax.pretrained import load_weights
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained
from tests.convert.torch_zip import Raw, call, glob, value, write_torch, write_zip
from tests.small import random_variables

MODEL = create_model("mobilevit_xxs", num_classes=3)
PROCESSOR = ImageProcessor(size=72, crop_size=(64, 64))


@pytest.fixture(scope="module")
def weights():
    """Two state dicts of the same names, in the naming of CVNets."""
    return tuple(to_state_dict(MODEL, random_variables(MODEL, seed), "cvnets") for seed in (0, 1))


def below(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, strict=True, err_msg=name)


def written(path, contents, kind):
    if kind == "pt":
        write_torch(path, contents)
    else:
        save_file({name: np.asarray(t, order="C") for name, t in contents.items()}, path)
    return path


CRITERION = {"criterion.weight": np.ones(3, np.float32), "metric.count": np.asarray(3)}


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize(
    ("own", "other"),
    [
        ("net.", None),
        ("model.", None),
        ("model.net.", "ema.module."),
        ("module.", "module.ema_model."),
        ("_orig_mod.", None),
        ("net._orig_mod.module.", "model_ema."),
        ("", "averaged_model."),
        # Which in other models is a part of the names.
        ("encoder.", None),
    ],
)
def test_prefixes_are_found_by_the_names(tmp_path, weights, own, other, kind):
    """Beside criterion and averaged weights, which are chosen as ever."""
    ours, theirs = weights
    contents = below(own, ours) | (CRITERION if own not in ("", "_orig_mod.", "encoder.") else {})
    if other:
        contents |= below(other, theirs)
    path = written(tmp_path / f"model.{kind}", contents, kind)
    assert_same(read_state_dict(path, averaged=False), ours)
    assert_same(read_state_dict(path), theirs if other else ours)


@pytest.mark.parametrize(
    ("place", "averaged"),
    [
        (("net",), ()),
        (("state", "network"), ()),
        (("generator",), ("ema",)),
        (("state_dict",), ("callbacks", "EMA", "weights")),
        (("model", "state_dict"), ("model", "swa")),
    ],
)
def test_places_are_found_by_the_names(tmp_path, weights, place, averaged):
    contents = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": np.ones(3, np.float32)}}}}
    for keys, tensors in zip((place, averaged), weights, strict=True):
        inner = contents
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        if keys:
            inner[keys[-1]] = tensors
    path = written(tmp_path / "checkpoint.pt", contents, "pt")
    ours, theirs = weights
    assert_same(read_state_dict(path, averaged=False), ours)
    assert_same(read_state_dict(path), theirs if averaged else ours)


def test_wrappers_within_names(tmp_path, weights):
    """As torch.compile and FSDP leave them where a part of the network was wrapped."""
    ours, _ = weights
    contents = {name.replace("layer_1.", "layer_1._orig_mod.", 1): t for name, t in ours.items()}
    assert_same(read_state_dict(written(tmp_path / "a.pt", contents, "pt")), ours)


def test_two_networks_that_may_both_be_meant(tmp_path, weights):
    ours, theirs = weights
    contents = below("student.", ours) | below("teacher.", theirs)
    path = written(tmp_path / "a.pt", contents, "pt")
    with pytest.raises(DataError, match=r"several networks, at student, teacher; save the state"):
        read_state_dict(path)
    path = written(tmp_path / "a.pt", {"best": theirs, "state_dict": ours}, "pt")
    assert_same(read_state_dict(path), ours)


def test_a_head_of_somebody_s_own_is_not_left_out(tmp_path, weights):
    ours, _ = weights
    contents = {name: t for name, t in below("net.", ours).items() if "classifier" not in name}
    contents["head.weight"] = np.ones((3, 16), np.float32)
    path = written(tmp_path / "a.pt", contents, "pt")
    with pytest.raises(DataError, match=r"without a head at net, and beside it head\.weight"):
        read_state_dict(path)


def numpy_scalar(number: float) -> Raw:
    dtype = call(glob("numpy", "dtype"), "f8", False, True)
    state = value((3, "<", None, None, None, -1, -1, 0)) + b"b"
    data = call(glob("_codecs", "encode"), np.float64(number).tobytes().decode("latin-1"), "latin1")
    return call(glob("numpy._core.multiarray", "scalar"), Raw(dtype.opcodes + state), data)


def made(module: str, name: str, state: dict) -> Raw:
    """An object as pickles have it: made without arguments, then its attributes."""
    return Raw(glob(module, name).opcodes + b")\x81" + value(state) + b"b")


def numpy_array(array: np.ndarray, fortran: bool = False) -> Raw:
    """An array as NumPy pickles it by the second protocol."""
    order, code = array.dtype.byteorder.replace("=", "<"), array.dtype.str[1:]
    dtype = call(glob("numpy", "dtype"), code, False, True)
    dtype = Raw(dtype.opcodes + value((3, order, None, None, None, -1, -1, 0)) + b"b")
    text = array.tobytes("F" if fortran else "C").decode("latin-1")
    data = call(glob("_codecs", "encode"), text, "latin1")
    blank = call(glob("numpy.core.multiarray", "_reconstruct"), glob("numpy", "ndarray"), (0,), "b")
    return Raw(blank.opcodes + value((1, array.shape, dtype, fortran, data)) + b"b")


def partial_of(function: Raw, *given) -> Raw:
    """A partial as Python pickles it."""
    blank = call(glob("functools", "partial"), function)
    return Raw(blank.opcodes + value((function, given, {"a": 1}, None)) + b"b")


NEW = call(glob("builtins", "getattr"), glob("builtins", "object"), "__new__")
MASKED = glob("torch.masked", "MaskedTensor")
MODE = call(glob("__main__", "Mode"), 1)
AROUND = {
    "numpy scalar": numpy_scalar(70.5),
    "status": call(glob("http", "HTTPStatus"), 200),
    "flag": call(glob("re", "RegexFlag"), 2),
    "flags": call(glob("_operator", "or_"), call(glob("re", "RegexFlag"), 2),
        call(glob("__builtin__", "getattr"), glob("re", "RegexFlag"), "MULTILINE")),
    "signal": call(glob("signal", "Signals"), 15),
    "array of objects": call(glob("numpy.core.multiarray", "_reconstruct"), 1),
    "numpy scalar of NumPy 1": call(glob("numpy.core.multiarray", "scalar"), 1, 2),
    "namespace": made("argparse", "Namespace", {"lr": 0.1, "betas": [0.9, 0.999]}),
    "defaultdict": Raw(
        call(glob("collections", "defaultdict"), glob("__builtin__", "list")).opcodes
        + value("loss") + value([1.0]) + b"s"
    ),
    "deque": Raw(call(glob("collections", "deque"), [], 5).opcodes + value(1.0) + b"a"),
    "path": call(glob("pathlib", "PosixPath"), "/", "data"),
    "path of Windows": call(glob("pathlib", "WindowsPath"), "C:\\", "data"),
    "path of 3.13": call(glob("pathlib._local", "PosixPath"), "/", "data"),
    "date": call(glob("datetime", "datetime"), "\x07"),
    "delta": call(glob("datetime", "timedelta"), 0, 3, 0),
    "member": MODE,
    "member by name": call(glob("__builtin__", "getattr"), glob("lib.modes", "Mode"), "TRAIN"),
    "member as a key": Raw(b"}" + MODE.opcodes + value(1) + b"s"),
    "members": Raw(b"\x8f(" + MODE.opcodes + b"\x90"),
    "class as a key": Raw(b"}" + glob("lightning.callbacks", "Save").opcodes + value(1) + b"s"),
    "omegaconf": made("omegaconf.dictconfig", "DictConfig", {"_content": {"lr": 0.1}}),
    "dictionary of a class": Raw(glob("lib.data", "AttributeDict").opcodes + b")\x81(" + value("lr")
        + value(0.1) + b"u" + value({"x": 1}) + b"b"),
    "functions as values": [glob("torch.nn.functional", "relu"), glob("builtins", "isinstance")],
    "constant": glob("builtins", "Ellipsis"),
    "partial": Raw(glob("functools", "partial").opcodes + value((glob("torch.nn", "ReLU"),))
        + b"\x81" + value((1, 2, {}, None)) + b"b"),
    "module": made("torch.nn.modules.loss", "CrossEntropyLoss", {"training": True}),
    "of old protocols": Raw(
        call(glob("copy_reg", "_reconstructor"), glob("lib", "Old"), glob("__builtin__", "object"),
             None).opcodes + value({"x": 1}) + b"b"
    ),
    "with names": Raw(glob("lib", "New").opcodes + b")" + value({"x": 1}) + b"\x92"),
    "with names, of old protocols": call(call(glob("functools", "partial"), glob("lib", "New"))),
    "with names, by object": call(partial_of(NEW, glob("lib", "New"))),
    "partial as a value": partial_of(glob("torch.nn.init", "normal_"), 1),
    "partial of tensors as a value": partial_of(glob("torch.nn", "Parameter")),
    "class of tensors as a value": glob("torch", "Tensor"),
    "errors of any version": [call(glob("builtins", "PythonFinalizationError"), "no"),
        call(glob("builtins", "ExceptionGroup"), "no", [])],
    "error": call(glob("exceptions", "ValueError"), "no"),
    "file in memory": call(glob("_io", "BytesIO"), "abc"),
    "union": call(glob("_functools", "reduce"), glob("_operator", "or_"), [1, 2]),
    "made by a method": call(glob("lib.config", "Config.load"), "x"),
    "made by a method, of old protocols": call(
        call(glob("__builtin__", "getattr"), glob("lib.config", "Config"), "load"), "x"),
    "layout": call(glob("torch.serialization", "_get_layout"), "torch.strided"),
    "buffer of objects": call(glob("numpy._core.numeric", "_frombuffer"), 1, 2, (3,), "C"),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(AROUND))
def test_what_programs_put_beside_their_weights(tmp_path, what):
    """Of none of it is anything made, so that no package need be there."""
    tensors = {"w": np.arange(3, dtype=np.float32)}
    path = tmp_path / "checkpoint.pt"
    write_torch(path, {"state_dict": tensors, "epoch": 3, "other": AROUND[what]})
    assert_same(read_state_dict(path), tensors)


@pytest.mark.parametrize("around", [lambda c: c, lambda c: [c], lambda c: ([c],)])
@pytest.mark.parametrize("fortran", [False, True])
def test_arrays_of_numpy_and_a_list_around(tmp_path, weights, around, fortran):
    """As `torch.save` writes a state dict of arrays, and one in a list alone."""
    _, tensors = weights
    path = tmp_path / "arrays.pt"
    arrays = {name: numpy_array(tensor, fortran) for name, tensor in tensors.items()}
    write_zip(path, around({"model": arrays, "mean": numpy_array(np.zeros(3, ">f4"))}), {})
    assert_same(read_state_dict(path), tensors)
    write_torch(path, [{"model": dict(tensors)}])
    assert_same(read_state_dict(path), tensors)


def test_arrays_of_numpy_in_other_orders_and_too_short(tmp_path):
    path = tmp_path / "arrays.pt"
    swapped = np.arange(6, dtype=">f4").reshape(2, 3)
    write_zip(path, {"w": numpy_array(swapped)}, {})
    assert_same(read_state_dict(path), {"w": swapped.astype("<f4")})
    short = numpy_array(swapped).opcodes.replace(b"(I2\nI3\nt", b"(I2\nI4\nt")
    write_zip(path, {"w": Raw(short)}, {})
    with pytest.raises(DataError, match="tensor 'w': its shape .2, 4. is not that of its 24 bytes"):
        read_state_dict(path)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_as_numpy_pickles_them(tmp_path, protocol, core):
    """From protocol 5 on from a buffer, whichever way the elements lie, by old names and new."""
    cube = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {"c": cube, "f": np.asfortranarray(cube), "k": cube.transpose(1, 2, 0)}
    arrays |= {"swapped": cube.astype(">f4"), "scalar": np.asarray(cube[0, 0, 1])}
    arrays |= {"empty": cube[:0], "part": cube[:, ::2], "fixed": np.frombuffer(b"abcd", np.uint8)}
    data = pickle.dumps({"state_dict": arrays, "epoch": np.int64(3)}, protocol)[:-1]
    data = data[:2] + data[11:] if protocol > 3 else data  # the frame, whose length changes
    for module in ("multiarray", "numeric"):
        old, new = f"numpy._core.{module}".encode(), f"{core}.{module}".encode()
        data = data.replace(old + b"\n", new + b"\n")
        data = data.replace(bytes([len(old)]) + old, bytes([len(new)]) + new)
    path = tmp_path / "arrays.pt"
    write_zip(path, Raw(data), {})
    assert_same(read_state_dict(path), arrays | {"swapped": cube})


def test_weights_in_a_dictionary_of_a_class_of_its_own(tmp_path, weights):
    ours, _ = weights
    plain = tmp_path / "plain.pt"
    write_torch(plain, {"state_dict": ours})
    with zipfile.ZipFile(plain) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    data = entries["archive/data.pkl"]
    made_of_class = glob("lib.data", "State").opcodes + b")\x81"
    place = data.index(b"state_dict") + len(b"state_dict")
    assert data[place : place + 1] == b"}"
    entries["archive/data.pkl"] = data[:place] + made_of_class + data[place + 1 :]
    with zipfile.ZipFile(tmp_path / "own.pt", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert_same(read_state_dict(tmp_path / "own.pt"), ours)


@pytest.mark.parametrize(
    "asked",
    [
        call(glob("torch._utils", "_rebuild_sparse_tensor"), 1),
        call(glob("torch", "FloatTensor"), 1),
        call(glob("lib.tools", "run"), "x"),
        call(glob("shutil", "rmtree"), "/nowhere"),
        call(glob("importlib", "import_module"), "os"),
        call(glob("builtins", "getattr"), {"a": 1}, "pop"),
        call(glob("builtins", "__loader__"), "x"),
        call(partial_of(NEW, MASKED)),
        call(partial_of(NEW), MASKED),
        call(call(glob("functools", "partial"), MASKED)),
        call(NEW, MASKED),
        call(glob("copyreg", "__newobj__"), MASKED),
        call(call(glob("builtins", "getattr"), glob("PIL.x", "open"), "run"), "x"),
    ],
    ids=["sparse", "tensor", "function", "rmtree", "import", "getattr", "loader", "partial"]
    + ["partial later", "partial itself", "new", "new of old protocols", "attribute"],
)
def test_what_is_still_refused(tmp_path, asked):
    """Tensors of kinds that are not read, which would be left out, and calls of functions."""
    path = tmp_path / "weights.pt"
    write_torch(path, {"w": np.ones(2, np.float32), "other": asked})
    with pytest.raises(DataError, match=r"weights\.pt holds more than tensors: it asks for"):
        read_state_dict(path)


def test_objects_are_not_called(tmp_path):
    """What they would return may be a tensor."""
    for function in (call(glob("lib", "Maker")), call(glob("functools", "partial"), 1)):
        path = tmp_path / "weights.pt"
        write_torch(path, {"w": np.ones(2, np.float32), "other": call(function)})
        with pytest.raises(DataError, match="it calls an object of '(lib.Maker|functools.partial)"):
            read_state_dict(path)


class Mode(enum.Enum):
    TRAIN = 1


@pytest.mark.parity
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_pytorch_saves(tmp_path, weights, protocol):
    torch = pytest.importorskip("torch")
    ours, _ = weights
    losses = collections.defaultdict(list)
    losses["train"].append(np.float32(0.5))
    contents = {
        "model_state_dict": {name: torch.from_numpy(t.copy()) for name, t in ours.items()},
        "best_metric": np.float64(70.5),
        "args": argparse.Namespace(lr=0.1, out=pathlib.PosixPath("/tmp"), mode=Mode.TRAIN),
        "simple": types.SimpleNamespace(x=np.arange(3), dtype=np.dtype("int16")),
        "losses": losses,
        "windows": pathlib.PureWindowsPath("C:/x"),
        "when": [datetime.datetime.now(datetime.UTC), datetime.date.today(), np.datetime64("now")],
        "by mode": {Mode.TRAIN: 1, np.int64(3): 2, torch.float32: 3},
        "random": [np.random.default_rng(0), np.random.RandomState(0), torch.get_rng_state()],
        "criterion": torch.nn.CrossEntropyLoss(weight=torch.ones(3)),
        "bytes": [b"abc", bytearray(b"abc"), slice(1, 2), range(3), {1, 2}, frozenset({3})],
    }
    path = tmp_path / "checkpoint.pt"
    torch.save(contents, path, pickle_protocol=protocol)
    assert_same(read_state_dict(path), ours)


class TestShards:
    @pytest.fixture(params=["safetensors", "bin"])
    def sharded(self, request, tmp_path, monkeypatch):
        """A directory as transformers has it, its weights in two files."""
        variables = random_variables(MODEL)
        save_pretrained(tmp_path, MODEL, variables, PROCESSOR, class_names=("a", "b", "c"))
        tensors = to_state_dict(MODEL, variables)
        (tmp_path / "model.safetensors").unlink()
        kind = request.param
        stem = "model" if kind == "safetensors" else "pytorch_model"
        where = {}
        for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
            file = f"{stem}-0000{number}-of-00002.{kind}"
            part = {name: tensors[name] for name in names}
            written(tmp_path / file, part, "pt" if kind == "bin" else kind)
            where |= dict.fromkeys(names, file)
        index = tmp_path / f"{stem}.{kind}.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
        return index, where, variables

    def test_all_are_read(self, sharded):
        index, _, variables = sharded
        for source in (index.parent, index):
            found = load_weights(source).variables
            jax.tree.map(np.testing.assert_array_equal, found, variables)
        assert load_weights(index.parent).class_names == ("a", "b", "c")

    def test_one_is_missing(self, sharded):
        index, where, _ = sharded
        shard = index.with_name(max(where.values()))
        shard.unlink()
        with pytest.raises(DataError, match=rf"{shard.name} is missing, which holds .*more"):
            load_weights(index.parent)

    def test_the_index_names_what_is_not_there(self, sharded):
        index, where, _ = sharded
        document = {"weight_map": where | {"more.weight": min(where.values())}}
        index.write_text(json.dumps(document))
        with pytest.raises(DataError, match=r"00001-of-00002\.\w+ does not hold more\.weight"):
            load_weights(index.parent)

    def test_what_the_index_does_not_name_is_not_passed_over(self, sharded):
        index, where, _ = sharded
        name = next(iter(where))
        kind = "pt" if index.name.startswith("pytorch") else "safetensors"
        shard = index.with_name(where[name])
        there = {n: t for n, t in read_state_dict(index).items() if where[n] == shard.name}
        written(shard, there | {"more.weight": np.ones(2, np.float32)}, kind)
        with pytest.raises(DataError, match=r"unexpected: more\.weight"):
            load_weights(index.parent)

    @pytest.mark.parametrize(
        "file", ["../model.bin", "/etc/passwd", "a/b.bin", "..", "", 5, "C:\\x", "a\\b"]
    )
    def test_files_elsewhere(self, sharded, file):
        index, where, _ = sharded
        index.write_text(json.dumps({"weight_map": where | {"x": file}}))
        with pytest.raises(DataError, match="'x' is said to be in .*, which is not the name of a"):
            load_weights(index.parent)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not valid JSON"),
            ("[" * 100_000, "not valid JSON"),
            ("[]", "holds no JSON object"),
            ('{"weight_map": {}}', "has no weight_map"),
            ('{"weight_map": ["a"]}', "has no weight_map"),
        ],
    )
    def test_damaged_indices(self, sharded, text, message):
        index, _, _ = sharded
        index.write_text(text)
        with pytest.raises(DataError, match=rf"index\.json.*{message}"):
            load_weights(index.parent)

    def test_one_file_comes_before_several(self, sharded):
        index, _, variables = sharded
        index.write_text("{")
        save_file(to_state_dict(MODEL, variables), index.with_name("model.safetensors"))
        load_weights(index.parent)
