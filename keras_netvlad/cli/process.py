"""The process of a command: its signals, and output that a terminal or a closed pipe cannot break."""

import codecs
import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked the process to end. Not an `Exception`, so that no handler of errors keeps it running."""


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Makes Ctrl-C and SIGTERM raise `Stopped` in the main thread during the block, so that files are cleaned up.

    Yields:
        A list, to which each signal that comes is appended.
    """
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        raise Stopped

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            # While a process that was stopped ends, another Ctrl-C must not print a stack trace.
            signal.signal(number, signal.SIG_IGN if received else handler)


def protect_output() -> None:
    """Replaces `sys.stdout` and `sys.stderr` by streams that write to any terminal and to a pipe that nobody reads.

    Characters that the terminal's encoding lacks are written as escapes, and lines of progress bars as hyphens. After
    the reader of a pipe has closed it, the command continues and its output is discarded.
    """
    codecs.register_error("keras_netvlad", _escape)
    sys.stdout, sys.stderr = _protected(sys.stdout), _protected(sys.stderr)


class _Pipe(io.FileIO):
    """A file descriptor whose output is discarded after the reader of the pipe has closed it."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


def _protected(stream: TextIO) -> TextIO:
    try:
        # The standard error of Python gets a descriptor apart from that of native code, see `quiet_native_log`.
        descriptor = os.dup(stream.fileno()) if stream is sys.stderr else stream.fileno()
        encoding = stream.encoding
    except (AttributeError, OSError, ValueError):
        return stream  # closed, or not a file
    stream.flush()
    raw = io.BufferedWriter(_Pipe(descriptor, "w", closefd=False))
    is_line_buffered = stream is sys.stderr or stream.isatty()
    return io.TextIOWrapper(raw, encoding, "keras_netvlad", line_buffering=is_line_buffered)


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and set(error.object[error.start : error.end]) <= {"━"}:
        return "-" * (error.end - error.start), error.end
    return codecs.backslashreplace_errors(error)
