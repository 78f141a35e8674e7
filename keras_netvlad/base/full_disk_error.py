"""`FullDiskError`: names the path that a full disk cannot hold, and says what to do."""

import contextlib
import errno
import os
from collections.abc import Iterator

# No space left, quota exceeded, file larger than the limit of the process.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FullDiskError(OSError):
    """Names the path that a full disk cannot hold. The arguments are those of `OSError`: number, reason and path."""

    def __str__(self) -> str:
        return (
            "The disk must have room for the output; free some space or choose another path. "
            f"Received: {self.filename} ({self.strerror})"
        )


@contextlib.contextmanager
def full_disk_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raises errors of a full disk as `FullDiskError`, because most writers do not name the file.

    Errors of TensorFlow and HDF5, which have no error number, are recognized by the text of the operating system.

    Args:
        path: Path that the block writes, through other files in its directory. An error about a file elsewhere, such as
            one in the directory of temporary files, keeps its path.

    Raises:
        FullDiskError: If the disk is full.
    """
    try:
        yield
    except Exception as error:
        code = _code_of(error)
        if code is None:
            raise
        written = os.fspath(path)
        directory = os.path.dirname(os.path.abspath(written))
        named = getattr(error, "filename2", None) or getattr(error, "filename", None)
        is_elsewhere = isinstance(named, str) and not os.path.abspath(named).startswith(directory)
        raise FullDiskError(code, os.strerror(code), named if is_elsewhere else written) from error


def write_error(message: str, path: str | os.PathLike[str]) -> OSError:
    """Returns the error for a file that a library without error numbers could not write.

    Args:
        message: The message of the library.
        path: Path of the file.
    """
    code = _code_in(message)
    if code is not None:
        return FullDiskError(code, os.strerror(code), os.fspath(path))
    return OSError(f"The file must be one that can be written. Received: {path} ({message})")


def _code_of(error: Exception) -> int | None:
    number = getattr(error, "errno", None)
    return number if number in FULL else _code_in(str(error))


def _code_in(message: str) -> int | None:
    return next((code for code in FULL if os.strerror(code) in message), None)
