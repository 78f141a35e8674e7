"""Inputs of the retrieval metrics: relevance and similarity of the items of a database for each query."""

from typing import Any

from keras import ops

from keras_netvlad.metrics.batches import row_weights, to_numbers


def relevance_and_weights(name: str, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any, Any]:
    """Returns two masks `(Q, M)`, relevant and not relevant, similarities `(Q, M)` and weights `(Q,)`, or raises.

    Items of negative relevance are in neither mask, and their similarity is `-inf`. Queries without relevant items have
    weight 0. Queries with a NaN similarity have weight NaN, because NaN has no rank and must show in the result.
    """
    y_true, y_pred = to_numbers(name, y_true=y_true, y_pred=y_pred)
    fits = len(y_true.shape) == len(y_pred.shape) == 2 and all(
        a is None or b is None or a == b for a, b in zip(y_true.shape, y_pred.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`{name}` takes relevance and similarities (queries, items): 1 for items that are relevant for a query, 0 "
            f"for others, -1 for those to leave out. Received: y_true of shape {tuple(y_true.shape)} and y_pred of "
            f"shape {tuple(y_pred.shape)}"
        )
    relevance = ops.cast(y_true, "float32")
    relevant, counts = relevance > 0, relevance >= 0
    similarities = ops.where(counts, ops.cast(y_pred, "float32"), float("-inf"))
    weights = row_weights(name, sample_weight, "query", similarities)
    weights = ops.where(ops.any(ops.isnan(similarities), axis=1), float("nan"), weights)
    weights = ops.where(ops.any(relevant, axis=1), weights, 0.0)
    return relevant, ops.logical_and(counts, ops.logical_not(relevant)), similarities, weights
