"""`StageLines`: prints the stage of a command if it takes more than a few seconds."""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator

from keras_netvlad.base.stages import LOGGER

# Shorter stages are not printed.
SECONDS = 5.0


class StageLines(logging.Handler):
    """Prints one line to standard error for each stage that takes more than a few seconds.

    Args:
        command: Name of the command, for the line.
    """

    def __init__(self, command: str) -> None:
        super().__init__(logging.DEBUG)
        self.command = command
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Starts waiting when a stage starts, and stops when it ends."""
        self.cancel()
        if record.levelno == logging.INFO:
            self._timer = threading.Timer(SECONDS, self._print, (record.getMessage(),))
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """Stops waiting."""
        if self._timer is not None:
            self._timer.cancel()

    def _print(self, description: str) -> None:
        print(f"keras-netvlad {self.command}: {description} ...", file=sys.stderr, flush=True)  # cli


@contextlib.contextmanager
def stage_lines(command: str) -> Iterator[None]:
    """Prints the long stages of the calls in a block."""
    handler = StageLines(command)
    level, propagates = LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False  # Libraries may give the root logger a handler, which would print every stage again.
    try:
        yield
    finally:
        handler.cancel()
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagates
