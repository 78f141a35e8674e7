"""Comparisons of arrays, and reports."""

import numpy as np
import pytest

from keras_netvlad.export.verification.agreement import Agreement
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
        # Other shapes, of which broadcasting would make equal arrays.
        ([1.0, 1.0], [1.0], False),
        ([[1.0, 1.0]], [1.0, 1.0], False),
        ([], [1.0], False),
        ([1.0], [], False),
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


@pytest.mark.parametrize("values", [(0.25, np.nan), (np.nan, 0.25), (np.inf, np.nan)])
def test_nan_is_the_worst_value_wherever_it_comes(values):
    comparisons = tuple(
        Comparison.of("serving_default", "scores", f"case {value}", [0.25], [value], [0.25]) for value in values
    )
    report = Report("path", "onnx", 1, 0.0, 1e-4, comparisons)
    assert not report.ok
    (line,) = [line for line in str(report).splitlines() if line.startswith("  serving_default")]
    assert line.split()[2:] == ["nan", "nan", "nan", "FAILED"]
    (output,) = report.as_dict()["outputs"]
    assert [output[key] for key in output if key.startswith("max_")] == [None, None, None]
    assert output["ok"] is report.as_dict()["ok"] is False


def test_the_worst_of_several_runs_is_reported():
    comparisons = tuple(
        Comparison.of("serving_default", "scores", f"case {value}", [1.0], [value], [1.0]) for value in (1.5, 1.25, 1.0)
    )
    report = Report("path", "onnx", 1, 0.0, 1.0, comparisons)
    (output,) = report.as_dict()["outputs"]
    assert [output[key] for key in output if key.startswith("max_")] == [0.5, 0.5, 0.5]
    assert "5.00e-01" in str(report)
    assert report.as_dict()["num_runs"] == 3


@pytest.mark.parametrize(("difference", "ok"), [(0.5, True), (float(np.nextafter(0.5, 1.0)), False)])
def test_a_difference_of_exactly_the_tolerance_is_within(difference, ok):
    assert Comparison("serving_default", "scores", "a case", 1.0, difference).is_within(0.5) is ok
    assert Comparison("serving_default", "scores", "a case", 1.0, 0.0, difference).is_within(0.5) is ok
    assert Comparison("serving_default", "scores", "a case", 1e-7, difference, 0.0).is_within(0.5) is True
    assert Comparison("serving_default", "scores", "a case", 2e-7, difference, 0.0).is_within(0.5) is ok


@pytest.mark.parametrize(("same", "ok"), [(89, False), (90, True), (91, True)])
def test_exactly_the_wanted_share_of_rows_agrees(same, ok):
    comparisons = (Comparison.of("serving_default", "scores", "a case", [1.0], [1.0]),)
    agreement = Agreement("scores", same, 100)
    assert Report("path", "onnx", 1, 0.0, 1e-4, comparisons, agreement=agreement, min_agreement=0.9).ok is ok
    assert Report("path", "onnx", 1, 0.0, 1e-4, comparisons, agreement=agreement).ok
    assert not Report("path", "onnx", 1, 0.0, 1e-4, comparisons, min_agreement=0.9).ok


def test_nan_from_float64_fails_a_comparison():
    comparison = Comparison.of("serving_default", "scores", "a case", [0.5], [0.5], [np.nan])
    assert not comparison.is_within(1e-4)
