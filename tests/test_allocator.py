import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")

_SCRIPT = """
import ctypes, resource
from mobilevit_jax.allocator import keep_freed_memory

print(keep_freed_memory())
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        block = library.malloc(64 << 20)
        ctypes.memset(block, 1, 64 << 20)
        library.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

# Larger than any threshold can be; only its first pages are touched.
faults = []
for turn in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = library.malloc(3 << 30)
    ctypes.memset(block, 1, 8 << 20)
    library.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[1])
"""


def _run(**variables: str) -> tuple[str, int, int]:
    names = ("GLIBC_TUNABLES", "MALLOC_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    answer = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    done, faults, more = answer.stdout.split()
    return done, int(faults), int(more)


def test_a_block_that_was_freed_costs_no_page_again():
    done, faults, faults_of_larger = _run()
    assert done == "True"
    assert faults < 100  # 16,384 pages are written to four times
    assert faults_of_larger < 100


def test_the_users_own_settings_stay():
    done, faults, faults_of_larger = _run(MALLOC_MMAP_THRESHOLD_="131072")
    assert done == "False"
    assert faults > 60_000 and faults_of_larger > 2000


_RETURNING = """
import ctypes, sys
from pathlib import Path
from mobilevit_jax.allocator import keep_freed_memory, return_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
block = library.malloc(256 << 20)
above = library.malloc(1000)
ctypes.memset(block, 1, 256 << 20)
library.free(block)

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024

print(resident())
return_freed_memory()
print(resident())
"""


@pytest.mark.parametrize("how", ["keep", "leave"])
def test_kept_memory_is_returned_on_request(how):
    names = ("GLIBC_TUNABLES", "MALLOC_")
    answer = subprocess.run(
        [sys.executable, "-c", _RETURNING, how],
        env={k: v for k, v in os.environ.items() if not k.startswith(names)},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, answer.stdout.split())
    assert after < 100
    assert (before > 256) == (how == "keep")


_STEPS = """
import resource, statistics, sys
from mobilevit_jax.allocator import keep_freed_memory, keep_memory_of_steps

print({"steps": keep_memory_of_steps, "freed": keep_freed_memory}[sys.argv[1]]())
import jax
import jax.numpy as jnp

print(jax.config.values["jax_cpu_enable_async_dispatch"])
outer = jax.jit(lambda x: (x[:, None] * x) @ jnp.sin(x))  # [5000, 5000] in between, 100 MB
x = jnp.arange(5000.0)

def faults_of_a_call():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(outer(x))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_a_call()
# Now and then a call finds the place of the last one taken, by what another thread had asked for.
print(int(statistics.median(faults_of_a_call() for turn in range(9))))
"""


@pytest.mark.parametrize(
    ("how", "variables", "kept", "asynchronous"),
    [
        ("steps", {}, True, False),
        ("steps", {"MALLOC_ARENA_MAX": "4"}, False, True),
        ("steps", {"JAX_CPU_ENABLE_ASYNC_DISPATCH": "1"}, True, True),
        ("freed", {}, True, True),
    ],
)
def test_the_memory_of_a_computation_stays(how, variables, kept, asynchronous):
    names = ("GLIBC_TUNABLES", "MALLOC_", "JAX_CPU_ENABLE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    answer = subprocess.run(
        [sys.executable, "-c", _STEPS, how],
        env=environment | {"JAX_PLATFORMS": "cpu"} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    done, dispatch, faults = answer.stdout.split()
    assert (done, dispatch) == (str(kept), str(asynchronous))
    # In another thread it depends on the arena that glibc has given to it.
    assert asynchronous or int(faults) < 1000  # an array in between has 24,000 pages
