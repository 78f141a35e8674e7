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


def best_scores(labels: Any, scores: Any, top_k: int) -> tuple[Any, Any, Any]:
    """Returns the highest scores of each video, and which of them are those of labels, as means over equal scores.

    If more scores than fit equal the last of the highest, each of them is taken equally often: of `g` equal scores, `p`
    of them labels, `s` are taken, and each is a label with probability `q = p / g`.

    Args:
        labels: `(B, C)`, 1.0 for labels.
        scores: `(B, C)`.
        top_k: Number of scores to take, at most `C`.

    Returns:
        Scores `(B, top_k)`, from high to low; `found` `(B, top_k)`, the probability of each to be a label; and
        `repeated` `(B, top_k)`, whose sum over the scores of one value is `m^2 - m (m - 1)` on average, where `m` is
        the number of labels among them. Both are 0 or 1 where all equal scores are taken.
    """
    best, classes = ops.top_k(scores, top_k)
    found = ops.take_along_axis(labels, classes, axis=1)
    is_last = scores == best[:, -1:]  # (B, C)
    taken = best == best[:, -1:]  # (B, top_k)
    equal = ops.sum(ops.cast(is_last, "float32"), axis=1, keepdims=True)  # g (B, 1)
    positive = ops.sum(ops.where(is_last, labels, 0.0), axis=1, keepdims=True)  # p
    slots = ops.sum(ops.cast(taken, "float32"), axis=1, keepdims=True)  # s
    share = ops.divide_no_nan(positive, equal)  # q
    # On average m (m - 1) = s (s - 1) p (p - 1) / (g (g - 1)), and `s` scores have the sum (s q)^2 - m (m - 1).
    pairs = (slots - 1.0) * share * ops.divide_no_nan(positive - 1.0, equal - 1.0)
    is_cut = ops.logical_and(taken, equal > slots)
    return best, ops.where(is_cut, share, found), ops.where(is_cut, slots * ops.square(share) - pairs, found)


def histogram(
    scores: Any,
    found: Any,
    weights: Any,
    num_bins: int,
    classes: Any = None,
    num_classes: int = 1,
    repeated: Any = None,
) -> Any:
    """Returns the histogram: weight of the positives, weight of all scores, their number; and the sum of `repeated`.

    Args:
        scores: Scores `(B, k)`.
        found: `(B, k)`, 1.0 for the scores of labels, or the probability that a score belongs to a label.
        weights: Weights of the videos `(B, 1)`.
        num_bins: Number of bins per class.
        classes: Integers `(B, k)`, the class of each score; or `None` for one histogram of all scores.
        num_classes: Number of classes.
        repeated: `(B, k)`, as from `best_scores`; or `None` if `found` holds no probabilities.

    Returns:
        `(num_classes * num_bins, 3)`, or 4 columns with `repeated`.
    """
    weights = weights * ops.ones_like(found)
    columns = [found * weights, weights, ops.cast(weights > 0, "float32")]
    columns += [] if repeated is None else [repeated * weights]
    places = bins_of(scores, num_bins)
    if classes is not None:
        places = places + num_bins * ops.cast(classes, "int32")
    entries = ops.reshape(ops.stack(columns, axis=-1), (-1, len(columns)))
    return ops.segment_sum(entries, ops.reshape(places, (-1,)), num_classes * num_bins)


def average_precision(counts: Any, num_positives: Any) -> Any:
    """Returns the average precision of histograms `(..., bins, 3 or 4)`, of scores from low to high.

    Scores of one bin are treated as equal scores. The result is the mean over all orders of equal scores. In a bin of
    `n` scores, `m` of them positive, behind `R` scores of which `F` are positive, the score at rank `R + j` is positive
    with probability `m / n`, and then `(j - 1) a` of the scores before it in the bin are positive on average, with
    `a = (m - 1) / (n - 1)`. The bin contributes

        m / n  sum_j (F + 1 + (j - 1) a) / (R + j)
            = m / n  (n a + (F + 1 - (R + 1) a) (psi(R + n + 1) - psi(R + 1)))

    where `psi` is the digamma function. Weights are measured in the mean weight of the bin. This is exact if the scores
    of a bin have equal weights. If `m` is known on average only, `a = (m - r / m) / (n - 1)`, with the sum `r` of
    `repeated`; otherwise `r = m`.

    Args:
        counts: Histograms, from `histogram`.
        num_positives: `(...)`, the weight of all positives, including those outside the histogram.
    """
    positives, size, found, rank, per_score = _bins_from_high_to_low(counts)
    repeated = ops.flip(counts[..., -1], axis=-1) if counts.shape[-1] == 4 else positives
    others = positives * per_score - ops.divide_no_nan(repeated, positives)
    share = ops.divide_no_nan(others, size - 1.0)  # a
    found = found + 1.0 - (rank + 1.0) * share
    precisions = share + found * (_digamma_difference(rank + 1.0, size) / size)
    return ops.divide_no_nan(ops.sum(positives * precisions, axis=-1), ops.convert_to_tensor(num_positives))


def average_precision_bounds(counts: Any, num_positives: Any) -> tuple[Any, Any]:
    """Returns the average precision of the worst and of the best order of the scores of each bin.

    With its `m` positives last, or first, a bin of `n` scores behind `R` scores with `F` positives contributes

        sum_{j=1..m} (F + j) / (R + n - m + j),    sum_{j=1..m} (F + j) / (R + j)

    Args:
        counts: Histograms, as for `average_precision`, of scores of equal weights.
        num_positives: As for `average_precision`.
    """
    positives, size, found, rank, per_score = _bins_from_high_to_low(counts)
    number = positives * per_score  # m
    totals = []
    for offset in (rank + size - number, rank):  # o, in sum_j (F + j) / (o + j)
        series = _digamma_difference(offset + 1.0, ops.maximum(number, 1.0))
        precisions = number + (found - offset) * ops.where(number > 0, series, 0.0)
        weights = ops.divide_no_nan(positives, number)
        totals.append(ops.divide_no_nan(ops.sum(weights * precisions, axis=-1), ops.convert_to_tensor(num_positives)))
    return totals[0], totals[1]


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


def _bins_from_high_to_low(counts):
    """Returns for each bin the weight of its positives, `n`, `F`, `R` and the inverse of its mean weight.

    `F` and `R` are measured in the mean weight of the bin.
    """
    counts = ops.flip(counts[..., :3], axis=-2)
    before = ops.cumsum(counts[..., :2], axis=-2) - counts[..., :2]
    per_score = ops.divide_no_nan(counts[..., 2], counts[..., 1])
    found, rank = before[..., 0] * per_score, before[..., 1] * per_score
    return counts[..., 0], ops.maximum(counts[..., 2], 1.0), found, rank, per_score


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
