"""The loss and the metric of rated segments, next to their definitions."""

import keras
import numpy as np
import pytest

from keras_netvlad.losses import RatedBinaryCrossentropy
from keras_netvlad.metrics import SegmentMeanAveragePrecision

pytestmark = pytest.mark.backends


def rated_segments(seed, segments=200, classes=7):
    """Labels with -1 for most classes, and scores of which no two of a class lie in one bin."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((segments, classes)) < 0.3, rng.integers(0, 2, (segments, classes)), -1)
    labels[:, 0] = -1  # Of this class nobody rated a segment; it has no part in the mean.
    labels[labels[:, 1] > 0, 1] = 0  # This one occurs nowhere.
    scores = np.stack([rng.permutation(np.linspace(0.01, 0.99, segments)) for _ in range(classes)], axis=1)
    return labels, scores


def map_at_k(labels, scores, top_k):
    """MAP@K by its definition."""
    precisions = []
    for truth, values in zip(labels.T, scores.T, strict=True):
        best = truth[np.argsort(-values)][:top_k]
        ranked = best[best >= 0]
        if (truth > 0).any():
            found = [ranked[: rank + 1].mean() for rank in np.flatnonzero(ranked)]
            precisions.append(sum(found) / (truth > 0).sum())
    return np.mean(precisions)


# `googles` is what the steps of `segment_eval_inference.py` of google/youtube-8m return for `rated_segments(0)`.
@pytest.mark.parametrize(
    ("top_k", "googles"), [(1, 0.0076923), (50, 0.1473593), (200, 0.5387270), (100_000, 0.5387270)]
)
def test_map_at_k_is_that_of_the_challenge(top_k, googles):
    labels, scores = rated_segments(0)
    metric = SegmentMeanAveragePrecision(7, top_k=top_k)
    for part in (slice(0, 90), slice(90, 200)):
        metric.update_state(labels[part], scores[part])
    assert map_at_k(labels, scores, top_k) == pytest.approx(googles, abs=1e-6)
    # Measured 1e-7 at most.
    assert float(metric.result()) == pytest.approx(googles, abs=1e-6)


def test_a_cut_within_a_bin_counts_the_bin_in_proportion():
    # Four equal scores, all rated, one of them positive, of which half are ranked: half of the mean over all orders.
    metric = SegmentMeanAveragePrecision(1, top_k=2)
    metric.update_state([[1], [0], [0], [0]], np.full((4, 1), 0.5))
    whole = SegmentMeanAveragePrecision(1, top_k=4)
    whole.update_state([[1], [0], [0], [0]], np.full((4, 1), 0.5))
    assert float(whole.result()) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert 0 < float(metric.result()) < float(whole.result())


def test_segments_of_weight_0_have_no_rank():
    metric = SegmentMeanAveragePrecision(1, top_k=2)
    metric.update_state([[-1], [0], [1]], [[0.9], [0.8], [0.7]], sample_weight=[0, 1, 1])
    assert float(metric.result()) == pytest.approx(0.5)
    copy = SegmentMeanAveragePrecision.from_config(metric.get_config())
    copy.update_state([[-1], [0], [1]], [[0.9], [0.8], [0.7]])
    assert float(copy.result()) == 0.0  # The positive has rank 3.


def test_wrong_segments_are_named():
    metric = SegmentMeanAveragePrecision(3)
    with pytest.raises(ValueError, match=r"`map_at_k` was made for 3 classes. Received: scores of shape \(2, 2\)"):
        metric.update_state(np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="`map_at_k` takes scores from 0 to 1"):
        metric.update_state(np.zeros((2, 3)), np.full((2, 3), 7.0))
    with pytest.raises(ValueError, match=r"`rated_binary_crossentropy` takes labels and scores \(segments, classes\)"):
        RatedBinaryCrossentropy()(np.zeros((2, 3)), np.zeros((2, 2)))


def test_only_rated_classes_have_a_loss_and_a_gradient():
    labels, scores = rated_segments(1, segments=6)
    scores[0, :2] = 0.0, 1.0
    expected = -np.where(
        labels >= 0, labels * np.log(scores + 1e-5) + (1 - labels) * np.log(1 - scores + 1e-5), 0.0
    ).sum(axis=1)
    loss = RatedBinaryCrossentropy.from_config(RatedBinaryCrossentropy(reduction="none").get_config())
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss(labels, scores)), expected, rtol=1e-5)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "sigmoid")])
    model.compile(keras.optimizers.SGD(1.0), RatedBinaryCrossentropy())
    before = keras.ops.convert_to_numpy(model.weights[0])
    model.train_on_batch(np.ones((2, 2), "float32"), np.array([[1.0, -1.0, 0.0], [-1.0, -1.0, -1.0]], "float32"))
    change = keras.ops.convert_to_numpy(model.weights[0]) - before
    assert (change[:, 0] > 0).all()
    assert (change[:, 1] == 0).all()
    assert (change[:, 2] < 0).all()
