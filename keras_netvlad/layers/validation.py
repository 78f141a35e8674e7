"""Checks of users' arguments that more than one class makes."""

import math
import numbers

import numpy as np


def check_integer(name, value, minimum):
    """Returns `value` as an `int`, or raises if it is no integer of at least `minimum` (booleans are none)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        kind = {0: "an integer of 0 or more", 1: "a positive integer"}[minimum]
        raise ValueError(f"`{name}` must be {kind}. Received: {name}={value!r}")
    return int(value)


def check_number(name, value, minimum=None, exclusive=False):
    """Returns `value` as a `float`, or raises if it is not finite or below `minimum` (on it, if `exclusive`)."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (minimum is not None and (value < minimum or (exclusive and value == minimum))):
        limit = "" if minimum is None else f" above {minimum}" if exclusive else f" of {minimum} or more"
        raise ValueError(f"`{name}` must be a finite number{limit}. Received: {name}={value!r}")
    return float(value)


def check_boolean(name, value):
    """Returns `value`, or raises if it is neither `True` nor `False`."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return value


def check_name(name):
    """Returns the name of a layer or metric, or raises if it is neither a string nor `None`."""
    if name is not None and not isinstance(name, str):
        raise ValueError(f"`name` must be a string. Received: name={name!r}")
    return name


def concrete_values(tensor):
    """The values of an eager tensor; `None` while tracing, where no value exists yet."""
    try:
        return np.asarray(tensor)
    except (NotImplementedError, TypeError, ValueError, RuntimeError):
        return None
