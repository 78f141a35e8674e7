"""`PERR`: precision at equal recall rate."""

from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_name
from keras_netvlad.metrics.score_histogram import labels_and_weights


@keras.saving.register_keras_serializable(package="keras_netvlad")
class PERR(keras.metrics.Mean):
    """Precision at equal recall rate: the precision of the `n` highest scores of a video with `n` labels.

    At this rank precision and recall are equal. The metric is the mean over videos. A video without labels counts as 0.

    Equal scores count as the mean over all their orders; the evaluation code of YouTube-8M takes one of them. That code
    also counts a label whose score is 0 or less as a miss. This metric does not, so that logits may be used.

    Args:
        name: Name of the metric in logs.
        dtype: As for any Keras metric.

    Call arguments:
        y_true: Labels `(B, C)`, 1 for each class of a video. Soft labels of 0.5 or more count as 1.
        y_pred: Scores `(B, C)`. Only their order matters, so logits may be used.
        sample_weight: Optional weight of each video, `(B,)` or `(B, 1)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.metrics import PERR
    >>> metric = PERR()
    >>> metric.update_state(np.array([[1, 1, 0], [0, 1, 0]]), np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.0]]))
    >>> float(metric.result())
    0.25

    Raises:
        ValueError: If the name is not a string, or if labels, scores or weights have other shapes.

    Reference:
        - [Abu-El-Haija et al. 2016](https://arxiv.org/abs/1609.08675); definition as in
          [google/youtube-8m](https://github.com/google/youtube-8m), `eval_util.py`.
    """

    def __init__(self, name: str | None = "perr", dtype: Any = None) -> None:
        super().__init__(name=check_name(name), dtype=dtype)

    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Adds a batch of videos."""
        labels, scores, weights = labels_and_weights(self.name, y_true, y_pred, sample_weight)
        num_labels = ops.sum(labels, axis=1, keepdims=True)  # n (B, 1)
        # The n-th highest score. The n highest scores are all above it, and some of those that equal it.
        last = ops.cast(ops.maximum(num_labels, 1.0) - 1.0, "int32")
        lowest = ops.take_along_axis(-ops.sort(-scores, axis=1), last, axis=1)  # (B, 1)
        is_above, is_equal = ops.cast(scores > lowest, "float32"), ops.cast(scores == lowest, "float32")
        num_equal, slots = (ops.sum(is_equal, axis=1), num_labels[:, 0] - ops.sum(is_above, axis=1))
        hits = ops.sum(labels * is_above, axis=1)
        hits = hits + slots * ops.divide_no_nan(ops.sum(labels * is_equal, axis=1), num_equal)
        super().update_state(hits / ops.maximum(num_labels[:, 0], 1.0), sample_weight=weights)
