"""Locks between processes, on one machine or on a file system that several share."""

import errno
from pathlib import Path

import filelock

# From file systems without locks: Lustre mounted without them, NFS without its lock service.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def file_lock(path: Path, *, timeout: float = -1) -> filelock.BaseFileLock:
    """Returns the operating system's lock of a file, which ends with the process.

    To acquire it makes the file, and raises an OSError of `NO_LOCKS` where there are no locks, or
    `filelock.Timeout` after so many seconds; -1 waits for ever.
    """
    # Its own fallback is a mere file, which a crash leaves behind.
    return filelock.FileLock(path, timeout=timeout, fallback_to_soft=False)
