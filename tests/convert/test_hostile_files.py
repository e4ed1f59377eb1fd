"""Files that are small and ask for much: refused soon, in little memory."""

import json
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from mobilevit_jax.convert.config import read_config, to_huggingface, to_native
from mobilevit_jax.convert.files import read_state_dict
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import create_model
from mobilevit_jax.processing import ImageProcessor
from tests.convert.torch_zip import Raw, call, glob, storage, tensor, value, write_torch, write_zip
from tests.small import tiny_model

FLOATS = np.arange(12, dtype=np.float32)
# What arrays of NumPy's are rebuilt by.
BUFFER = glob("numpy._core.numeric", "_frombuffer")
FLOAT = call(glob("numpy", "dtype"), "f4", False, True)


SWAPPED = Raw(FLOAT.opcodes + value((3, ">")) + b"b")


def array_of_buffer(data: Raw) -> Raw:
    return call(BUFFER, data, SWAPPED, (63,), "C")


def array_of_text(data: Raw) -> Raw:
    """As older protocols have an array."""
    blank = call(glob("numpy.core.multiarray", "_reconstruct"))
    state = (1, (63,), FLOAT, False, call(glob("_codecs", "encode"), data))
    return Raw(blank.opcodes + value(state) + b"b")


def repr_of_start(given) -> str:
    return repr(given)[:9]


@pytest.fixture
def refused():
    """Checks that reading raises a short DataError, soon and within 64 MiB.

    Soon is half a minute of the processor, as tracing the memory takes several times what reading
    does: what these files ask for would take hours.
    """

    def check(read, path, message):
        tracemalloc.start()
        start = time.process_time()
        with pytest.raises(DataError, match=message) as caught:
            read(path)
        seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
        assert seconds < 30 and peak < 64 * 2**20

    return check


def write_pickle(path, opcodes: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + opcodes + b".")


class TestPickles:
    def test_a_memo_of_gigabytes(self, tmp_path, refused):
        """The opcode LONG_BINPUT says where in the memo to put a value; found by the fuzz."""
        path = tmp_path / "weights.pt"
        write_pickle(path, b"}r\xff\xff\xff\x7f")
        refused(read_state_dict, path, "an empty dictionary, no state dict")

    def test_a_bytearray_of_gigabytes(self, tmp_path, refused):
        path = tmp_path / "weights.pt"
        write_pickle(path, b"\x96" + struct.pack("<Q", 2**28))
        refused(read_state_dict, path, "is damaged: its data.pkl")

    @pytest.mark.parametrize(
        ("order", "axes"),
        [
            *(("K", axes) for axes in [(0, 0), (0, 2), (1, -1), "ab", (1,), None, "a" * 2**23]),
            *(("C", (1, 0)), ("F", (1, 0)), ("A", None), (None, None), (["C"], None)),
        ],
        ids=repr_of_start,
    )
    def test_orders_and_axes_that_are_none(self, tmp_path, refused, order, axes):
        """NumPy takes axes with "K" alone."""
        path = tmp_path / "weights.pt"
        array = call(BUFFER, Raw(b"C\x08" + bytes(8)), FLOAT, (2, 1), order, axes)
        write_zip(path, {"x": array}, {})
        refused(
            read_state_dict,
            path,
            "holds more than tensors: (an array (has axes|lies in an order)|"
            "a tensor has a (shape|size or stride)) that (is|are) none",
        )

    @pytest.mark.parametrize(
        ("array_of", "data"),
        [(array_of_buffer, b"C\xfc" + bytes(252)), (array_of_text, value("\0" * 252))],
    )
    def test_arrays_that_share_their_bytes(self, tmp_path, refused, array_of, data):
        """Each has a hundred bytes in the file; of large ones each would be a copy."""
        path = tmp_path / "weights.pt"
        arrays = {"first": array_of(Raw(data + b"q\x01"))}
        write_zip(path, arrays, {})
        assert read_state_dict(path)["first"].shape == (63,)
        arrays |= {str(place): array_of(Raw(b"h\x01")) for place in range(100)}
        write_zip(path, arrays, {})
        refused(read_state_dict, path, "its arrays have more bytes than are in it")

    @pytest.mark.parametrize("size", [2**45, 2**62])
    def test_empty_arrays_of_impossible_shapes(self, tmp_path, size):
        """NumPy makes some, and refuses others, though there is nothing in them."""
        path = tmp_path / "weights.pt"
        array = call(BUFFER, Raw(b"C\x00"), FLOAT, (0, size), "C")
        for empty in (array, tensor(storage("0", count=0), 0, (0, size), (1, 1))):
            write_zip(path, {"x": empty}, {"0": b""})
            if size < 2**61:
                assert read_state_dict(path)["x"].shape == (0, size)
                continue
            with pytest.raises(DataError, match="tensor 'x': its elements cannot be read"):
                read_state_dict(path)

    # A tuple of itself twice, and so on: 2**60 tuples to hash, in 250 bytes.
    DEEP = b"))\x86" + b"q\x01h\x01\x86" * 60

    @pytest.mark.parametrize(
        "opcodes",
        [
            b"}" + DEEP + b"K\x01s",
            b"}(" + DEEP + b"K\x01u",
            b"(" + DEEP + b"K\x01d",
            b"}(K\x01" + DEEP + b"s",  # as a value: no dictionary for the key 1 to go to
            b"\x8f(" + DEEP + b"\x90",
            b"(" + DEEP + b"\x91",
            glob("builtins", "set").opcodes + b"](" + DEEP + b"e\x85R",
            glob("collections", "OrderedDict").opcodes + b"](" + DEEP + b"K\x01\x86e\x85R",
            glob("collections", "Counter").opcodes + b"](" + DEEP + b"K\x01\x86e\x85R",
        ],
        ids=["setitem", "setitems", "dict", "stack", "additems", "frozenset", "set"]
        + ["ordered", "counter"],
    )
    def test_keys_that_take_years_to_hash(self, tmp_path, refused, opcodes):
        path = tmp_path / "weights.pt"
        write_pickle(path, opcodes)
        refused(read_state_dict, path, "holds more than tensors|is damaged|no state dict")

    def test_simple_keys_and_sets_are_read(self, tmp_path):
        path = tmp_path / "weights.pt"
        where = storage("0", count=12)
        contents = {
            "w": tensor(where, 0, (12,), (1,)),
            "by place": {(0, 1): 2, 3: None, 0.5: True, None: 1},
            "set": Raw(b"\x8f(" + value("a") + value((1, 2)) + b"\x90"),
            "frozen": Raw(b"(" + value("a") + b"\x91"),
            "pairs": call(glob("collections", "OrderedDict"), [("a", 1)]),
        }
        write_zip(path, contents, {"0": FLOATS.tobytes()})
        np.testing.assert_array_equal(read_state_dict(path)["w"], FLOATS)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "name",
        [
            *(("collections", "OrderedDict"), ("builtins", "set"), ("torch", "Size")),
            *(("lib", "Class"), ("_codecs", "encode")),
        ],
    )
    def test_the_same_given_again_and_again(self, tmp_path, refused, name):
        """Each call has six bytes, and would copy what has a megabyte."""
        path = tmp_path / "weights.pt"
        large = b"(" + b"K\x01K\x02\x86" * 10**5 + b"l\x85q\x01"
        function = glob(*name).opcodes + b"q\x02"
        write_pickle(path, b"]" + large + function + b"(" + b"h\x02h\x01R" * 10**5 + b"l0000.")
        refused(read_state_dict, path, "holds more than tensors: it copies what it holds over and")

    def test_a_name_of_a_megabyte(self, tmp_path, refused):
        path = tmp_path / "weights.pt"
        name = b"X" + struct.pack("<I", 10**6) + b"A" * 10**6 + b"q\x01"
        write_pickle(path, name + b"(" + b"h\x01h\x01\x93" * 10**4 + b"l")
        refused(read_state_dict, path, "holds more than tensors: it asks for 'AAA")

    def test_objects_by_the_million(self, tmp_path, refused):
        path = tmp_path / "weights.pt"
        write_pickle(path, b"}" * 2**23)
        refused(read_state_dict, path, "holds more than tensors: it takes more than 524,288 steps")


class TestArchives:
    def test_a_storage_that_unpacks_to_gigabytes(self, tmp_path, refused):
        path = tmp_path / "weights.pt"
        write_torch(path, {"a": FLOATS})
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data/more", bytes(1000))
            # As if it were a gigabyte of zeros, which would take seconds to pack.
            archive.getinfo("archive/data/more").file_size = 2**30
        refused(read_state_dict, path, r"would unpack to 1\.0 GiB")

    @pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_damage_inside_packed_records(self, tmp_path, kind):
        path = tmp_path / "weights.pt"
        write_torch(path, {"a": np.arange(2000, dtype=np.float32)})
        with zipfile.ZipFile(path) as source:
            entries = {name: source.read(name) for name in source.namelist()}
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        whole = path.read_bytes()
        np.testing.assert_array_equal(read_state_dict(path)["a"], np.arange(2000))
        rng = np.random.default_rng(0)
        for place in rng.choice(len(whole), 60, replace=False):
            changed = bytearray(whole)
            changed[place : place + 4] = rng.bytes(4)
            path.write_bytes(changed)
            try:
                read_state_dict(path)
            except DataError as error:
                assert "\n" not in str(error)

    @pytest.mark.parametrize("kind", [1, 6, 9, 12, 14, 93, 99])
    def test_kinds_of_packing_that_are_not_there(self, tmp_path, refused, kind):
        path = tmp_path / "weights.pt"
        write_torch(path, {"a": FLOATS})
        data = bytearray(path.read_bytes())
        for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
            place = data.find(signature)
            while place >= 0:
                data[place + offset : place + offset + 2] = struct.pack("<H", kind)
                place = data.find(signature, place + 1)
        path.write_bytes(data)
        refused(read_state_dict, path, "is damaged|cut short or damaged")


def test_a_tensor_that_is_spread_over_terabytes(tmp_path, refused):
    path = tmp_path / "weights.pt"
    contents = {"x": tensor(storage("0", "HalfStorage", 1), 0, (2**20, 2**20), (0, 0))}
    write_zip(path, contents, {"0": bytes(2)})
    refused(read_state_dict, path, r"tensor 'x'.*far larger than its storage")
    # As `torch.zeros(1).expand(8, 16)` is saved.
    contents = {"x": tensor(storage("0", count=1), 0, (8, 16), (0, 0))}
    write_zip(path, contents, {"0": bytes(4)})
    assert read_state_dict(path)["x"].shape == (8, 16)


def test_a_library_that_quotes_the_file(tmp_path, refused):
    """What zipfile says when names disagree has the whole of what it found instead."""
    path = tmp_path / "weights.pt"
    write_torch(path, {"a": FLOATS})
    data = bytearray(path.read_bytes())
    data[26:28] = struct.pack("<H", 3000)  # length of the first name
    data[30:30] = bytes(range(65, 91)) * 120
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_state_dict(path)
    assert len(str(caught.value)) < 600


class TestConfigurations:
    def config(self, tmp_path, form, **changes):
        (tmp_path / "config.json").write_text(json.dumps({**form, **changes}))
        return tmp_path

    def test_class_names_for_more_classes_than_there_are_atoms(self, tmp_path):
        """Found by the fuzz: a list of all the indices was made first."""
        form = to_native(tiny_model(3), ["a", "b", "c"])
        form["model"]["num_classes"] = 10**30
        start = time.process_time()
        with pytest.raises(DataError, match="id2label must have one name for each index"):
            read_config(self.config(tmp_path, form))
        assert time.process_time() - start < 30

    @pytest.mark.parametrize(
        ("field", "number"), [("depths", [10**9] * 3), ("channels", [2**40] * 6), ("heads", 2**70)]
    )
    def test_models_of_any_size(self, tmp_path, field, number):
        form = to_native(tiny_model(3))
        form["model"]["variant"][field] = number
        with pytest.raises(DataError, match=f"{field} must be from 1 to"):
            read_config(self.config(tmp_path, form))

    def test_a_value_of_a_thousand_lines(self, tmp_path):
        form = to_huggingface(create_model("mobilevit_xxs", num_classes=3))
        path = self.config(tmp_path, form, hidden_sizes=list(range(100_000)))
        with pytest.raises(
            DataError, match=r"hidden_sizes must be a list of 3.* \.\.\.$"
        ) as caught:
            read_config(path)
        assert len(str(caught.value)) < 1000

    @pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, '"\\ud800'])
    def test_json_that_python_cannot_read(self, tmp_path, text):
        for name, read in (("config.json", read_config), ("p.json", ImageProcessor.load)):
            (tmp_path / name).write_text(text)
            with pytest.raises(DataError, match="not valid JSON"):
                read(tmp_path if name == "config.json" else tmp_path / name)

    def test_a_processor_of_a_thousand_lines(self, tmp_path):
        (tmp_path / "p.json").write_text(json.dumps({"crop_size": list(range(100_000))}))
        with pytest.raises(ConfigurationError, match=r"p\.json: crop_size must") as caught:
            ImageProcessor.load(tmp_path / "p.json")
        assert len(str(caught.value)) < 1000
