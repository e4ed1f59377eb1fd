"""The package as a whole: what it imports, its version, its public names."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mobilevit_jax

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "mobilevit_jax").rglob("*.py"))

# Modules that a machine with only jax, flax and optax lacks, or that are slow to import.
HEAVY = (
    "tensorflow",
    "tensorflow_datasets",
    "cv2",
    "PIL",
    "matplotlib",
    "orbax",
    "grain",
    "array_record",
    "tyro",
    "tensorboardX",
    "torch",
    "transformers",
)

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Block())
"""


def run_without_heavy_modules(code: str) -> subprocess.CompletedProcess[str]:
    script = BLOCK.format(heavy=HEAVY) + code
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=ROOT
    )


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_blocking_works():
    result = run_without_heavy_modules("import cv2.misc")
    assert result.returncode == 1
    assert "cv2 is blocked" in result.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import mobilevit_jax; print(mobilevit_jax.__version__)",
        "import mobilevit_jax.models as models; print(len(models.list_models()))",
        "import mobilevit_jax.cli.main as cli; print(cli.help_text())",
    ],
    ids=["package", "models", "command line"],
)
def test_imports_with_only_jax_flax_and_optax(code: str):
    result = run_without_heavy_modules(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_package_import_is_light():
    code = "import mobilevit_jax\nprint('jax' in sys.modules, 'flax' in sys.modules)"
    assert run_without_heavy_modules(code).stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", mobilevit_jax.__all__)
def test_public_name_is_there(name: str):
    code = f"import mobilevit_jax as mvj; assert {name!r} in dir(mvj); print(mvj.{name}.__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().rpartition(".")[2] == name


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'mobilevit_jax' has no attribute 'creat_model'"):
        mobilevit_jax.creat_model  # noqa: B018


def test_version_stands_in_one_place_and_the_others_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dynamic"] == ["version"]  # read from mobilevit_jax/_version.py at build time
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", mobilevit_jax.__version__)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {mobilevit_jax.__version__}\n" in citation
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{mobilevit_jax.__version__}]" in changes


def test_a_name_that_has_moved_stays_public():
    """For who checks types, an imported name is public only if it is imported "as" itself."""
    tree = ast.parse((ROOT / "mobilevit_jax" / "processing.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "Resample" in {alias.asname for node in imports for alias in node.names}


def test_types_are_announced():
    assert (ROOT / "mobilevit_jax" / "py.typed").exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_tensorflow(path: Path):
    assert not imported_names(path) & {"tensorflow", "tf", "keras", "clu"}
