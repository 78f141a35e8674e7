"""The weight of each video or query of a batch."""

from keras import ops


def row_weights(name, sample_weight, rows, scores):
    """Returns weights `(B,)` as float32, ones if there are none, or raises if there is not one for each row.

    Args:
        name: The metric's, for the message.
        sample_weight: `None`, a number, or an array `(B,)` or `(B, 1)`.
        rows: What a row is: "video" or "query".
        scores: `(B, C)`.
    """
    ones = ops.ones_like(scores[:, 0], dtype="float32")
    if sample_weight is None:
        return ones
    weights = ops.cast(sample_weight, "float32")
    shape, batch = tuple(weights.shape), scores.shape[0]
    fits = shape == () or (shape[1:] in ((), (1,)) and (None in (shape[0], batch) or shape[0] == batch))
    if not fits:
        raise ValueError(
            f"`{name}` takes one weight for each {rows}, (B,) or (B, 1). "
            f"Received: sample_weight of shape {shape} for scores of shape {tuple(scores.shape)}"
        )
    return ones * (weights if shape == () else ops.reshape(weights, (-1,)))
