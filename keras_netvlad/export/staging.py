"""Whole or not at all: files are written aside and appear under their own name by a rename."""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path


@contextlib.contextmanager
def staged(target):
    """Gives a path to write to; what is written there appears at `target` when the block ends well.

    The path lies in a hidden directory `.<name>.*.partial` beside the target, on the same file system. When the
    block raises, that directory is removed and nothing appears. When the process is killed, it stays behind, a
    server passes over it, and it may be deleted. Files written beside the given path, such as external weights,
    move along, and before it, so that whoever sees the target sees all of it.

    Args:
        target: Path that does not exist yet. Missing parent directories are made.

    Yields:
        A `pathlib.Path` of the target's own name.

    Raises:
        FileExistsError: If the target exists.
        OSError: If its directory can't be made or written to.
    """
    target = Path(os.path.abspath(target))
    if os.path.lexists(target):
        raise _exists(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise OSError(
            f"The output's directory must be one that can be written to. Received: {target.parent} "
            f"({error.strerror or error})"
        ) from error
    try:
        yield stage / target.name
        for path in stage.rglob("*"):
            _flush(path)
        os.chmod(stage, 0o755)
        for path in sorted(stage.iterdir(), key=lambda path: (path.name == target.name, path.name)):
            try:
                os.rename(path, target.parent / path.name)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                # Another process was first: a directory is never renamed onto one that holds something.
                raise _exists(target) from error
        _flush(target.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _exists(target):
    return FileExistsError(f"The output must not exist yet; choose another path or remove it. Received: {target}")


def _flush(path):
    """Brings a file or directory to the disk, so that a power cut after the rename finds it whole."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
