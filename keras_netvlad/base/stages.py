"""`stage`: logs which part of a long call runs."""

import contextlib
import logging
import time
from collections.abc import Iterator

LOGGER = logging.getLogger("keras_netvlad")


@contextlib.contextmanager
def stage(description: str) -> Iterator[None]:
    """Logs a part of a long call: its description at level INFO when it starts, and its time at DEBUG when it ends.

    Python shows neither by default. A program that wants to see the stages of an export configures logging:

        logging.basicConfig()
        logging.getLogger("keras_netvlad").setLevel(logging.INFO)

    Args:
        description: Describes the part, such as `"verifying models/classifier/1"`.
    """
    start = time.perf_counter()
    LOGGER.info("%s", description)
    try:
        yield
    finally:
        LOGGER.debug("%s took %.1f s", description, time.perf_counter() - start)
