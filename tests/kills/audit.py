"""`before_each_call`: calls a function before each call of the file system that concerns a directory."""

import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from keras_netvlad.base import atomic_files

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"}
_hook: Callable[[object], None] | None = None


def _audit(event, details):
    if _hook and event in EVENTS:
        _hook(details[0])


# An audit hook can't be removed, so there is one for all.
sys.addaudithook(_audit)


@contextmanager
def before_each_call(directory: Path, function: Callable[[], None]):
    """Calls a function before each call in the block that opens, moves, removes or flushes a path in a directory.

    Calls of the function itself do not count. Flushes are no audit events; those of `atomic_files` are seen.
    """
    global _hook
    flush = atomic_files.flush

    def hook(path):
        global _hook
        if str(directory) in str(path):
            _hook = None
            function()
            _hook = hook

    def seen_flush(path):
        if _hook:
            _hook(path)
        flush(path)

    _hook, atomic_files.flush = hook, seen_flush
    try:
        yield
    finally:
        _hook, atomic_files.flush = None, flush
