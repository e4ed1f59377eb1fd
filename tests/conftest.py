"""Settings of the whole test suite: four fake CPU devices, a compilation cache, no display."""

import gc
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

# These must be in the environment before the first import of jax or matplotlib, of this process
# and of those that tests start.
DEVICES = 4
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={DEVICES}"]
).strip()
os.environ["MPLBACKEND"] = "Agg"


def _compilation_cache() -> Path:
    """Returns a directory of our own: JAX trips over entries made without a limit (below)."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or home / "mobilevit_jax")
    # A worker of pytest-xdist inherits what its parent has set.
    cache = base if base.name == "tests" else base / "tests"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = Path(tempfile.gettempdir()) / f"mobilevit_jax-{os.getuid()}" / "tests"
        cache.mkdir(parents=True, exist_ok=True)
    return cache


os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_compilation_cache())
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
# With a limit JAX locks the cache; without one, a test process may read what another has half
# written.
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2 * 1024**3)

# Hypothesis keeps tables of its own even without a database of examples.
os.environ.setdefault(
    "HYPOTHESIS_STORAGE_DIRECTORY", str(_compilation_cache().parent / "hypothesis")
)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Times as many examples, drawn anew each time, where it is set: MOBILEVIT_FUZZ=50 pytest ...
FUZZ = int(os.environ.get("MOBILEVIT_FUZZ", "1"))
hypothesis.settings.register_profile(
    "mobilevit", deadline=None, database=None, derandomize=FUZZ == 1, max_examples=100 * FUZZ
)
hypothesis.settings.load_profile("mobilevit")


# Linux allows a process 65,530 mappings; a training step of MobileViT-S takes thousands, and XLA
# crashes where there are no more.
_MOST_MAPPINGS = 20_000


@pytest.fixture(autouse=True)
def few_mappings():
    """Forgets compiled programs, before there are too many of them in one process."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


# Rooms whose tests look closely at numbers and programs, and so have what users run.
_OPTIMIZED = ("analysis", "models", "ops", "parity", "training")
_DISABLE = "jax_disable_most_optimizations"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Has XLA leave LLVM's costly passes out, where programs run a few times and cost minutes.

    The program that LLVM is given is the same. It holds for a test's fixtures and processes too.
    Where the environment says how all are compiled, it is left at that.
    """
    room = item.path.relative_to(Path(__file__).parent).parts[0]
    optimized = room in _OPTIMIZED and not item.get_closest_marker("unoptimized")
    if optimized or _DISABLE.upper() in os.environ:
        return (yield)
    os.environ[_DISABLE.upper()] = "1"
    jax.config.update(_DISABLE, True)
    try:
        return (yield)
    finally:
        del os.environ[_DISABLE.upper()]
        jax.config.update(_DISABLE, False)


@pytest.fixture
def small_networks(monkeypatch) -> None:
    """Has each name of the registry build a network of few, narrow blocks of its family."""
    from mobilevit_jax.models.registry import families
    from tests.small import SMALL

    for name, family in families().items():
        for variant in family.variants:
            monkeypatch.setitem(family.variants, variant, SMALL[name])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of real data sets that the environment names; skips where there is none."""
    place = os.environ.get("MOBILEVIT_SHARED_DATA")
    if not place:
        pytest.skip("needs real images: set MOBILEVIT_SHARED_DATA to the directory that has them")
    directory = Path(place).resolve()
    if not directory.is_dir():
        pytest.fail(f"MOBILEVIT_SHARED_DATA={place} is not a directory")
    return directory
