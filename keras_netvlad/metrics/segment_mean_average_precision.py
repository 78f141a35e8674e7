"""`SegmentMeanAveragePrecision`: MAP@K of rated segments, the metric of the YouTube-8M challenge of 2019."""

from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_integer, check_name
from keras_netvlad.metrics.batches import check_num_classes
from keras_netvlad.metrics.score_histogram import (
    average_precision,
    bins_of,
    check_probabilities,
    labels_and_weights,
)


@keras.saving.register_keras_serializable(package="keras_netvlad")
class SegmentMeanAveragePrecision(keras.metrics.Metric):
    """MAP@K: for each class, the average precision of its `K` best segments, and the mean over the classes.

    The segments are ranked by the score of the class, and those beyond rank `K` are removed; then those that were not
    rated for the class. With the precision `P(i)` at rank `i` of what remains, and the number `N_c` of all segments in
    which the class occurs:

        MAP@K = 1 / C  sum_c  1 / N_c  sum_i P(i) [segment i shows c]

    Classes that occur in no segment are left out of the mean. The challenge had K = 100,000 and ranked all segments of
    the test videos. `K` counts segments that were not rated, so it matters only if there are more than `K` segments.

    The state is a histogram of scores per class, as in `MeanAveragePrecision`: of constant size, 32 kB for each class,
    and additive over batches and devices. Scores of one bin count as equal, and equal scores as the mean over all their
    orders. If rank `K` lies within a bin, the bin counts in proportion. On 2,000 segments of 50 classes this changed
    MAP@K by 4e-5 at most, and by 8e-4 at K = 500. More bins are finer.

    Args:
        num_classes: Integer, `C`.
        top_k: Integer, `K`.
        num_bins: Integer, the number of bins of each histogram.
        name: Name of the metric in logs.
        dtype: As for any Keras metric. The metric computes in float32.

    Call arguments:
        y_true: Labels `(B, C)`: 0.5 or more for a class that occurs in the segment, below for one that does not, and -1
            for a class that was not rated, as `youtube8m(level="segment")` gives them.
        y_pred: Scores `(B, C)` from 0 to 1. Other values, such as logits, raise an error in eager calls and make the
            result NaN in a compiled step. A NaN score makes the result NaN.
        sample_weight: Optional weight of each segment, `(B,)` or `(B, 1)`. A segment of weight 0 has no rank.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.metrics import SegmentMeanAveragePrecision
    >>> metric = SegmentMeanAveragePrecision(num_classes=2)
    >>> labels = np.array([[1, -1], [-1, 1], [0, -1], [1, 0]])
    >>> metric.update_state(labels, np.array([[0.9, 0.5], [0.8, 0.4], [0.7, 0.3], [0.6, 0.2]]))
    >>> round(float(metric.result()), 4)  # of class 0: 1 and 2 of 3; of class 1: 1
    0.9167

    Raises:
        ValueError: If an argument is invalid, or if labels, scores or weights do not have these shapes or values.

    Reference:
        - [The 3rd YouTube-8M Video Understanding Challenge](https://www.kaggle.com/c/youtube8m-2019/overview/evaluation)
          and `segment_eval_inference.py` of [google/youtube-8m](https://github.com/google/youtube-8m).
    """

    def __init__(
        self,
        num_classes: int,
        top_k: int = 100_000,
        num_bins: int = 2**11,
        name: str | None = "map_at_k",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=check_name(name), dtype=dtype)
        self.num_classes = check_integer("num_classes", num_classes, 1)
        self.top_k = check_integer("top_k", top_k, 1)
        self.num_bins = check_integer("num_bins", num_bins, 1)
        # Of each bin: weight of the rated segments with the class, weight and number of the rated, number of all.
        self.counts = self.add_variable((self.num_classes * self.num_bins, 4), "zeros", dtype="float32", name="counts")
        self.num_positives = self.add_variable((self.num_classes,), "zeros", dtype="float32", name="num_positives")

    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Adds a batch of segments."""
        labels, scores, weights = labels_and_weights(self.name, y_true, y_pred, sample_weight)
        check_num_classes(self.name, scores, self.num_classes)
        weights = ops.expand_dims(check_probabilities(self.name, scores, weights), 1)  # (B, 1)
        is_rated = ops.cast(ops.convert_to_tensor(y_true) >= 0, "float32")  # (B, C)
        is_counted = ops.cast(weights != 0, "float32") * ops.ones_like(scores)
        columns = [labels * weights, is_rated * weights, is_rated * is_counted, is_counted]
        entries = ops.reshape(ops.stack(columns, axis=-1), (-1, 4))
        places = bins_of(scores, self.num_bins) + self.num_bins * ops.arange(self.num_classes, dtype="int32")
        self.counts.assign_add(ops.segment_sum(entries, ops.reshape(places, (-1,)), self.num_classes * self.num_bins))
        self.num_positives.assign_add(ops.sum(labels * weights, axis=0))

    def result(self) -> keras.KerasTensor:
        """Returns MAP@K, from 0 to 1. It is 0 if no class occurs."""
        counts = ops.reshape(ops.convert_to_tensor(self.counts), (self.num_classes, self.num_bins, 4))
        size = counts[..., 3]
        better = ops.flip(ops.cumsum(ops.flip(size, axis=1), axis=1), axis=1) - size  # segments of higher bins
        # The share of each bin that is ranked: 1 above rank K, 0 below.
        share = ops.clip(ops.divide_no_nan(self.top_k - better, size), 0.0, 1.0)
        precisions = average_precision(counts[..., :3] * ops.expand_dims(share, -1), self.num_positives)
        has_positives = ops.cast(ops.convert_to_tensor(self.num_positives) != 0, precisions.dtype)
        return ops.divide_no_nan(ops.sum(precisions), ops.sum(has_positives))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "top_k": self.top_k,
            "num_bins": self.num_bins,
        }
