"""Atomic writing of files and directories: a target appears only when it is complete."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_netvlad.base.full_disk_error import full_disk_named
from keras_netvlad.base.locks import directory_lock

# Bytes of a name that a hidden path repeats. File systems allow 255 bytes for the name, a random part and `.partial`.
REPEATED_BYTES = 200


@contextlib.contextmanager
def staged(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a path to write to. The file or directory written there appears at `target` when the block ends.

    The path lies in a hidden directory `.<name>.*.partial` next to the target, on the same file system. If the block
    raises, that directory is removed and nothing appears. If the process is killed, the directory stays behind; servers
    ignore it, and it may be deleted. Files written next to the given path, such as external weights, are moved as well,
    before the target, so that a reader who sees the target finds all of them.

    If several processes or threads write to the same target, the first one that ends its block wins, and the others
    raise `FileExistsError`. Files and directories get the permissions that the umask of the process allows, as those of
    any other program do.

    Args:
        target: Path that does not exist yet. Missing parent directories are made.

    Yields:
        A `pathlib.Path` with the name of the target.

    Raises:
        FileExistsError: If the target exists, or exists when the block ends.
        FullDiskError: If the disk has no room for the target.
        OSError: If its name is too long, or its directory cannot be made or written to.
    """
    target = Path(os.path.abspath(target))
    _check_new(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{_shortened(target.name)}."
        stage = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=target.parent))
    except OSError as error:
        raise OSError(
            f"The output's directory must be one that can be written to. Received: {target.parent} "
            f"({error.strerror or error})"
        ) from error
    try:
        with full_disk_named(target):
            yield stage / target.name
            for path in stage.rglob("*"):
                flush(path)
            # Renaming replaces a file that exists; no other process may create one between the check and the rename.
            with directory_lock(target.parent):
                _check_new(target)
                for path in sorted(stage.iterdir(), key=lambda path: (path.name == target.name, path.name)):
                    os.rename(path, target.parent / path.name)
            flush(target.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def replaced(target: str | os.PathLike[str], suffix: str = "") -> Iterator[Path]:
    """Gives a path to write a file to, which replaces `target` when the block ends.

    A power cut leaves the old file or the new one, complete.

    Args:
        target: Path of a file in an existing directory. The file may exist.
        suffix: Suffix of the given path, for writers that look at it.

    Yields:
        A `pathlib.Path` next to the target.

    Raises:
        FullDiskError: If the disk has no room for the file.
    """
    target = Path(target)
    part = target.with_name(f".{_shortened(target.name)}.partial{suffix}")
    try:
        with full_disk_named(target):
            yield part
            flush(part)
            os.replace(part, target)
            flush(target.absolute().parent)
    finally:
        part.unlink(missing_ok=True)


def _check_new(target):
    """Raises if a path exists, or if its name is longer than the file system allows."""
    try:
        os.lstat(target)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OSError(
                f"The output's name must not be longer than the file system allows; shorten it. Received: {target}"
            ) from error
        return
    raise FileExistsError(f"The output must not exist yet; choose another path or remove it. Received: {target}")


def _shortened(name):
    return name.encode(errors="surrogateescape")[:REPEATED_BYTES].decode(errors="ignore")


def flush(path: str | os.PathLike[str]) -> None:
    """Writes a file or directory through to the disk, so that it survives a power cut after the rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copies the content of a file through to the disk.

    Raises:
        FullDiskError: If the disk has no room for the copy.
    """
    with full_disk_named(target):
        shutil.copyfile(source, target)
        flush(target)
