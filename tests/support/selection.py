"""Selects the parameters of a test that `make test` runs."""

import pytest


def slow_except(values, *short):
    """Returns the values as parameters, of which all but the `short` ones are marked slow."""
    return [value if value in short else pytest.param(value, marks=pytest.mark.slow) for value in values]


def slow_cases(cases):
    """Returns tuples of several arguments as parameters that are marked slow."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]
