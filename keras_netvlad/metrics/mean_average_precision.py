"""`MeanAveragePrecision`: the average precision of each class, and their mean."""

from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_integer, check_name
from keras_netvlad.metrics.batches import check_num_classes
from keras_netvlad.metrics.score_histogram import (
    average_precision,
    average_precision_bounds,
    check_probabilities,
    histogram,
    labels_and_weights,
)


@keras.saving.register_keras_serializable(package="keras_netvlad")
class MeanAveragePrecision(keras.metrics.Metric):
    """Mean over the classes of the average precision of the ranking of all videos by the score of the class.

    Classes without a label are left out of the mean; the evaluation code of YouTube-8M counts them as 0. Equal scores
    of a class count as the mean over all their orders. That code draws one order at random, and scikit-learn gives
    equal scores the precision of the last of them. If more scores of a video are equal than fit into the `top_k`, the
    classes of lower index are ranked, where that code takes any of them; with `top_k=None` all are ranked.

    The state is a histogram of scores per class, which adds up exactly over batches and devices and has a fixed size.
    The 3862 classes of YouTube-8M take 95 MB. Different scores of one bin count as equal. If the videos of a bin have
    equal weights, this is the only error besides the rounding of float32, which is at most 1e-6. `bounds` returns its
    limits for your own scores, and more bins make it smaller. On 2,000 videos of 500 classes it was 7e-5, and 5e-4 if
    all scores lie near 1e-30. The width of the 2,048 bins depends on the score:

    | score | difference of two odds in one bin, below |
    |---|---|
    | 0.5 | 1.7% |
    | 1e-8 | 4.7% |
    | 1e-38 | 17% |

    Scores below 1.2e-38 count as 0.

    Args:
        num_classes: Integer, `C`.
        top_k: Integer, the number of scores of each video to rank, 20 in the evaluation code of YouTube-8M; or `None`
            for all.
        num_bins: Integer, the number of bins of each histogram.
        name: Name of the metric in logs.
        dtype: As for any Keras metric. The metric computes in float32.

    Call arguments:
        y_true: Labels `(B, C)`, 1 for each class of a video. Soft labels of 0.5 or more count as 1.
        y_pred: Scores `(B, C)` from 0 to 1. Other values, such as logits, raise an error in eager calls and make the
            result NaN in a compiled step. A NaN score makes the result NaN.
        sample_weight: Optional weight of each video, `(B,)` or `(B, 1)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.metrics import MeanAveragePrecision
    >>> metric = MeanAveragePrecision(num_classes=2)
    >>> metric.update_state(np.array([[1, 0], [0, 1], [1, 0]]), np.array([[0.9, 0.5], [0.8, 0.4], [0.1, 0.3]]))
    >>> round(float(metric.result()), 4)
    0.6667

    Raises:
        ValueError: If an argument is invalid, or if labels, scores or weights do not have these shapes or values.

    Reference:
        - [Abu-El-Haija et al. 2016](https://arxiv.org/abs/1609.08675); definition as in
          [google/youtube-8m](https://github.com/google/youtube-8m), `eval_util.py`, except for classes without labels.
    """

    def __init__(
        self,
        num_classes: int,
        top_k: int | None = 20,
        num_bins: int = 2**11,
        name: str | None = "map",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=check_name(name), dtype=dtype)
        self.num_classes = check_integer("num_classes", num_classes, 1)
        self.top_k = None if top_k is None else check_integer("top_k", top_k, 1)
        self.num_bins = check_integer("num_bins", num_bins, 1)
        self.counts = self.add_variable((self.num_classes * self.num_bins, 3), "zeros", dtype="float32", name="counts")
        self.num_positives = self.add_variable((self.num_classes,), "zeros", dtype="float32", name="num_positives")

    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Adds a batch of videos."""
        labels, scores, weights = labels_and_weights(self.name, y_true, y_pred, sample_weight)
        check_num_classes(self.name, scores, self.num_classes)
        weights = check_probabilities(self.name, scores, weights)
        best, classes = ops.top_k(scores, min(self.top_k or self.num_classes, self.num_classes))
        found = ops.take_along_axis(labels, classes, axis=1)
        weights = ops.expand_dims(weights, 1)
        self.counts.assign_add(histogram(best, found, weights, self.num_bins, classes, self.num_classes))
        self.num_positives.assign_add(ops.sum(labels * weights, axis=0))

    def result(self) -> keras.KerasTensor:
        """Returns the mean, from 0 to 1. It is 0 if there are no labels."""
        return self._mean(average_precision(self._histograms(), self.num_positives))

    def bounds(self) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Returns the mean of the worst and of the best order of the scores of each bin of the histograms.

        The exact mean lies between them, whatever the order of the scores within the bins, if the videos of a bin have
        equal weights. More bins bring them together.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad.metrics import MeanAveragePrecision
        >>> metric = MeanAveragePrecision(num_classes=1)
        >>> metric.update_state(np.array([[1], [0]]), np.array([[0.501], [0.5]]))
        >>> [round(float(value), 4) for value in (metric.result(), *metric.bounds())]
        [0.75, 0.5, 1.0]
        """
        worst, best = average_precision_bounds(self._histograms(), self.num_positives)
        return self._mean(worst), self._mean(best)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "top_k": self.top_k,
            "num_bins": self.num_bins,
        }

    def _histograms(self):
        return ops.reshape(ops.convert_to_tensor(self.counts), (self.num_classes, self.num_bins, 3))

    def _mean(self, precisions):
        has_labels = ops.cast(ops.convert_to_tensor(self.num_positives) != 0, precisions.dtype)
        return ops.divide_no_nan(ops.sum(precisions), ops.sum(has_labels))
