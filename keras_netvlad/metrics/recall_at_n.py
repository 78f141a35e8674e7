"""`RecallAtN`: how often something right is among the first results."""

import keras
from keras import ops

from keras_netvlad.base.validation import check_integer, check_name
from keras_netvlad.metrics.relevance import relevance_and_weights


@keras.saving.register_keras_serializable(package="keras_netvlad")
class RecallAtN(keras.metrics.Mean):
    """Share of queries with at least one relevant item among the `n` most similar, as place recognition reports it.

    Queries to which nothing in the database is relevant are left out. Of equal similarities those that are not relevant
    count as first, so a model whose descriptors are all alike gains nothing.

    Args:
        n: Integer, how many results count.
        name: Name, under which logs have it; by default `recall_at_<n>`.
        dtype: As of any Keras metric; similarities are compared in float32.

    Call arguments:
        y_true: Relevance of each item of the database to each query, `(Q, M)`: 1 relevant, 0 not, -1 for an item to
            leave out of the ranking, such as the query itself.
        y_pred: Similarities `(Q, M)`, of any range. Of distances, give the negative.
        sample_weight: Optional weight of each query, `(Q,)` or `(Q, 1)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.metrics import RecallAtN
    >>> metric = RecallAtN(2)
    >>> metric.update_state(np.array([[1, 0, 0], [0, 0, 1]]), np.array([[0.5, 0.9, 0.1], [0.8, 0.3, 0.2]]))
    >>> float(metric.result())
    0.5

    Raises:
        ValueError: On an argument that is none of the above, or on relevance and similarities of other shapes.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 5.1.
    """

    def __init__(self, n=1, name=None, dtype=None):
        self.n = check_integer("n", n, 1)
        super().__init__(name=check_name(name) or f"recall_at_{self.n}", dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch of queries."""
        relevant, others, similarities, weights = relevance_and_weights(self.name, y_true, y_pred, sample_weight)
        best = ops.max(ops.where(relevant, similarities, float("-inf")), axis=1, keepdims=True)
        before = ops.sum(ops.cast(ops.logical_and(others, similarities >= best), "int32"), axis=1)
        super().update_state(ops.cast(before < self.n, "float32"), sample_weight=weights)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "n": self.n}
