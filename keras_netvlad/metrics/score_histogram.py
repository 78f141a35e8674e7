"""Average precision from histograms of scores, which add up over batches and devices."""

from typing import Any

from keras import ops

from keras_netvlad.base.validation import concrete_values
from keras_netvlad.metrics.batches import row_weights, to_numbers

# The largest logit of float32 probabilities: 1 - 2**-24 has the logit 16.6.
LARGEST_LOGIT = 17.0
# The tolerance for scores outside 0 to 1. A mean of bfloat16 scores of 1 can be off by 4e-3.
ROUNDING = 0.01


def bins_of(scores: Any, num_bins: int) -> Any:
    """Returns the int32 bin of each score. Bins are equally wide in logits, so scores near 0 and 1 are resolved."""
    scores = ops.clip(ops.cast(scores, "float32"), 1e-30, 1.0)
    logits = ops.log(scores) - ops.log1p(-ops.minimum(scores, 1.0 - 2.0**-24))
    places = (logits + LARGEST_LOGIT) * (num_bins / (2.0 * LARGEST_LOGIT))
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

    Scores of one bin are treated as if in random order, as the evaluation code of YouTube-8M treats equal scores: on
    average, half of the other scores of the bin come before each score.

    Args:
        counts: Histograms, from `histogram`.
        num_positives: `(...)`, the weight of all positives, including those outside the histogram.
    """
    counts = ops.flip(counts, axis=-2)  # from high scores to low
    before = ops.cumsum(counts[..., :2], axis=-2) - counts[..., :2]
    mean_weight = ops.divide_no_nan(counts[..., 1], counts[..., 2])
    found = before[..., 0] + 0.5 * (counts[..., 0] + mean_weight)
    ranked = before[..., 1] + 0.5 * (counts[..., 1] + mean_weight)
    precisions = ops.divide_no_nan(found, ranked)
    return ops.divide_no_nan(ops.sum(counts[..., 0] * precisions, axis=-1), ops.convert_to_tensor(num_positives))


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
