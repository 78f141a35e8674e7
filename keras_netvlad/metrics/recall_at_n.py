"""`RecallAtN`: the share of queries with a relevant item among the first results."""

from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_integer, check_name
from keras_netvlad.metrics.relevance import relevance_and_weights


@keras.saving.register_keras_serializable(package="keras_netvlad")
class RecallAtN(keras.metrics.Mean):
    """Share of queries with at least one relevant item among the `n` most similar, as in place recognition.

    Queries without any relevant item are left out. Among equal similarities, items that are not relevant come first, so
    a model that returns the same descriptor for all inputs gains nothing.

    Args:
        n: Integer, the number of results to consider.
        name: Name of the metric in logs, by default `recall_at_<n>`.
        dtype: As for any Keras metric. Similarities are compared in float32.

    Call arguments:
        y_true: Relevance of each item of the database for each query, `(Q, M)`: 1 for relevant items, 0 for others, -1
            for items to leave out of the ranking, such as the query itself.
        y_pred: Similarities `(Q, M)` of any range. Negate distances.
        sample_weight: Optional weight of each query, `(Q,)` or `(Q, 1)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.metrics import RecallAtN
    >>> metric = RecallAtN(2)
    >>> metric.update_state(np.array([[1, 0, 0], [0, 0, 1]]), np.array([[0.5, 0.9, 0.1], [0.8, 0.3, 0.2]]))
    >>> float(metric.result())
    0.5

    Raises:
        ValueError: If an argument is invalid, or if relevance and similarities have other shapes.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 5.1.
    """

    def __init__(self, n: int = 1, name: str | None = None, dtype: Any = None) -> None:
        self.n = check_integer("n", n, 1)
        super().__init__(name=check_name(name) or f"recall_at_{self.n}", dtype=dtype)

    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Adds a batch of queries."""
        relevant, others, similarities, weights = relevance_and_weights(self.name, y_true, y_pred, sample_weight)
        best = ops.max(ops.where(relevant, similarities, float("-inf")), axis=1, keepdims=True)
        before = ops.sum(ops.cast(ops.logical_and(others, similarities >= best), "int32"), axis=1)
        super().update_state(ops.cast(before < self.n, "float32"), sample_weight=weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "n": self.n}
