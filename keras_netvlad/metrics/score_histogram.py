"""Average precision from histograms of scores, which add up over batches and devices."""

from typing import Any

import numpy as np
from keras import ops

from keras_netvlad.base.validation import concrete_values
from keras_netvlad.metrics.batches import row_weights, to_numbers

# The smallest positive normal float32. Smaller scores count as 0, as on processors that flush them to 0.
LEAST_SCORE = 2.0**-126
# Half the distance from 1 to the largest float32 below it, so that a score of 1 has a larger logit than that number.
LEAST_COMPLEMENT = 2.0**-25
# The width of the bins is proportional to `WIDENING + |logit|`.
WIDENING = 10.0
# The tolerance for scores outside 0 to 1. A mean of bfloat16 scores of 1 can be off by 4e-3.
ROUNDING = 0.01


def bins_of(scores: Any, num_bins: int) -> Any:
    """Returns the int32 bin of each score.

    The bins divide the range of `sign(logit) log(1 + |logit| / 10)` equally. They are narrowest at scores of 0.5, and
    they resolve scores near 0 and 1: float32 has scores down to 1e-38, at a logit of -87, and up to a logit of 17. With
    `n` bins the odds of two scores of one bin differ at most by the factor `exp(3.3 (10 + |logit|) / n)`.
    """
    scores = ops.clip(ops.cast(scores, "float32"), LEAST_SCORE, 1.0)
    places = _widened(ops.log(scores) - ops.log(ops.maximum(1.0 - scores, LEAST_COMPLEMENT)), ops)
    lowest, highest = _widened(np.log([LEAST_SCORE, 1.0 / LEAST_COMPLEMENT]), np)
    places = (places - lowest) * (num_bins / (highest - lowest))
    return ops.cast(ops.clip(places, 0.0, num_bins - 1.0), "int32")


def histogram(scores: Any, found: Any, weights: Any, num_bins: int, classes: Any = None, num_classes: int = 1) -> Any:
    """Returns the histogram `(num_classes * bins, 3)`: weight of the positives, weight of all scores, their number.

    Args:
        scores: Scores `(B, k)`.
        found: `(B, k)`, 1.0 for the scores of labels.
        weights: Weights of the videos `(B, 1)`.
        num_bins: Number of bins per class.
        classes: Integers `(B, k)`, the class of each score; or `None` for one histogram of all scores.
        num_classes: Number of classes.
    """
    weights = weights * ops.ones_like(found)
    entries = ops.stack([found * weights, weights, ops.cast(weights > 0, "float32")], axis=-1)  # (B, k, 3)
    places = bins_of(scores, num_bins)
    if classes is not None:
        places = places + num_bins * ops.cast(classes, "int32")
    return ops.segment_sum(ops.reshape(entries, (-1, 3)), ops.reshape(places, (-1,)), num_classes * num_bins)


def average_precision(counts: Any, num_positives: Any) -> Any:
    """Returns the average precision of histograms `(..., bins, 3)`, of scores from low to high.

    Scores of one bin are treated as equal scores. The result is the mean over all orders of equal scores. In a bin of
    `n` scores, `m` of them positive, behind `R` scores of which `F` are positive, the score at rank `R + j` is positive
    with probability `m / n`, and then `(j - 1) a` of the scores before it in the bin are positive on average, with
    `a = (m - 1) / (n - 1)`. The bin contributes

        m / n  sum_j (F + 1 + (j - 1) a) / (R + j)
            = m / n  (n a + (F + 1 - (R + 1) a) (psi(R + n + 1) - psi(R + 1)))

    where `psi` is the digamma function. Weights are measured in the mean weight of the bin. This is exact if the scores
    of a bin have equal weights.

    Args:
        counts: Histograms, from `histogram`.
        num_positives: `(...)`, the weight of all positives, including those outside the histogram.
    """
    counts = ops.flip(counts, axis=-2)  # from high scores to low
    before = ops.cumsum(counts[..., :2], axis=-2) - counts[..., :2]
    positives, size = counts[..., 0], ops.maximum(counts[..., 2], 1.0)
    per_score = ops.divide_no_nan(counts[..., 2], counts[..., 1])  # 1 / mean weight
    share = ops.divide_no_nan(positives * per_score - 1.0, size - 1.0)  # a
    first_rank = before[..., 1] * per_score + 1.0
    found = before[..., 0] * per_score + 1.0 - first_rank * share
    precisions = share + found * (_digamma_difference(first_rank, size) / size)
    return ops.divide_no_nan(ops.sum(positives * precisions, axis=-1), ops.convert_to_tensor(num_positives))


def labels_and_weights(name: str, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Returns labels `(B, C)` of 0.0 and 1.0, scores `(B, C)` and weights `(B,)`, or raises on other shapes."""
    y_true, y_pred = to_numbers(name, y_true=y_true, y_pred=y_pred)
    same = len(y_true.shape) == 2 and all(
        a is None or b is None or a == b for a, b in zip(y_true.shape, y_pred.shape, strict=False)
    )
    if len(y_pred.shape) != 2 or not same:
        raise ValueError(
            f"`{name}` takes labels and scores (videos, classes), with a label of 1 for each class of a video. "
            f"Received: y_true of shape {tuple(y_true.shape)} and y_pred of shape {tuple(y_pred.shape)}"
        )
    labels = ops.cast(ops.cast(y_true, "float32") >= 0.5, "float32")
    weights = row_weights(name, sample_weight, "video", y_pred)
    scores = ops.cast(y_pred, "float32")
    # A NaN score has no rank. Without this a broken model could look perfect.
    has_nan = ops.any(ops.isnan(scores), axis=1)
    return labels, scores, ops.where(has_nan, float("nan"), weights)


def check_probabilities(name: str, scores: Any, weights: Any) -> Any:
    """Returns the weights of the videos, or raises if scores `(B, C)` are not from 0 to 1.

    In a compiled graph, whose values are unknown, the weight of a video with such scores becomes NaN instead.
    """
    values = concrete_values(scores)
    if values is not None and values.size and (values.min() < -ROUNDING or values.max() > 1 + ROUNDING):
        raise ValueError(
            f"`{name}` takes scores from 0 to 1; apply a sigmoid or a softmax to logits. "
            f"Received: scores from {values.min():.4g} to {values.max():.4g}"
        )
    misses = ops.logical_or(scores < -ROUNDING, scores > 1 + ROUNDING)
    return ops.where(ops.any(misses, axis=1), float("nan"), weights)


def _widened(logits, numpy):
    """Returns `sign(x) log(1 + |x| / 10)`, with functions of NumPy or of `keras.ops`."""
    return numpy.sign(logits) * numpy.log1p(numpy.abs(logits) * (1.0 / WIDENING))


def _digamma_difference(x, n):
    """Returns `psi(x + n) - psi(x)` for `x >= 1` and `n >= 1`, with a relative error of float32's rounding.

    For integers this is the sum `1 / x + ... + 1 / (x + n - 1)`. `psi(x) = psi(x + 4) - sum_{i<4} 1 / (x + i)`, and for
    large `z` `psi(z + 1/2) = log(z) + 1 / (24 z^2) - 7 / (960 z^4) + 31 / (8064 z^6) - ...`. Both are subtracted term
    by term, because `psi(x + n)` and `psi(x)` are nearly equal for large `x`.
    """
    steps = sum(1.0 / ((x + i) * (x + n + i)) for i in range(4))
    low, high = 1.0 / ops.square(x + 3.5), 1.0 / ops.square(x + n + 3.5)
    return n * steps + ops.log1p(n / (x + 3.5)) + (_tail(high) - _tail(low))


def _tail(square):
    return square * (1 / 24 + square * (-7 / 960 + square * (31 / 8064)))
