"""`HitAtOne`: the share of videos whose highest score is correct."""

from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_name
from keras_netvlad.metrics.score_histogram import labels_and_weights


@keras.saving.register_keras_serializable(package="keras_netvlad")
class HitAtOne(keras.metrics.Mean):
    """Share of videos whose highest score belongs to one of their labels. A video without labels counts as 0.

    Of equal highest scores the first counts, as in the evaluation code of YouTube-8M. A model that gives all classes
    the same score therefore gets the frequency of the first class.

    Args:
        name: Name of the metric in logs.
        dtype: As for any Keras metric.

    Call arguments:
        y_true: Labels `(B, C)`, 1 for each class of a video. Soft labels of 0.5 or more count as 1.
        y_pred: Scores `(B, C)`. Only their order matters, so logits may be used.
        sample_weight: Optional weight of each video, `(B,)` or `(B, 1)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.metrics import HitAtOne
    >>> metric = HitAtOne()
    >>> metric.update_state(np.array([[1, 1, 0], [0, 1, 0]]), np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.0]]))
    >>> float(metric.result())
    0.5

    Raises:
        ValueError: If the name is not a string, or if labels, scores or weights have other shapes.

    Reference:
        - [Abu-El-Haija et al. 2016](https://arxiv.org/abs/1609.08675); definition as in
          [google/youtube-8m](https://github.com/google/youtube-8m), `eval_util.py`.
    """

    def __init__(self, name: str | None = "hit_at_one", dtype: Any = None) -> None:
        super().__init__(name=check_name(name), dtype=dtype)

    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Adds a batch of videos."""
        labels, scores, weights = labels_and_weights(self.name, y_true, y_pred, sample_weight)
        best = ops.expand_dims(ops.argmax(scores, axis=1), 1)
        super().update_state(ops.take_along_axis(labels, best, axis=1)[:, 0], sample_weight=weights)
