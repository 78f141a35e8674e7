"""`read_ahead`: an iterator that runs in a thread while its items are used."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
# Items that are ready before they are used. One hides the time of a decoder; two also smooth it.
AHEAD = 2


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items of an iterable that a thread reads in advance.

    Decoding a video and computing its features then take place at the same time.

    Args:
        items: Iterable. The thread is at most two items ahead of the caller.

    Yields:
        The items, in order. An error of the iterable is raised here, after the items before it. If the caller stops
        early, the thread ends.
    """
    ready: queue.Queue = queue.Queue(AHEAD)
    done, stop = object(), threading.Event()

    def put(item):
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                pass

    def produce():
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((done, None))
        except Exception as error:  # raised again in the thread of the caller
            put((done, error))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is done:
                return
            yield item
    finally:
        stop.set()
        thread.join()
