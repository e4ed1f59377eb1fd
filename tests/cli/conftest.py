"""What the tests of the commands share: the command line as a function, a run, data sets."""

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from mobilevit_jax.cli.main import main
from mobilevit_jax.data.builders import image_folder
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.models.backbones import resnet
from mobilevit_jax.models.config import ModelConfig
from tests.small import SMALL_RESNET, build_small_net

QUICKSTART = str(Path(__file__).parents[2] / "experiments" / "quickstart.py")
TINY = [
    *("--tiny", "--sampler.sizes", "32"),
    *("--processor.size", "32", "--processor.crop-size", "32", "32"),
]


class Ran(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


def run(*arguments: object) -> Ran:
    """Runs `mobilevit ARGUMENTS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as usage:  # tyro's own errors
            assert isinstance(usage.code, int)
            status = usage.code
    return Ran(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def mobilevit() -> Callable[..., Ran]:
    """The command line, as a function."""
    return run


@pytest.fixture(scope="session")
def train_tiny() -> Callable[..., Ran]:
    """`mobilevit train experiments/quickstart.py` of one size, shrunk: `f(directory, options)`."""

    def train(directory: Path, options: Sequence[object] = ()) -> Ran:
        return run("train", QUICKSTART, *TINY, "--workdir", directory, *options)

    return train


@pytest.fixture(scope="session")
def quickstart() -> str:
    """The path of the experiment file."""
    return QUICKSTART


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """The options that shrink it to one small size."""
    return TINY


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Where the tests of a session keep data sets."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def _surroundings(data_dir, tmp_path, monkeypatch):
    """Keeps what the commands write out of the home and the source directory.

    A network that compiles in a second takes the place of MobileViT;
    `tests/test_pipeline_without_tensorflow.py` runs the same commands with the real one.
    """
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ModelConfig, "build", build_small_net)


_BUILD = ModelConfig.build


@pytest.fixture
def real_model(_surroundings, monkeypatch):
    """MobileViT itself, for what goes wrong before it is compiled."""
    monkeypatch.setattr(ModelConfig, "build", _BUILD)


@pytest.fixture
def small_detector(real_model, monkeypatch):
    """The name of an SSDLite that the registry builds on four blocks: the head is most of it."""
    monkeypatch.setitem(resnet.VARIANTS, "resnet18", SMALL_RESNET)
    return "ssdlite_resnet18"


class Trained(NamedTuple):
    """A finished run."""

    directory: Path
    ran: Ran


@pytest.fixture(scope="session")
def trained(data_dir, tmp_path_factory, train_tiny) -> Trained:
    """A finished run that the tests share: read it, and leave it as it is."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(data_dir))
        patch.setattr(ModelConfig, "build", build_small_net)
        return Trained(directory, train_tiny(directory))


@pytest.fixture(scope="session")
def test_images(data_dir, tmp_path_factory) -> list[Path]:
    """The first six images of the test split of `shapes/tiny`, as files."""
    prepare("shapes/tiny", data_dir=data_dir)
    split = open_split("shapes/tiny", "test", data_dir)
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for index, record in enumerate(split.records(range(6))):
        paths.append(folder / f"{index}.png")
        paths[-1].write_bytes(record["image"])
    return paths


@pytest.fixture(scope="session")
def broken(data_dir, tmp_path_factory) -> str:
    """A prepared image folder with a bad record in each split; returns its name.

    `prepare` would not store it, so it is kept from looking.
    """
    rng = np.random.default_rng(0)
    source = tmp_path_factory.mktemp("source")
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = source / split / name
            folder.mkdir(parents=True)
            for index in range(4):
                pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
                cv2.imwrite(str(folder / f"{index}.jpg"), pixels)
        bad = source / split / "cat" / "3.jpg"
        bad.write_bytes(bad.read_bytes()[:300])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_folder, "decode_image", lambda data, name: None)
        prepare("image_folder", data_dir=data_dir, source=source, name="broken")
    return "broken"
