"""Average precision from histograms of scores, which add up over batches and devices."""

from keras import ops

from keras_netvlad.base.validation import concrete_values
from keras_netvlad.metrics.batches import row_weights, to_numbers

# Logits that float32 probabilities reach: 1 - 2**-24 and 2**-24 have the logits 16.6 and -16.6.
LARGEST_LOGIT = 17.0
# By how much a score may miss 0 to 1: a mean of bfloat16 scores of 1 does by 4e-3.
ROUNDING = 0.01


def bins_of(scores, num_bins):
    """Returns the bin of each score, int32; bins are equally wide in logits, so that both ends are resolved."""
    scores = ops.clip(ops.cast(scores, "float32"), 1e-30, 1.0)
    logits = ops.log(scores) - ops.log1p(-ops.minimum(scores, 1.0 - 2.0**-24))
    places = (logits + LARGEST_LOGIT) * (num_bins / (2.0 * LARGEST_LOGIT))
    return ops.cast(ops.clip(places, 0.0, num_bins - 1.0), "int32")


def histogram(scores, found, weights, num_bins, classes=None, num_classes=1):
    """Returns the histogram `(num_classes * bins, 3)` of scores: weights of positives, of all, and how many they are.

    Args:
        scores: `(B, k)`.
        found: `(B, k)`, 1.0 where the score is that of a label.
        weights: `(B, 1)`, of the videos.
        num_bins: Bins a class.
        classes: `(B, k)` integers, each score's class; or `None` for one histogram of all.
        num_classes: How many classes there are.
    """
    weights = weights * ops.ones_like(found)
    entries = ops.stack([found * weights, weights, ops.cast(weights > 0, "float32")], axis=-1)  # (B, k, 3)
    places = bins_of(scores, num_bins)
    if classes is not None:
        places = places + num_bins * ops.cast(classes, "int32")
    return ops.segment_sum(ops.reshape(entries, (-1, 3)), ops.reshape(places, (-1,)), num_classes * num_bins)


def average_precision(counts, num_positives):
    """Returns the average precision of histograms `(..., bins, 3)`, of scores from low to high.

    Scores of one bin count as in random order, which is how YouTube-8M's evaluation code orders equal scores: on the
    average, half of the bin's others, positives and all, come before each.

    Args:
        counts: As from `histogram`.
        num_positives: `(...)`, all positives, counted in a bin or not.
    """
    counts = ops.flip(counts, axis=-2)  # from high scores to low
    before = ops.cumsum(counts[..., :2], axis=-2) - counts[..., :2]
    mean_weight = ops.divide_no_nan(counts[..., 1], counts[..., 2])
    found = before[..., 0] + 0.5 * (counts[..., 0] + mean_weight)
    ranked = before[..., 1] + 0.5 * (counts[..., 1] + mean_weight)
    precisions = ops.divide_no_nan(found, ranked)
    return ops.divide_no_nan(ops.sum(counts[..., 0] * precisions, axis=-1), ops.convert_to_tensor(num_positives))


def labels_and_weights(name, y_true, y_pred, sample_weight):
    """Returns labels `(B, C)` of 0.0 and 1.0, scores `(B, C)` and weights `(B,)`, or raises on other shapes."""
    y_true, y_pred = to_numbers(name, y_true=y_true, y_pred=y_pred)
    same = len(y_true.shape) == 2 and all(
        a is None or b is None or a == b for a, b in zip(y_true.shape, y_pred.shape, strict=False)
    )
    if len(y_pred.shape) != 2 or not same:
        raise ValueError(
            f"`{name}` takes labels and scores (videos, classes), a label being 1 for each class that a video has. "
            f"Received: y_true of shape {tuple(y_true.shape)} and y_pred of shape {tuple(y_pred.shape)}"
        )
    labels = ops.cast(ops.cast(y_true, "float32") >= 0.5, "float32")
    weights = row_weights(name, sample_weight, "video", y_pred)
    scores = ops.cast(y_pred, "float32")
    # A NaN score has no rank; without this a broken model can come out as a perfect one.
    has_nan = ops.any(ops.isnan(scores), axis=1)
    return labels, scores, ops.where(has_nan, float("nan"), weights)


def check_probabilities(name, scores, weights):
    """Raises if scores `(B, C)` are not from 0 to 1, or where none have values yet, returns weights that are NaN."""
    values = concrete_values(scores)
    if values is not None and values.size and (values.min() < -ROUNDING or values.max() > 1 + ROUNDING):
        raise ValueError(
            f"`{name}` takes scores from 0 to 1; put a sigmoid or a softmax behind logits. "
            f"Received: scores from {values.min():.4g} to {values.max():.4g}"
        )
    misses = ops.logical_or(scores < -ROUNDING, scores > 1 + ROUNDING)
    return ops.where(ops.any(misses, axis=1), float("nan"), weights)
