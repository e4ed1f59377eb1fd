"""Several processes that train as one run: how they find one another, agree, and end together.

What they tell one another goes through the coordination service that `jax.distributed.initialize`
starts in the first process, not through the devices: it waits as long as it is told to, whereas a
collective of devices hangs, or fails after half a minute, if one of them does not come.

A process that fails tells the others why, and they end with it within seconds. One that is killed
can tell nothing: they end when it has given no sign of life for `lost_after` seconds, or at once
where its connections break first, as they do between CPU processes of one device each.
"""

import atexit
import contextlib
import hashlib
import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from mobilevit_jax.base.json_dataclasses import differences
from mobilevit_jax.errors import ConfigurationError, ExitStatus, TrainingError, exit_at_once
from mobilevit_jax.training import parallel

LOST_AFTER = 100
_START_SECONDS = 300  # the others may still be starting
_PATIENCE_SECONDS = 3600  # one may still be preparing data or loading weights
_HOW = "give --coordinator HOST:PORT, --num-processes N and --process-id I to each, or --no-join"

_SHOWN = 4  # differences
_ROOM = "mobilevit_jax/"
_FAILED = "failed"
# Long enough for the others to hear of a failure from the service, which dies with process 0.
_FAREWELL_SECONDS = 2
_LAST_SECONDS = 10
_STATUS = re.compile(r"[A-Z_]+: ")  # UNKNOWN, UNAVAILABLE, INTERNAL ...
_LOST = re.compile(r"Gloo|NCCL|UNAVAILABLE|heartbeat|Connection (reset|closed)")

_leaving = threading.Event()
_topics = itertools.count()


@dataclass(frozen=True)
class Place:
    """Where this process stands among the others.

    Attributes:
        coordinator: Address of the first process, host:port; None if JAX finds out.
        count: How many processes there are; None if JAX finds out.
        index: Which one this is, from 0; None if JAX finds out.
        certain: Whether there are others; if not, failing to find any is no error.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    certain: bool = True


class Disagreement(ConfigurationError):
    """The processes of a run have not been given the same; every one of them raises it."""


@contextlib.contextmanager
def joined(place: Place | None = None, *, lost_after: int = LOST_AFTER) -> Iterator[None]:
    """Makes this process one of several that train together, until the block ends.

    Call it before anything else of JAX. Without others it does nothing.

    Args:
        place: Where this process stands; None does what the environment tells (`told_of_others`).
        lost_after: Seconds without a sign of life after which a process counts as lost.

    Raises:
        ConfigurationError: If the others cannot be found.
        TrainingError: If another process was lost.
    """
    if place is None:
        place = told_of_others(os.environ)
    if place is None or not _join(place, lost_after):
        yield
        return
    parallel.connect_devices()
    # The client is fetched here: two threads must not import Orbax at once.
    watch = threading.Thread(
        target=_watch, args=(_client(),), name="mobilevit_jax-hosts", daemon=True
    )
    watch.start()
    try:
        yield
    except BaseException as error:
        told = _explained(error)
        _leave(told)
        if told is error:
            raise
        raise told from error
    _leaving.set()
    jax.distributed.shutdown()  # waits for the others
    watch.join(_LAST_SECONDS)
    _leaving.clear()


def told_of_others(environment: Mapping[str, str]) -> Place | None:
    """Finds out whether the environment tells of several processes; asks no other machine.

    Args:
        environment: Such as `os.environ`, after jax was imported: it marks a TPU there.

    Returns:
        None for a process on its own, else what JAX has to be told besides what it finds out.

    Raises:
        ConfigurationError: If there are others, but it does not say how to reach them.
    """
    workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    slices = int(environment.get("MEGASCALE_NUM_SLICES") or 1)
    if slices > 1 or len((workers or "").split(",")) > 1:
        return Place()
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in environment for name in slurm) and int(environment.get("SLURM_NTASKS", 1)) > 1:
        return Place()
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        if "OMPI_MCA_orte_hnp_uri" in environment:
            return Place()
        raise ConfigurationError(  # from version 5 on
            f"Open MPI has started {environment['OMPI_COMM_WORLD_SIZE']} processes, but does not "
            "tell them where the first one is; give --coordinator HOST:PORT, or --no-join"
        )
    # A TPU VM whose environment lists no workers: its metadata server knows them.
    asks = "TPU_SKIP_MDS_QUERY" not in environment and "TPU_ML_PLATFORM" in environment
    return Place(certain=False) if asks and workers is None else None


def completed(place: Place, environment: Mapping[str, str]) -> Place:
    """Returns the place with what Open MPI tells of it, where JAX would not read that."""
    if "OMPI_COMM_WORLD_SIZE" not in environment or place.coordinator is None:
        return place
    count, index = (int(environment[f"OMPI_COMM_WORLD_{name}"]) for name in ("SIZE", "RANK"))
    return replace(
        place,
        count=count if place.count is None else place.count,
        index=index if place.index is None else place.index,
    )


def _join(place: Place, lost_after: int) -> bool:
    """Returns whether there are others."""
    place = completed(place, os.environ)
    where = place.coordinator or "the address that the environment tells"
    _say(f"joining the other processes at {where}, waiting for them up to {_START_SECONDS} s")
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.count,
            place.index,
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=lost_after,
        )
    except Exception as error:  # also what asking a cluster's own services raises
        if not place.certain:
            _say(f"training on this host alone: no word of others ({type(error).__name__})")
            return False
        raise ConfigurationError(
            f"cannot join the other processes ({type(error).__name__}: {error}); {_HOW}"
        ) from error
    return jax.process_count() > 1


def agree(topic: str, facts: Mapping[str, Any]) -> None:
    """Makes sure that all processes have the same facts; all must call it, in the same order.

    Args:
        topic: What the facts are about, for messages.
        facts: Nested dictionaries that JSON can hold.

    Raises:
        Disagreement: In every process, if one has other facts than the first.
        TrainingError: If another process does not come.
    """
    count, me = jax.process_count(), jax.process_index()
    if count == 1:
        return
    key = f"{next(_topics)} ({topic})"
    own = json.loads(json.dumps(facts))  # tuples are lists in what the others have sent
    if me == 0:
        _tell(f"{key}/facts", json.dumps(own))
    found = differences(json.loads(_hear(f"{key}/facts", 0)), own)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    _tell(f"{key}/{me}", "; ".join(found[:_SHOWN]) + more)
    for process in range(count):
        differs = _hear(f"{key}/{process}", process)
        if differs:
            raise Disagreement(
                f"process {process} of {count} does not agree with process 0 on {topic} "
                f"({differs}); give all of them the same files, options, data and versions"
            )


def run_facts(
    experiment: Mapping[str, Any],
    class_names: Sequence[str],
    data: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Returns what the processes of a run must have in common before it begins, for `agree`.

    Args:
        experiment: `to_dict` of it; where and how the data are read may differ.
        class_names: Of the data set.
        data: What else says that the data are the same, by name.
        versions: Of the packages, by name.
    """
    shared = {name: value for name, value in experiment.items() if name != "loader"}
    shared["data"] = {k: v for k, v in experiment["data"].items() if k != "data_dir"}
    return {
        "experiment": shared,
        "classes": {str(number): name for number, name in enumerate(class_names)},
        **data,
        "versions": {name: version for name, version in versions.items() if name != "python"},
    }


def digest(*parts: Any) -> str:
    """Returns a short digest of bytes, text and arrays, for `agree`."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes())
    return total.hexdigest()[:16]


def _client() -> Any:
    # JAX has no public way to its coordination service; Orbax, which needs one too, has.
    from orbax.checkpoint import multihost  # heavy

    return multihost.get_jax_distributed_client()


def _tell(key: str, text: str) -> None:
    _client().key_value_set(_ROOM + key, text)


def _hear(key: str, process: int) -> str:
    try:
        return _client().blocking_key_value_get(_ROOM + key, _PATIENCE_SECONDS * 1000)
    except jax.errors.JaxRuntimeError as error:
        raise TrainingError(
            f"process {process} did not come within {_PATIENCE_SECONDS} s to compare {key}"
        ) from error


def _watch(client: Any) -> None:
    """Ends this process when another one tells that it has failed."""
    while True:
        try:
            text = client.blocking_key_value_get(_ROOM + _FAILED, _PATIENCE_SECONDS * 1000)
            break
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                return  # The service has ended, and JAX with it.
    if not _leaving.is_set():
        _say(f"error: {text}")
        exit_at_once(ExitStatus.FAILED)


def _explained(error: BaseException) -> BaseException:
    """Returns what to tell the user: the loss of another process has many faces."""
    # XLA's errors come as ValueError where a CPU computes in the thread that calls.
    of_xla = type(error) is ValueError and _STATUS.match(str(error))
    of_jax = of_xla or isinstance(error, jax.errors.JaxRuntimeError)
    if not (of_jax and _LOST.search(str(error))):
        return error
    reason = " ".join(str(error).split())
    return TrainingError(
        f"process {jax.process_index()} lost another one, whose own output may say why "
        f"({reason[:160]}); start all of them again to go on from the last checkpoint"
    )


def _leave(error: BaseException) -> None:
    """Tells the others of an error, and has this process end without waiting for them.

    JAX's own end waits until all have come, but they may be waiting for this one.
    """
    _leaving.set()
    if not isinstance(error, Disagreement):  # which they know
        reason = " ".join(str(error).split()) or type(error).__name__
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another has failed before
            _tell(_FAILED, f"process {jax.process_index()} has failed: {reason}")
    status = ExitStatus.of(error)
    atexit.register(exit_at_once, status)
    last = threading.Timer(_LAST_SECONDS, exit_at_once, (status,))  # if threads keep it from ending
    last.daemon = True
    last.start()
    if jax.process_index() == 0:
        time.sleep(_FAREWELL_SECONDS)


def _say(message: str) -> None:
    print(f"mobilevit: {message}", file=sys.stderr, flush=True)
