"""An iterator in a thread: order, errors, how far it runs ahead, and its end."""

import threading
import time

import pytest

from keras_netvlad.videos.read_ahead import AHEAD, read_ahead


def threads():
    return {thread for thread in threading.enumerate() if thread.is_alive()}


def test_items_come_in_order():
    assert list(read_ahead(range(100))) == list(range(100))
    assert list(read_ahead([])) == []
    assert list(read_ahead([None, (), None])) == [None, (), None]


def test_the_thread_is_at_most_two_items_ahead():
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    reader = read_ahead(items())
    assert next(reader) == 0
    time.sleep(0.3)
    # One item was yielded, two are ready, and the thread holds one that the queue has no room for.
    assert len(taken) == 1 + AHEAD + 1
    reader.close()


def test_an_error_is_raised_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise OSError("a damaged packet")

    reader = read_ahead(items())
    assert [next(reader), next(reader)] == [1, 2]
    with pytest.raises(OSError, match="a damaged packet"):
        next(reader)


def test_the_thread_ends_when_the_caller_stops_early():
    before = threads()
    reader = read_ahead(iter(int, 1))  # endless
    next(reader)
    assert len(threads()) == len(before) + 1
    reader.close()
    assert threads() == before
