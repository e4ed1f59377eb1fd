"""One run at a time in a work directory."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from mobilevit_jax.base.locks import NO_LOCKS, file_lock
from mobilevit_jax.base.run_files import LOCK
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training.multihost import consensus


@contextlib.contextmanager
def locked(workdir: Path, *, warn: Callable[[str], None]) -> Iterator[None]:
    """Keeps other runs out of a work directory, which is made if need be, until the block ends.

    The lock is the operating system's and ends with the process, however that ends; the file
    `.lock` stays and means nothing by itself. On a shared file system it holds between machines
    too, where that has locks. Of a run of several processes the first one holds it, and the
    others learn whether it could.

    Args:
        workdir: The work directory.
        warn: Told in one line if the file system has no locks, so that nothing is kept out.

    Raises:
        ConfigurationError: If another run holds it, the directory may not be written, or its path
            is one where checkpoints cannot be kept.
        OSError: If it cannot be made.
    """
    failed = ConfigurationError(f"the first process could not lock {workdir}; its error says why")
    with contextlib.ExitStack() as held:
        consensus.first_process_does(lambda: held.enter_context(hold(workdir, warn)), failed)
        yield


@contextlib.contextmanager
def hold(workdir: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Does what `locked` does, for this process alone and without asking JAX for devices."""
    _check_plain(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / LOCK
    holder = _holder(path)  # now, because older versions of filelock empty the file when they ask
    lock = file_lock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ConfigurationError(
            f"another run is at work in {workdir}{_holder(path) or holder}; wait for it, stop it, "
            "or choose another --workdir"
        ) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ConfigurationError(
                f"the work directory {workdir} may not be written; choose another with --workdir"
            ) from error
        if error.errno not in NO_LOCKS:
            raise
        warn(
            f"the file system of {workdir} has no locks ({error.strerror}): nothing keeps a second "
            "run out of it"
        )
    try:
        with contextlib.suppress(OSError):  # a full disk, say; it is for a message only
            path.write_text(f" (process {os.getpid()} on {socket.gethostname()})", encoding="utf-8")
        yield
    finally:
        lock.release()


def _check_plain(workdir: Path) -> None:
    """Refuses a path that Orbax takes for a pattern: it saves there what cannot be read again."""
    path = str(workdir.absolute())
    if set(path) & set("[*?\\"):
        raise ConfigurationError(
            f"the work directory {path} has [ * ? or \\ in its path, and checkpoints there could "
            "not be read; choose another with --workdir"
        )


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
