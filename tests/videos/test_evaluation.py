"""Metrics and confidence intervals, compared with scikit-learn and with intervals that are known."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from keras_netvlad.metrics import GlobalAveragePrecision
from keras_netvlad.videos.evaluation import (
    accuracy,
    average_precisions,
    estimate,
    global_average_precision,
    recalls,
)


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    labels = (rng.random((40, 30)) < 0.1).astype(int)
    labels[:, 7] = 0
    return rng.random((40, 30)) + 0.4 * labels, labels


def test_gap_is_that_of_the_metric(answers):
    scores, labels = answers
    metric = GlobalAveragePrecision()
    metric.update_state(labels, (scores / 1.5).astype("float32"))
    np.testing.assert_allclose(global_average_precision(scores / 1.5, labels), float(metric.result()), atol=1e-5)


def test_average_precision_is_that_of_scikit_learn(answers):
    scores, labels = answers
    for number, value in enumerate(average_precisions(scores, labels)):
        if not labels[:, number].any():
            assert value is None
        else:
            np.testing.assert_allclose(value, average_precision_score(labels[:, number], scores[:, number]))


def test_accuracy_and_recall():
    labels = np.eye(3, dtype=int)[[0, 0, 1, 1, 1]]
    scores = np.eye(3)[[0, 1, 1, 1, 1]]
    assert accuracy(scores, labels) == 0.8
    assert recalls(scores, labels) == [0.5, 1.0, None]


def test_whole_groups_are_drawn():
    """With 10 groups of 10 equal videos, the interval is that of 10 videos: about 0.2 to 0.8 at 0.5."""
    labels = np.eye(2, dtype=int)[np.zeros(100, int)]
    scores = np.eye(2)[np.repeat([0, 1], 50)]
    alone = estimate(accuracy, scores, labels, [f"{n}" for n in range(100)])
    grouped = estimate(accuracy, scores, labels, [f"{n // 10}" for n in range(100)])
    assert alone.value == grouped.value == 0.5
    # 1.96 standard deviations of the mean of 100, and of 10, coins.
    np.testing.assert_allclose([alone.low, alone.high], [0.4, 0.6], atol=0.02)
    np.testing.assert_allclose([grouped.low, grouped.high], [0.2, 0.8], atol=0.11)
    assert grouped.high - grouped.low > 0.5
