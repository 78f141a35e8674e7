"""The metrics of YouTube-8M on generated scores, next to an enumeration of all orders and to scikit-learn."""

import keras
import numpy as np
import pytest
import youtube8m_metrics as definitions
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_netvlad.metrics import PERR, GlobalAveragePrecision, HitAtOne, MeanAveragePrecision

# Float32 next to float64: 2e-7 measured at worst, headroom 5.
TOLERANCE = 1e-6
SHAPES = [(1, 1), (1, 5), (2, 4), (3, 3), (4, 2), (8, 1)]
# Each in another bin, also with 2,048 bins: the ends, their neighbors, and small scores.
PALETTE = [0.0, 2.0**-125, 1e-30, 1e-12, 1e-12 * (1 + 1e-1), 1e-6, 0.3, 0.5, 0.7, 1 - 1e-6, 1.0]
LEAST_SCORE = 2.0**-126


def videos(scores):
    """Labels and scores `(B, C)` of a few videos, with many equal scores."""

    def of_shape(shape):
        size = shape[0] * shape[1]
        return st.tuples(
            st.lists(st.booleans(), min_size=size, max_size=size).map(lambda v: np.reshape(v, shape).astype("float32")),
            st.lists(scores, min_size=size, max_size=size).map(lambda v: np.reshape(v, shape).astype("float32")),
        )

    return st.sampled_from(SHAPES).flatmap(of_shape)


def result(metric, *arguments):
    metric.update_state(*arguments)
    return float(metric.result())


def generated(strategy, examples=30):
    return lambda test: settings(max_examples=examples, deadline=None, derandomize=True)(given(strategy)(test))


def assert_within(metric, lowest, highest):
    received = [float(value) for value in metric.bounds()]
    np.testing.assert_allclose(received, [lowest, highest], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@generated(st.tuples(videos(st.sampled_from(PALETTE)), st.integers(1, 5), st.sampled_from([0.25, 1.0, 40.0])))
def test_equal_scores_count_as_the_mean_over_all_their_orders(case):
    (labels, scores), top_k, weight = case
    gap = GlobalAveragePrecision(top_k=top_k, num_bins=2**11)
    expected, lowest, highest = definitions.gap(labels, scores, top_k)
    assert abs(result(gap, labels, scores, weight) - expected) < TOLERANCE
    if top_k >= labels.shape[1]:
        assert_within(gap, lowest, highest)
    mean = MeanAveragePrecision(labels.shape[1], top_k=None)
    expected, lowest, highest = definitions.mean_average_precision(labels, scores)
    assert abs(result(mean, labels, scores, weight) - expected) < TOLERANCE
    assert_within(mean, lowest, highest)


@pytest.mark.backends
@generated(videos(st.floats(0, 1, width=32)))
def test_the_exact_value_lies_within_the_bounds(case):
    labels, scores = case
    counted = np.where(scores < LEAST_SCORE, 0.0, scores)
    for metric, definition in (
        (GlobalAveragePrecision(num_bins=50), lambda *arrays: definitions.gap(*arrays, 20)),
        (MeanAveragePrecision(labels.shape[1], num_bins=50), definitions.mean_average_precision),
    ):
        received = result(metric, labels, scores)
        _, worst, best = definition(labels, counted)
        lowest, highest = (float(value) for value in metric.bounds())
        assert lowest - TOLERANCE < worst <= best < highest + TOLERANCE
        assert lowest - TOLERANCE < received < highest + TOLERANCE


SCORES_AND_LOGITS = st.one_of(
    st.sampled_from([*PALETTE, -0.0, -3.0, 7.0, float("inf"), -float("inf")]), st.floats(-9, 9, width=32)
)


@pytest.mark.backends
@generated(videos(SCORES_AND_LOGITS))
def test_equal_recall_and_the_first_hit_are_those_of_the_definition(case):
    labels, scores = case
    assert abs(result(PERR(), labels, scores) - definitions.perr(labels, scores)) < TOLERANCE
    assert abs(result(HitAtOne(), labels, scores) - definitions.hit_at_one(labels, scores)) < TOLERANCE


def test_no_order_of_the_classes_helps_a_model_of_equal_scores():
    """The classes of YouTube-8M are sorted by frequency, so the first of equal scores would be a good guess."""
    labels = np.array([[1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0]], "float32")
    for classes in (slice(None), slice(None, None, -1)):
        for scores in (np.zeros(labels.shape, "float32"), np.full(labels.shape, 0.5, "float32")):
            gap = result(GlobalAveragePrecision(top_k=2), labels[:, classes], scores)
            assert abs(gap - definitions.gap(labels, scores, 2)[0]) < TOLERANCE
            assert abs(result(PERR(), labels[:, classes], scores) - 1 / 3) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [1, 5])
def test_different_scores_of_weighted_videos_are_those_of_scikit_learn(sharpness):
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="`make test` installs scikit-learn")
    rng = np.random.default_rng(sharpness)
    labels = (rng.random((50, 8)) < 0.2).astype("float32")
    labels[0] = 1.0
    logits = rng.normal(size=labels.shape) + labels
    scores = keras.ops.convert_to_numpy(keras.ops.softmax((sharpness * logits).astype("float32")))
    assert len(np.unique(scores)) == scores.size
    assert scores.min() < {1: 3e-3, 5: 1e-10}[sharpness]
    weights = rng.integers(1, 4, len(labels)).astype("float32")
    precision = sklearn_metrics.average_precision_score
    gap, mean = GlobalAveragePrecision(num_bins=2**22), MeanAveragePrecision(8, num_bins=2**20)
    expected = precision(labels.ravel(), scores.ravel(), sample_weight=np.repeat(weights, 8))
    assert abs(result(gap, labels, scores, weights) - expected) < TOLERANCE
    expected = precision(labels, scores, average="macro", sample_weight=weights)
    assert abs(result(mean, labels, scores, weights) - expected) < TOLERANCE


def test_scikit_learn_gives_equal_scores_the_precision_of_the_last():
    """The documented difference: one threshold for equal scores, which no order of them has."""
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="`make test` installs scikit-learn")
    labels, scores = np.array([[1.0], [0.0]]), np.array([[0.5], [0.5]])
    assert sklearn_metrics.average_precision_score(labels, scores) == 0.5
    metric = MeanAveragePrecision(1)
    assert result(metric, labels, scores) == pytest.approx(0.75)
    assert_within(metric, 0.5, 1.0)


def test_a_label_of_score_zero_is_a_hit_unlike_in_the_code_of_youtube_8m():
    labels, scores = np.array([[1, 0, 1]], "float32"), np.array([[0.9, 0.0, 0.0]], "float32")
    # There 1/2 whatever the order, since a score of 0 never counts.
    assert result(PERR(), labels, scores) == pytest.approx(0.75)
