"""`quiet_native_log`: hides the remarks that native libraries write to standard error."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator

# Seconds to wait for the last lines. A process that was started by the command and still runs holds the pipe open.
PATIENCE = 1.0

# TensorFlow 2.19 to 2.21 writes such lines while it is imported, whatever TF_CPP_MIN_LOG_LEVEL is (tensorflow#100442).
# LiteRT writes one for its first interpreter. Warnings and errors of these libraries have other beginnings.
REMARK = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)|I\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d [\d:.]+: I "
    rb"|INFO: Created TensorFlow Lite "
)


@contextlib.contextmanager
def quiet_native_log() -> Iterator[None]:
    """Removes the remarks of TensorFlow's and LiteRT's C++ code from standard error during the block.

    The file descriptor 2, to which native code writes, becomes a pipe. A thread copies its lines, without the remarks,
    to the former standard error. `sys.stderr` must have another file descriptor, as `protect_output` gives it, to
    remain a terminal. If native code aborts the process, its last lines may be lost.
    """
    try:
        standard_error = os.dup(2)
    except OSError:  # The process was started without a standard error.
        yield
        return
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    thread = threading.Thread(target=_copy, args=(reading, standard_error), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(standard_error, 2)
        thread.join(PATIENCE)


def _copy(reading: int, standard_error: int) -> None:
    with open(reading, "rb") as lines, contextlib.suppress(OSError):  # Nobody may read the standard error any more.
        for line in lines:
            if not REMARK.match(line):
                os.write(standard_error, line)
