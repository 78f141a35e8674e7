"""The checks of arguments: accepted values, returned values, and every message."""

import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from keras_netvlad.base.validation import (
    check_boolean,
    check_choice,
    check_integer,
    check_name,
    check_number,
    check_path,
    concrete_values,
)

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((3, 1), 3),
        ((1, 1), 1),
        ((0, 0), 0),
        ((-5, -5), -5),
        ((np.int64(3), 1), 3),
        ((np.uint8(255), 0, 255), 255),
        ((10**30, 1), 10**30),
    ],
)
def test_an_integer_is_returned_as_a_python_integer(arguments, expected):
    value = check_integer("size", *arguments)
    assert value == expected
    assert type(value) is int


@pytest.mark.parametrize("value", [0, -1, 1.0, np.float32(1), "1", None, True, np.True_, [1], np.array([1]), NAN])
def test_a_value_that_is_not_a_positive_integer_is_refused(value):
    message = f"`size` must be a positive integer. Received: size={value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_integer("size", value, 1)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0,), "an integer of 0 or more"),
        ((1,), "a positive integer"),
        ((2,), "an integer of 2 or more"),
        ((13, 18), "an integer from 13 to 18"),
        ((1, 5), "an integer from 1 to 5"),
    ],
)
def test_the_message_names_the_limits_of_an_integer(limits, expected):
    for value in (limits[0] - 1, *(limit + 1 for limit in limits[1:]), 2.5):
        message = f"`epochs` must be {expected}. Received: epochs={value}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            check_integer("epochs", value, *limits)


@pytest.mark.parametrize("value", [2, 2.5, np.float16(2.5), np.int8(2), Fraction(5, 2)])
def test_a_number_is_returned_as_a_python_float(value):
    number = check_number("rate", value)
    assert number == float(value)
    assert type(number) is float


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY, True, np.False_, None, "2", 2j, [2.0], Decimal(2)])
def test_a_value_that_is_not_a_finite_number_is_refused(value):
    message = f"`rate` must be a finite number. Received: rate={value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_number("rate", value)


@pytest.mark.parametrize(
    ("limits", "allowed", "refused", "expected"),
    [
        ({"minimum": 0}, [0, 1e300], [-1e-9], "a finite number of 0 or more"),
        ({"minimum": 0, "exclusive": True}, [1e-300], [0, -1], "a finite number above 0"),
        ({"maximum": 2}, [-1e300, 2], [2.5], "a finite number of 2 or less"),
        ({"maximum": 2, "exclusive_maximum": True}, [1.5], [2, 3], "a finite number below 2"),
        ({"minimum": 0, "maximum": 1}, [0, 0.5, 1], [-0.1, 1.1, NAN], "a number from 0 to 1"),
        (
            {"minimum": 0, "maximum": 1, "exclusive_maximum": True},
            [0, 0.99],
            [-0.1, 1, INFINITY],
            "a number from 0 to below 1",
        ),
        ({"minimum": 0, "maximum": 1, "exclusive": True}, [0.1, 1], [0, 1.1], "a number above 0 and at most 1"),
        (
            {"minimum": 0, "maximum": 1, "exclusive": True, "exclusive_maximum": True},
            [0.1, 0.9],
            [0, 1],
            "a number above 0 and below 1",
        ),
        (
            {"minimum": 0, "exclusive": True, "alternative": "None for every frame"},
            [0.5],
            [0, "1"],
            "a finite number above 0, or None for every frame",
        ),
    ],
)
def test_a_number_lies_within_its_limits(limits, allowed, refused, expected):
    for value in allowed:
        assert check_number("rate", value, **limits) == value
    for value in refused:
        message = f"`rate` must be {expected}. Received: rate={value!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            check_number("rate", value, **limits)


def test_a_boolean_is_returned():
    assert check_boolean("shuffle", True) is True
    assert check_boolean("shuffle", False) is False


@pytest.mark.parametrize("value", [0, 1, None, "no", np.True_])
def test_a_value_that_is_not_a_boolean_is_refused(value):
    message = f"`shuffle` must be True or False. Received: shuffle={value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_boolean("shuffle", value)


@pytest.mark.parametrize("choices", [("auto", 0, 1, 2, None), ["auto", 0, 1, 2, None], dict.fromkeys(["auto", 0, 2])])
def test_a_choice_is_returned(choices):
    for choice in choices:
        assert check_choice("verbose", choice, choices) is choice


def test_a_string_of_numpy_is_returned_as_the_choice_it_equals():
    assert type(check_choice("level", np.str_("frame"), ("frame", "video"))) is str


@pytest.mark.parametrize("value", ["Auto", 3, True, False, 0.0, None, np.array(["auto", "auto"]), ["auto"], {}])
def test_a_value_that_is_not_a_choice_is_refused(value):
    message = f"`verbose` must be one of ['auto', 0, 1]. Received: verbose={value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_choice("verbose", value, ("auto", 0, 1))


def test_a_name_is_a_string_or_none():
    assert check_name("netvlad") == "netvlad"
    assert check_name(None) is None
    with pytest.raises(ValueError, match=r"^`name` must be a string. Received: name=3$"):
        check_name(3)


def test_a_path_is_returned_as_a_path():
    assert check_path("output", "a/b") == Path("a/b")
    assert check_path("output", Path("a")) == Path("a")


@pytest.mark.parametrize("value", [None, 3, ["a"], b"a"])
def test_a_value_that_is_not_a_path_is_refused(value):
    message = f"`output` must be a path. Received: output={value!r}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        check_path("output", value)


def test_concrete_values_of_arrays_and_tensors():
    from keras import ops

    np.testing.assert_array_equal(concrete_values([[1, 2]]), [[1, 2]])
    np.testing.assert_array_equal(concrete_values(ops.convert_to_tensor([1.5, 2.5])), [1.5, 2.5])


def test_a_traced_tensor_has_no_concrete_values():
    import tensorflow as tf

    seen = []

    @tf.function
    def traced(x):
        seen.append(concrete_values(x))
        return x

    traced(tf.ones(2))
    assert seen == [None]
