"""Comparisons of arrays, and reports."""

import numpy as np
import pytest

from keras_netvlad.export.verification.comparison import Comparison
from keras_netvlad.export.verification.report import Report


@pytest.mark.parametrize(
    ("expected", "received", "ok"),
    [
        ([1.0, -2.0], [1.0, -2.0], True),
        ([1.0, -2.0], [1.0, -2.001], False),
        ([1.0, np.nan], [1.0, np.nan], False),
        ([1.0, 2.0], [1.0, np.nan], False),
        ([1.0, 2.0], [1.0, np.inf], False),
        ([1.0, 2.0], [1.0], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([0.0, 0.0], [0.0, 1e-3], False),
        ([], [], True),
    ],
)
def test_a_comparison_is_strict(expected, received, ok):
    comparison = Comparison.of("serving_default", "scores", "a case", np.array(expected), np.array(received))
    assert comparison.is_within(1e-4) is ok
    assert Report("path", "onnx", 1, 0.0, 1e-4, (comparison,)).ok is ok


def test_a_report_without_comparisons_is_not_ok():
    assert not Report("path", "onnx", 1, 0.0, 1e-4, ()).ok


def test_nan_from_float64_fails_a_comparison():
    comparison = Comparison.of("serving_default", "scores", "a case", [0.5], [0.5], [np.nan])
    assert not comparison.is_within(1e-4)
