"""Locks between processes."""

import contextlib
import os
from collections.abc import Iterator

try:
    import fcntl
except ImportError as error:
    raise ImportError(
        "Locks of files need Linux or macOS; on Windows, use the Windows Subsystem for Linux, see docs/windows.md."
    ) from error


@contextlib.contextmanager
def exclusive(path: str | os.PathLike[str], message: str) -> Iterator[None]:
    """Holds an exclusive lock on a file during the block. The system releases it when the process ends or is killed.

    Args:
        path: Path of the lock file; made if it does not exist, and kept.
        message: Text of the error if another process holds the lock.

    Raises:
        OSError: If another process holds the lock.
    """
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(message) from None
        yield


@contextlib.contextmanager
def directory_lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Holds an exclusive lock on a directory during the block, after waiting for other processes and threads.

    It leaves no file behind. File systems that cannot lock directories, such as some versions of NFS, are not locked.

    Args:
        path: Path of an existing directory.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # releases the lock
