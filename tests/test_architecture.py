"""One direction: every import points down the list of rooms, and no files import in a circle."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From the ground up. Files directly in the package are rooms of their own, but for the ground's.
ROOMS = (
    *("ground", "ops", "data", "processing", "models", "convert", "saving", "training", "tasks"),
    *("run_weights", "pretrained", "fine_tuning", "predictors", "analysis", "config", "study"),
    *("studies", "cli"),
)
GROUND = {"_version", "allocator", "base", "errors", "resizing"}


def imports() -> dict[str, set[str]]:
    """Returns {module: modules of the package that it imports, wherever in the file}."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "mobilevit_jax").rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        named = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        # Of "from a import b", the module a.b if there is one, else a.
        named = {name for name in named if name in files}
        found[module] = {n for n in named if not any(o.startswith(f"{n}.") for o in named)}
    return found


def room(module: str) -> str:
    """Returns the room that a module is in."""
    name = module.split(".")[1]
    return "ground" if name in GROUND else name


def test_every_import_points_down():
    # The package itself only names where its public names are.
    upwards = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if "." in module
        and module != "mobilevit_jax.__main__"
        and (other == "mobilevit_jax" or ROOMS.index(room(module)) < ROOMS.index(room(other)))
    ]
    assert not upwards


def test_no_circles():
    graph = {m: others - {m} for m, others in imports().items() if "." in m}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_heads_and_backbones_are_named_by_the_registry_alone():
    """A new one is found by its file; only the names of other libraries' formats know them."""
    kinds = ("models.backbones.", "models.heads.")
    knowing = {
        module
        for module, others in imports().items()
        if any(kind in other for other in others for kind in kinds)
        and not module.startswith(("mobilevit_jax.models.backbones", "mobilevit_jax.models.heads"))
    }
    assert knowing == {
        "mobilevit_jax.models",
        "mobilevit_jax.analysis.receptive_field",  # the paper's Figure 3d is of one block
        "mobilevit_jax.convert.huggingface_config",
        "mobilevit_jax.convert.timm_config",
    }
