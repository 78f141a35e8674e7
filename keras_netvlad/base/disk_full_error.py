"""`DiskFullError`: an output does not fit on its disk."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

# The disk is full, a quota is used up, or the file system cannot hold so large a file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """An output does not fit on its disk. The message names the path.

    Example:

    >>> from keras_netvlad.base.disk_full_error import DiskFullError
    >>> issubclass(DiskFullError, OSError)
    True
    """


@contextlib.contextmanager
def disk_full_errors(target: Path) -> Iterator[None]:
    """Raises `DiskFullError` in place of an error that says that there is no room, from any library.

    Errors of TensorFlow and HDF5 are recognized by the text of the operating system, which they contain.

    Args:
        target: The path that the block writes to.

    Raises:
        DiskFullError: If the block raises an error for lack of room.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        reasons = [
            os.strerror(n) for n in NO_ROOM if getattr(error, "errno", None) == n or os.strerror(n) in str(error)
        ]
        if not reasons:
            raise
        raise DiskFullError(
            f"The disk must have room for the output; free some space or choose another path. Received: {reasons[0]}, "
            f"while writing {target}"
        ) from error
