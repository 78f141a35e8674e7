"""`RetrievalMeanAveragePrecision`: the mean over queries of the average precision of their rankings."""

from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_name
from keras_netvlad.metrics.relevance import relevance_and_weights


@keras.saving.register_keras_serializable(package="keras_netvlad")
class RetrievalMeanAveragePrecision(keras.metrics.Mean):
    """Mean over queries of the average precision of the ranking of the database.

    The average precision of a query is the mean over its relevant items of the precision at the rank of the item.
    Queries without any relevant item are left out. Among equal similarities, items that are not relevant come first.
    In contrast, `MeanAveragePrecision` ranks videos for each class.

    Args:
        name: Name of the metric in logs.
        dtype: As for any Keras metric. The metric computes in float32.

    Call arguments:
        y_true: Relevance of each item of the database for each query, `(Q, M)`: 1 for relevant items, 0 for others, -1
            for items to leave out of the ranking, such as the query itself, or the junk images of the
            Oxford and Paris data sets.
        y_pred: Similarities `(Q, M)` of any range. Negate distances.
        sample_weight: Optional weight of each query, `(Q,)` or `(Q, 1)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.metrics import RetrievalMeanAveragePrecision
    >>> metric = RetrievalMeanAveragePrecision()
    >>> metric.update_state(np.array([[1, 0, 1], [0, 0, 1]]), np.array([[0.9, 0.5, 0.1], [0.1, 0.2, 0.3]]))
    >>> round(float(metric.result()), 4)
    0.9167

    Raises:
        ValueError: If relevance and similarities have other shapes.

    Reference:
        - [Philbin et al. 2007](https://www.robots.ox.ac.uk/~vgg/publications/2007/Philbin07/philbin07.pdf), section 4,
          without the interpolation between ranks.
    """

    def __init__(self, name: str | None = "retrieval_map", dtype: Any = None) -> None:
        super().__init__(name=check_name(name), dtype=dtype)

    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Adds a batch of queries."""
        relevant, others, similarities, weights = relevance_and_weights(self.name, y_true, y_pred, sample_weight)
        found, ranked = ops.cast(relevant, "float32"), ops.cast(ops.logical_or(relevant, others), "float32")
        # Sorted by similarity, with relevant items last among equals. The sort is stable on every backend.
        by_relevance = ops.argsort(found, axis=1)
        by_similarity = ops.argsort(-ops.take_along_axis(similarities, by_relevance, axis=1), axis=1)
        order = ops.take_along_axis(by_relevance, by_similarity, axis=1)
        found, ranked = ops.take_along_axis(found, order, axis=1), ops.take_along_axis(ranked, order, axis=1)
        precisions = ops.divide_no_nan(ops.cumsum(found, axis=1), ops.cumsum(ranked, axis=1))
        average = ops.divide_no_nan(ops.sum(found * precisions, axis=1), ops.sum(found, axis=1))
        super().update_state(average, sample_weight=weights)
