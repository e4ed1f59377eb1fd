"""The notebooks of colab/: each runs to its end in its tiny form, and is what its .py says."""

import os
import re
import sys
import tomllib
from pathlib import Path

import jupytext
import nbclient
import nbformat
import numpy as np
import pytest
from nbclient.exceptions import CellExecutionError
from PIL import Image

from mobilevit_jax.models import create_model
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained
from tests.convert.test_hub import COMMIT
from tests.small import random_variables

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
# Runs the kernel in an environment without a network, and without what this machine has stored.
OFFLINE = {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


def read(path):
    return nbformat.read(path, as_version=4)


def set_parameter(notebook, name, value):
    """Sets what a form field of Colab would."""
    pattern = re.compile(rf"^{name} = (.*?)(  # @param)", re.M)
    changed = 0
    for cell in notebook.cells:
        cell.source, times = pattern.subn(rf"{name} = {value!r}\2", cell.source)
        changed += times
    assert changed == 1, f"{changed} fields {name}"


def execute(notebook, directory, monkeypatch, **environment):
    """Runs a notebook beside the checkout's experiments; returns what it printed, and its pictures.

    A kernel sends what is printed whenever it comes to it: one sentence may arrive in two outputs.
    """
    (directory / "experiments").symlink_to(ROOT / "experiments")
    homes = {"HF_HOME": "hf", "TFDS_DATA_DIR": "data", "IPYTHONDIR": "ipython"}
    places = {name: str(directory / place) for name, place in homes.items()}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    for name, value in {**OFFLINE, **places, **path, **environment}.items():
        monkeypatch.setenv(name, value)
    client = nbclient.NotebookClient(
        notebook, timeout=500, resources={"metadata": {"path": str(directory)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output["text"] for output in outputs if output.output_type == "stream")
    return printed, [output for output in outputs if "image/png" in output.get("data", {})]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pictures", "origin"),
    [
        ("1_look_inside", 3, "The weights were trained here, on drawn shapes"),
        ("2_fine_tune", 2, "The weights to start from were trained here, on drawn shapes"),
        ("3_multi_scale_and_ablations", 3, "The study was on drawn shapes, in its tiny form"),
        ("4_detect_and_segment", 3, "The segmentation weights were trained here, on drawn scenes"),
    ],
)
def test_runs_on_a_cpu_without_a_network(name, pictures, origin, tmp_path, monkeypatch):
    notebook = read(ROOT / "colab" / f"{name}.ipynb")
    set_parameter(notebook, "TINY", True)
    if name == "3_multi_scale_and_ablations":
        set_parameter(notebook, "ROWS", "standard_sampler")  # one step to compile, not five
    printed, images = execute(notebook, tmp_path, monkeypatch)
    assert origin in printed
    assert len(images) == pictures
    assert "Traceback" not in printed and "Warning" not in printed


@pytest.mark.slow
def test_takes_the_hubs_weights_where_they_are(tmp_path, monkeypatch):
    snapshot = tmp_path / "hf/hub/models--apple--mobilevit-small/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    reference = snapshot.parents[1] / "refs/main"
    reference.parent.mkdir()
    reference.write_text(COMMIT)
    model = create_model("mobilevit_xxs", num_classes=7)
    save_pretrained(snapshot, model, random_variables(model), ImageProcessor())
    notebook = read(ROOT / "colab" / "1_look_inside.ipynb")
    set_parameter(notebook, "IMAGE", str(make_photograph(tmp_path)))
    printed, images = execute(notebook, tmp_path, monkeypatch)
    assert "The weights were downloaded: apple/mobilevit-small" in printed
    assert len(images) == 3
    assert not (tmp_path / "runs").exists()


def make_photograph(directory):
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    Image.fromarray(pixels).save(directory / "photograph.png")
    return directory / "photograph.png"


def test_a_command_that_fails_stops_the_notebook(tmp_path, monkeypatch):
    lines = ["%load_ext mobilevit_jax.cli.notebook", "%mobilevit train nowhere.py", "print('on')"]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, lines)))
    with pytest.raises(CellExecutionError):
        execute(notebook, tmp_path, monkeypatch)
    shown = "".join(output.get("text", "") for output in notebook.cells[1].outputs)
    assert "no experiment file nowhere.py" in shown
    assert "%mobilevit train ended with status 2" in shown
    assert not notebook.cells[2].outputs


def test_what_is_printed_in_parts_is_read_as_one(tmp_path, monkeypatch):
    lines = "print('in two', end='', flush=True)\nprint(' parts')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(lines)])
    printed, _ = execute(notebook, tmp_path, monkeypatch)
    assert len(notebook.cells[0].outputs) == 2
    assert printed == "in two parts\n"


def test_every_notebook_is_known():
    assert NAMES == [
        "1_look_inside",
        "2_fine_tune",
        "3_multi_scale_and_ablations",
        "4_detect_and_segment",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_is_what_its_script_says(path):
    script = jupytext.read(path.with_suffix(".py"))
    notebook = read(path)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ], f"run: jupytext --sync {path.relative_to(ROOT)}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_holds_no_output(path):
    for cell in read(path).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_opens_in_colab_from_the_projects_address(path):
    owner = REPOSITORY.removeprefix("https://github.com/")
    first, install = read(path).cells[:2]
    assert f"https://colab.research.google.com/github/{owner}/blob/main/colab/{path.name}" in (
        first.source
    )
    assert f'REPOSITORY = "{REPOSITORY}"' in install.source


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=NAMES[1:])
def test_all_install_alike(path):
    assert read(path).cells[1].source == read(NOTEBOOKS[0]).cells[1].source


def test_runs_with_this_interpreter():
    from jupyter_client.kernelspec import get_kernel_spec

    assert get_kernel_spec("python3").argv[0] in ("python", sys.executable)
