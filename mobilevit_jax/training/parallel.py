"""All that knows about devices: pmap, placing, sharding, prefetch. `jax.pmap` lives here alone.

The state is not stacked (`in_axes=None`): every device holds the same values, and whatever leaves a
step has been averaged or summed over `AXIS`. The placement matters: a state placed in any other way
than pmap returns it would cost one more compilation of the first shape.
"""

import collections
import contextlib
import contextvars
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mobilevit_jax.base.cores import usable_cores
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training.multihost import consensus

AXIS = "batch"

T = TypeVar("T")
Tree = TypeVar("Tree")
Arrays = Mapping[str, Any]

# Devices to compile for in place of those that there are.
_elsewhere: contextvars.ContextVar[Sequence[Any] | None] = contextvars.ContextVar(
    "elsewhere", default=None
)


@contextlib.contextmanager
def mapped_over(devices: Sequence[Any]) -> Iterator[None]:
    """Has steps mapped over these devices in the block, such as those of a topology.

    They are only lowered and compiled then: nothing can be placed on devices that are not there.
    """
    token = _elsewhere.set(devices)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def device_count() -> int:
    """Returns how many devices a step is mapped over, those of all hosts."""
    devices = _elsewhere.get()
    return jax.device_count() if devices is None else len(devices)


def pmap_train(step: Callable[[Any, Any], tuple[Any, Any]]) -> Any:
    """Maps `step(state, batch) -> (state, metrics)` over all devices; the state is donated.

    Returns:
        A `contracts.TrainStep`, if the state is a `TrainState`.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=(0,),
        devices=_elsewhere.get(),
    )


def pmap_evaluate(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Maps `step(variables, batch) -> sums` over all devices."""
    return jax.pmap(
        step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=_elsewhere.get()
    )


def pmap_predict(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Maps `step(variables, batch) -> outputs` over all devices; outputs have a row an image."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=0, devices=_elsewhere.get())


def gather_rows(outputs: Any) -> Any:
    """Brings what `pmap_predict` gave to every host: [devices, b / devices, ...] to [b, ...].

    Rows stand in the order of the global batch; all hosts must call it at the same step.
    """
    if jax.process_count() > 1:
        outputs = multihost_utils.process_allgather(outputs, tiled=True)
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), outputs)


def _sharding(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), spec)


def replicate(tree: Tree) -> Tree:
    """Places a copy of every array on each local device, as pmap returns an unstacked state."""
    sharding = _sharding(PartitionSpec())
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x), sharding), tree)


def shard(batch: Arrays) -> dict[str, jax.Array]:
    """Splits this host's rows among its devices: [b, ...] to [devices, b / devices, ...].

    Raises:
        ConfigurationError: If the rows do not divide by the devices.
    """
    devices = jax.local_device_count()
    sharding = _sharding(PartitionSpec(AXIS))
    placed = {}
    for name, array in batch.items():
        if len(array) % devices:
            raise ConfigurationError(
                f"a batch of {len(array)} rows does not divide by {devices} local devices; "
                f"choose a batch size that is a multiple of {devices * jax.process_count()}"
            )
        rows = np.reshape(array, (devices, len(array) // devices, *array.shape[1:]))
        placed[name] = jax.device_put(rows, sharding)
    return placed


def abstract_shard(batch: Arrays) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes that `shard` gives the rows of all hosts, nothing being placed."""
    devices = device_count()
    return {
        name: jax.ShapeDtypeStruct((devices, len(array) // devices, *array.shape[1:]), array.dtype)
        for name, array in batch.items()
    }


def prefetch(
    batches: Iterable[Arrays], depth: int = 2
) -> Generator[dict[str, jax.Array], None, None]:
    """Keeps the next `depth` batches on the devices, so that copying overlaps computing."""
    iterator = iter(batches)
    queue: collections.deque[dict[str, jax.Array]] = collections.deque()
    try:
        queue.extend(shard(batch) for batch in itertools.islice(iterator, depth))
        while queue:
            yield queue.popleft()
            queue.extend(shard(batch) for batch in itertools.islice(iterator, 1))
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yields each item when the next one has been made, the last one at the end.

    Of what the devices compute, one result is read while they are busy with the next.
    """
    iterator = iter(items)
    for item in iterator:
        for following in iterator:
            yield item
            item = following
        yield item


def connect_devices() -> None:
    """Opens the connections between the devices of all hosts; all must call it at the same time.

    On CPUs, Gloo gives the processes 30 s to meet when devices first talk to one another, and half
    an hour each time after that. So they do it before anything, such as compiling, sets them apart.
    """
    summed = jax.pmap(lambda x: jax.lax.psum(x, AXIS), axis_name=AXIS)
    jax.block_until_ready(summed(np.zeros(jax.local_device_count(), np.float32)))
    on_any_host(False)


def describe_devices() -> str:
    """Returns how many devices of which kind all hosts have: "8 x TPU v4"."""
    kind = jax.devices()[0].device_kind
    cores = f" ({usable_cores()} cores)" if jax.default_backend() == "cpu" else ""
    return f"{jax.device_count()} x {kind}{cores}"


def is_first_host() -> bool:
    """Whether this process writes logs and files."""
    return jax.process_index() == 0


def on_any_host(flag: bool) -> bool:
    """Whether a flag is true in any process; all must ask at the same step."""
    return bool(consensus.highest(flag))


def is_ready(array: Any) -> bool:
    """Whether the devices have finished computing an array; does not wait."""
    return array.is_ready()


def device_key(seed: int, step: jax.Array) -> jax.Array:
    """Returns the random key of this step on this device; call inside a mapped step."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.fold_in(key, jax.lax.axis_index(AXIS))
