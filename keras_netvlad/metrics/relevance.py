"""What retrieval's metrics take: which items of a database are right for each query, and how similar they are."""

from keras import ops

from keras_netvlad.metrics.batches import row_weights, to_numbers


def relevance_and_weights(name, y_true, y_pred, sample_weight):
    """Returns two masks `(Q, M)`, relevant and not relevant, similarities `(Q, M)` and weights `(Q,)`, or raises.

    Items of negative relevance are in neither mask, and their similarity is `-inf`. Queries to which nothing is
    relevant weigh nothing, and those with a similarity of NaN weigh NaN: it has no rank, and no score may hide it.
    """
    y_true, y_pred = to_numbers(name, y_true=y_true, y_pred=y_pred)
    fits = len(y_true.shape) == len(y_pred.shape) == 2 and all(
        a is None or b is None or a == b for a, b in zip(y_true.shape, y_pred.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`{name}` takes relevance and similarities (queries, items): 1 for each item that is right for a query, 0 "
            f"for the others, -1 for those to leave out. Received: y_true of shape {tuple(y_true.shape)} and y_pred of "
            f"shape {tuple(y_pred.shape)}"
        )
    relevance = ops.cast(y_true, "float32")
    relevant, counts = relevance > 0, relevance >= 0
    similarities = ops.where(counts, ops.cast(y_pred, "float32"), float("-inf"))
    weights = row_weights(name, sample_weight, "query", similarities)
    weights = ops.where(ops.any(ops.isnan(similarities), axis=1), float("nan"), weights)
    weights = ops.where(ops.any(relevant, axis=1), weights, 0.0)
    return relevant, ops.logical_and(counts, ops.logical_not(relevant)), similarities, weights
