"""What saving writes, and what it leaves behind when it cannot."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import mobilevit_jax
from mobilevit_jax import saving
from mobilevit_jax.convert import to_state_dict
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import create_model
from mobilevit_jax.pretrained import load_weights
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained, save_weights
from tests.small import random_variables, tiny_model

NAMES = tuple("abcdefg")
BGR = ImageProcessor(size=100, crop_size=(96, 96), resample="pillow_bicubic")
RGB = dataclasses.replace(BGR, do_flip_channel_order=False)
FILES = ["config.json", "model.safetensors", "preprocessor_config.json"]
STEMS = {
    "huggingface": "mobilevit.conv_stem.convolution.weight",
    "cvnets": "conv_1.block.conv.weight",
    "timm": "stem.conv.weight",
    "native": "params/backbone/conv_1/conv/kernel",
}


@pytest.fixture(scope="module")
def model():
    return create_model("mobilevit_xxs", num_classes=7)


@pytest.fixture(scope="module")
def variables(model):
    return random_variables(model)


def kernel_of(variables) -> np.ndarray:
    return variables["params"]["backbone"]["conv_1"]["conv"]["kernel"]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*")}


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


class TestDirectories:
    @pytest.mark.parametrize("layout", ["huggingface", "native"])
    @pytest.mark.parametrize("processor", [BGR, RGB, ImageProcessor()], ids=["bgr", "rgb", "plain"])
    def test_there_and_back_is_exact(self, layout, processor, model, variables, tmp_path):
        directory = tmp_path / "a" / "b"
        save_pretrained(directory, model, variables, processor, class_names=NAMES, layout=layout)
        assert sorted(os.listdir(directory)) == FILES
        loaded = load_weights(directory)
        assert (loaded.model, loaded.class_names, loaded.processor) == (model, NAMES, processor)
        assert_equal(loaded.variables, variables)

    def test_the_public_name(self, model, variables, tmp_path):
        mobilevit_jax.save_pretrained(tmp_path, model, variables, BGR)
        found = mobilevit_jax.from_pretrained(tmp_path)
        assert found[0] == model and found[2] == BGR
        assert_equal(found[1], variables)

    @pytest.mark.parametrize("processor", [BGR, RGB], ids=["bgr", "rgb"])
    def test_timm_reads_rgb(self, processor, model, variables, tmp_path):
        save_pretrained(tmp_path, model, variables, processor, class_names=NAMES, layout="timm")
        assert sorted(os.listdir(tmp_path)) == FILES[:2]
        loaded = load_weights(tmp_path)
        assert (loaded.model, loaded.class_names, loaded.processor) == (model, NAMES, RGB)
        reverse = slice(None, None, -1 if processor is BGR else 1)
        np.testing.assert_array_equal(
            kernel_of(loaded.variables), kernel_of(variables)[:, :, reverse]
        )
        rest = jax.tree.map(np.copy, loaded.variables)
        rest["params"]["backbone"]["conv_1"]["conv"]["kernel"] = kernel_of(variables)
        assert_equal(rest, variables)

    def test_only_native_holds_a_letterbox(self, model, variables, tmp_path):
        processor = dataclasses.replace(RGB, do_pad=True, size=64, crop_size=64, pad_value=0)
        refused: dict[Any, str] = {"huggingface": "does not pad images", "timm": r"do_pad=True"}
        for layout, message in refused.items():
            with pytest.raises(ConfigurationError, match=message):
                save_pretrained(tmp_path / "new", model, variables, processor, layout=layout)
        assert os.listdir(tmp_path) == []
        save_pretrained(tmp_path / "new", model, variables, processor, layout="native")
        assert load_weights(tmp_path / "new").processor == processor

    def test_native_holds_what_others_cannot(self, tmp_path):
        model = tiny_model(7, patch_sizes=(8, 4, 2), fusion=False)
        variables = random_variables(model)
        for layout in ("huggingface", "timm"):
            with pytest.raises(ConfigurationError, match="fusion=.*patch_sizes=|patch.*fusion="):
                save_pretrained(tmp_path / "new", model, variables, BGR, layout=layout)
        assert os.listdir(tmp_path) == []
        save_pretrained(tmp_path / "new", model, variables, BGR, layout="native")
        loaded = load_weights(tmp_path / "new")
        assert loaded.model == model
        assert_equal(loaded.variables, variables)

    def test_features_alone(self, tmp_path):
        model = create_model("mobilevit_xxs", num_classes=0)
        for layout in ("huggingface", "native", "timm"):
            save_pretrained(tmp_path, model, random_variables(model), BGR, layout=layout)
            loaded = load_weights(tmp_path)
            assert loaded.model == model and loaded.class_names == ()

    def test_any_floating_point_becomes_float32(self, model, variables, tmp_path):
        half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), variables)
        save_pretrained(tmp_path, model, half, BGR)
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), half)
        assert_equal(load_weights(tmp_path).variables, wide)

    def test_other_collections_are_left_out(self, model, variables, tmp_path):
        save_pretrained(tmp_path, model, {**variables, "intermediates": {"x": 1}}, BGR)
        assert_equal(load_weights(tmp_path).variables, variables)

    def test_the_size_that_images_have(self, model, variables, tmp_path):
        for processor, expected in (
            (BGR, 96),
            (ImageProcessor(crop_size=(320, 256)), [320, 256]),
            (ImageProcessor(size=200, do_center_crop=False), 200),
        ):
            save_pretrained(tmp_path, model, variables, processor)
            config = json.loads((tmp_path / "config.json").read_text())
            assert config["image_size"] == expected


class TestExistingDirectories:
    def test_other_files_stay(self, model, variables, tmp_path):
        (tmp_path / "README.md").write_text("mine")
        (tmp_path / "model.safetensors").write_text("old")
        save_pretrained(tmp_path, model, variables, BGR)
        save_pretrained(tmp_path, model, random_variables(model, 1), RGB)
        assert sorted(os.listdir(tmp_path)) == ["README.md", *FILES]
        assert (tmp_path / "README.md").read_text() == "mine"
        loaded = load_weights(tmp_path)
        assert loaded.processor == RGB
        assert_equal(loaded.variables, random_variables(model, 1))

    def test_a_processor_that_timm_would_contradict_goes(self, model, variables, tmp_path):
        save_pretrained(tmp_path, model, variables, BGR)
        save_pretrained(tmp_path, model, variables, BGR, layout="timm")
        assert sorted(os.listdir(tmp_path)) == FILES[:2]

    def test_a_link_is_replaced_and_not_followed(self, model, variables, tmp_path):
        """Files of the hub's cache are links, which many directories share."""
        shared = tmp_path / "shared"
        shared.write_text("shared")
        directory = tmp_path / "snapshot"
        directory.mkdir()
        (directory / "model.safetensors").symlink_to(shared)
        save_pretrained(directory, model, variables, BGR)
        assert shared.read_text() == "shared"
        assert_equal(load_weights(directory).variables, variables)

    def test_what_a_killed_save_left_is_removed_in_time(self, model, variables, tmp_path):
        old, new = tmp_path / ".unfinished-old", tmp_path / ".unfinished-new"
        for path in (old, new):
            path.mkdir()
            (path / "model.safetensors").write_text("part")
        os.utime(old, (0, 0))
        save_pretrained(tmp_path, model, variables, BGR)
        assert sorted(os.listdir(tmp_path)) == [".unfinished-new", *FILES]


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"class_names": ("a", "b")}, "2 class names .* a model of 7 classes"),
            ({"layout": "keras"}, "unknown layout of a directory 'keras'; known: huggingface"),
            ({"layout": "cvnets"}, "'cvnets'.*CVNets has files only, see save_weights"),
        ],
    )
    def test_arguments(self, options, message, model, variables, tmp_path):
        with pytest.raises(ConfigurationError, match=message):
            save_pretrained(tmp_path / "new", model, variables, BGR, **options)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("layout", ["huggingface", "native", "timm"])
    def test_a_work_directory(self, layout, model, variables, tmp_path):
        (tmp_path / "experiment.json").write_text("{}")
        before = contents(tmp_path)
        with pytest.raises(ConfigurationError, match="is a work directory.*choose another"):
            save_pretrained(tmp_path, model, variables, BGR, layout=layout)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("layout", ["huggingface", "native", "timm"])
    def test_numbers_that_could_not_be_read_again(self, layout, model, tmp_path):
        broken = random_variables(model)
        broken["params"]["classifier"]["bias"][3] = np.nan
        with pytest.raises(DataError, match="NaN or infinite values in params/classifier/bias;"):
            save_pretrained(tmp_path / "new", model, broken, BGR, layout=layout)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("layout", ["huggingface", "native", "timm"])
    def test_variables_of_another_model(self, layout, model, tmp_path):
        save_pretrained(tmp_path, model, random_variables(model), BGR)
        before = contents(tmp_path)
        ten = random_variables(create_model("mobilevit_xxs", num_classes=10))
        with pytest.raises(DataError, match="params/classifier/kernel"):
            save_pretrained(tmp_path, model, ten, BGR, layout=layout)
        with pytest.raises(DataError, match="missing.*batch_stats/"):
            save_pretrained(tmp_path, model, {"params": ten["params"]}, BGR, layout=layout)
        assert contents(tmp_path) == before

    def test_a_processor_beyond_timm(self, model, variables, tmp_path):
        whole = dataclasses.replace(BGR, do_center_crop=False)
        with pytest.raises(ConfigurationError, match="timm.*do_center_crop=False"):
            save_pretrained(tmp_path / "new", model, variables, whole, layout="timm")
        assert os.listdir(tmp_path) == []


def fail_at(call: int, monkeypatch) -> None:
    """Lets the disk be full when the file of that number is brought to it."""
    calls = []
    fsync = os.fsync

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)


KILLED = """
import os, signal, sys
from mobilevit_jax.models import create_model
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained
from tests.small import random_variables

calls, fsync = [], os.fsync
def kill(handle):
    calls.append(handle)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(handle)
os.fsync = kill
model = create_model("mobilevit_xxs", num_classes=9)
save_pretrained(sys.argv[1], model, random_variables(model, 1), ImageProcessor())
"""


class TestInterrupted:
    @pytest.mark.parametrize("call", [1, 2, 3])
    def test_a_full_disk_leaves_the_old_files(self, call, model, variables, tmp_path, monkeypatch):
        save_pretrained(tmp_path, model, variables, BGR, class_names=NAMES)
        before = contents(tmp_path)
        fail_at(call, monkeypatch)
        with pytest.raises(OSError, match="No space left") as caught:
            save_pretrained(tmp_path, model, random_variables(model, 1), RGB)
        assert str(tmp_path) in str(caught.value.filename)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("call", [1, 3])
    def test_a_full_disk_leaves_no_new_directory(
        self, call, model, variables, tmp_path, monkeypatch
    ):
        fail_at(call, monkeypatch)
        with pytest.raises(OSError, match="No space left"):
            save_pretrained(tmp_path / "a" / "b", model, variables, BGR)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("call", [1, 3])
    def test_a_killed_save_leaves_the_old_files(self, call, model, variables, tmp_path):
        save_pretrained(tmp_path, model, variables, BGR, class_names=NAMES)
        before = contents(tmp_path)
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(call)],
            cwd=Path(__file__).parents[1],
            timeout=120,
        )
        assert killed.returncode == -signal.SIGKILL
        after = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
        assert after == set(FILES)
        assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
        assert_equal(load_weights(tmp_path).variables, variables)

    @pytest.mark.parametrize("refused", FILES)
    @pytest.mark.parametrize("leaving", [True, False], ids=["old file", "new file"])
    def test_a_place_that_cannot_be_taken(
        self, refused, leaving, model, variables, tmp_path, monkeypatch
    ):
        save_pretrained(tmp_path, model, variables, BGR, class_names=NAMES)
        before, replace = contents(tmp_path), os.replace

        def failing(source, target) -> None:
            stays = (Path(source) if leaving else Path(target)) == tmp_path / refused
            if stays and Path(source).parent.name != "before":
                raise OSError(errno.EACCES, "Permission denied", str(target))
            replace(source, target)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="Permission denied"):
            save_pretrained(tmp_path, model, random_variables(model, 1), RGB)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("name", FILES)
    def test_a_directory_in_the_place_of_a_file_stays(self, name, model, variables, tmp_path):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
        before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
        with pytest.raises(IsADirectoryError):
            save_pretrained(tmp_path, model, variables, BGR)
        assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before

    def test_a_kill_among_the_renames_mixes_nothing(self, model, variables, tmp_path, monkeypatch):
        directory, other, replace = tmp_path / "model", random_variables(model, 1), os.replace
        save_pretrained(directory, model, variables, BGR, class_names=NAMES)
        left = []

        def replacing(source, target) -> None:
            replace(source, target)
            if directory in (Path(source).parent, Path(target).parent):
                left.append(tmp_path / f"killed {len(left)}")
                shutil.copytree(directory, left[-1])

        monkeypatch.setattr(os, "replace", replacing)
        save_pretrained(directory, model, other, RGB)
        for place in left[:-1]:
            with pytest.raises(DataError, match="has neither .* nor config.json"):
                load_weights(place)
        loaded = load_weights(left[-1])
        assert (loaded.processor, loaded.class_names) == (RGB, load_weights(directory).class_names)
        assert_equal(loaded.variables, other)
        assert len(left) == 2 * len(FILES)

    def test_a_place_in_a_new_directory_that_cannot_be_taken(
        self, model, variables, tmp_path, monkeypatch
    ):
        replace = os.replace

        def failing(source, target) -> None:
            if Path(target).name == "config.json":
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="No space left"):
            save_pretrained(tmp_path / "new", model, variables, BGR)
        assert os.listdir(tmp_path) == []


class TestFiles:
    @pytest.mark.parametrize("layout", STEMS)
    @pytest.mark.parametrize("processor", [BGR, RGB], ids=["bgr", "rgb"])
    def test_channels_follow_the_layout(self, layout, processor, model, variables, tmp_path):
        path = tmp_path / "weights.safetensors"
        save_weights(path, model, variables, processor, layout=layout)
        found, expected = load_file(path), kernel_of(variables)
        if layout != "native":
            plain = to_state_dict(model, variables, layout)
            assert found.keys() == plain.keys()
            expected = plain.pop(STEMS[layout])
            for name, tensor in plain.items():
                np.testing.assert_array_equal(found[name], tensor)
        order = {"timm": "rgb", "native": processor.channel_order}.get(layout, "bgr")
        if order != processor.channel_order:
            expected = np.flip(expected, 2 if layout == "native" else 1)
        np.testing.assert_array_equal(found[STEMS[layout]], expected)

    @pytest.mark.parametrize("layout", ["huggingface", "cvnets", "timm"])
    def test_a_file_is_read_as_it_was_meant(self, layout, model, variables, tmp_path):
        """Without a configuration, the layout tells the order of the channels."""
        path = tmp_path / "weights.safetensors"
        save_weights(path, model, variables, RGB, layout=layout)
        loaded = load_weights(path)
        flipped = loaded.processor.do_flip_channel_order
        kernel = kernel_of(loaded.variables)[:, :, :: -1 if flipped else 1]
        np.testing.assert_array_equal(kernel, kernel_of(variables))
        assert flipped == (layout != "timm")

    def test_models_that_the_readers_cannot_have(self, tmp_path):
        model = create_model("mobilevit_xxs", num_classes=7, patch_sizes=(8, 4, 2))
        variables, path = random_variables(model), tmp_path / "w.safetensors"
        for layout in ("huggingface", "timm"):
            with pytest.raises(
                ConfigurationError, match=r"cannot express.*patch_sizes=\(8, 4, 2\)"
            ):
                save_weights(path, model, variables, BGR, layout=layout)
        strided = create_model("mobilevit_xxs", num_classes=7, output_stride=16)
        with pytest.raises(ConfigurationError, match="timm.*output_stride=16"):
            save_weights(path, strided, random_variables(strided), BGR, layout="timm")
        assert os.listdir(tmp_path) == []
        save_weights(path, model, variables, BGR, layout="cvnets")
        assert load_file(path).keys() == to_state_dict(model, variables, "cvnets").keys()

    def test_refused(self, model, variables, tmp_path):
        with pytest.raises(ConfigurationError, match="unknown layout 'keras'"):
            save_weights(tmp_path / "w.safetensors", model, variables, BGR, layout="keras")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="ends in none of"):
            save_weights(tmp_path / "w.npz", model, variables, BGR)
        assert os.listdir(tmp_path) == []


def test_staging_is_inside_so_that_renaming_never_copies(model, variables, tmp_path, monkeypatch):
    moves = []
    replace = os.replace
    monkeypatch.setattr(saving.os, "replace", lambda a, b: moves.append((a, b)) or replace(a, b))
    save_pretrained(tmp_path, model, variables, BGR)
    names = [Path(target).name for _, target in moves if Path(target).parent == tmp_path]
    assert names == ["model.safetensors", "preprocessor_config.json", "config.json"]
    assert all(Path(source).parent.parent == tmp_path for source, _ in moves[-3:])
