"""JAX's persistent compilation cache, made safe to share between runs and to be killed in.

JAX locks a cache only if its size is limited. Without a limit, a run may read what another has half
written, and an entry that was cut short by a kill or a full disk stays for ever: JAX never writes
an entry that is there already. So the cache has a limit, and each start removes what a run that was
killed while it wrote has left.
"""

import os
import pwd
from pathlib import Path

import filelock
import jax

from mobilevit_jax.base.locks import NO_LOCKS, file_lock
from mobilevit_jax.cli.console import say

DEFAULT_SIZE = 2 * 1024**3  # bytes; the step of an image size takes 1 to 2 MB on a CPU
_NO_LIMIT = -1
_LOCK_SECONDS = 10.0  # as long as JAX itself waits
# The names that JAX gives its lock, an entry, and the file that says when it was last used.
_LOCK, _ENTRY, _LAST_USE = ".lockfile", "-cache", "-atime"


def use_compilation_cache() -> None:
    """Switches the cache on; settings in the environment ($JAX_COMPILATION_CACHE_DIR) go first.

    A directory that the environment names belongs to the user: neither limited nor mended here.
    Where the default one cannot be written, it says so, and each start compiles anew.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A start has some twenty small programs besides the steps; they take kilobytes.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return  # JAX reads it itself
    directory = default_directory()
    limit = _limit()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if limit != _NO_LIMIT:
            mend(directory)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            say(
                f"no compilation cache in {directory} ({error.strerror or error}): every start "
                "compiles anew; name another directory in $JAX_COMPILATION_CACHE_DIR"
            )
            return
        limit = _NO_LIMIT  # with one, JAX would want locks
    jax.config.update("jax_compilation_cache_max_size", limit)
    jax.config.update("jax_compilation_cache_dir", str(directory))


def default_directory() -> Path:
    """Returns $XDG_CACHE_HOME/mobilevit_jax/compilation, ~/.cache by default."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "mobilevit_jax" / "compilation"


def mend(directory: Path) -> None:
    """Removes entries that were never finished, and those made without a limit.

    JAX writes an entry, then the file with the time of its last use: an entry without that file is
    cut short, or was written without a lock. Either kind keeps JAX 0.10 from adding entries.

    Args:
        directory: The cache.

    Raises:
        OSError: If it cannot be written, or its file system has no locks.
    """
    try:
        with file_lock(directory / _LOCK, timeout=_LOCK_SECONDS):
            for kind, other in ((_ENTRY, _LAST_USE), (_LAST_USE, _ENTRY)):
                for path in directory.glob(f"*{kind}"):
                    if not path.with_name(path.name.removesuffix(kind) + other).exists():
                        path.unlink(missing_ok=True)
    except filelock.Timeout:
        return  # others are at work in it, and mended it when they started


def _limit() -> int:
    """Returns the size in bytes that the cache may have."""
    wanted = os.environ.get("JAX_COMPILATION_CACHE_MAX_SIZE")
    if wanted is not None:
        return int(wanted)  # JAX, imported above, has refused anything else
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return _NO_LIMIT  # a nameless user of a container: JAX 0.10 looks up who owns an entry
    return DEFAULT_SIZE
