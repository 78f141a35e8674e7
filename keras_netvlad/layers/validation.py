"""Checks of users' arguments that more than one class makes."""

import numbers


def check_integer(name, value, minimum):
    """Returns `value` as an `int`, or raises if it is no integer of at least `minimum` (booleans are none)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        kind = {0: "an integer of 0 or more", 1: "a positive integer"}[minimum]
        raise ValueError(f"`{name}` must be {kind}. Received: {name}={value!r}")
    return int(value)


def check_boolean(name, value):
    """Returns `value`, or raises if it is neither `True` nor `False`."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return value
