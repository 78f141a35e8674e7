"""What a metric takes for a batch: numbers, and one weight for each video or query."""

from keras import ops
from keras.backend import standardize_dtype


def to_numbers(name, **values):
    """Returns tensors of `y_true`, `y_pred` or `sample_weight`, or raises if one holds no numbers."""
    tensors = []
    for argument, value in values.items():
        try:
            tensor = None if value is None else ops.convert_to_tensor(value)
        except (ValueError, TypeError, RuntimeError):
            tensor = None
        if tensor is None or standardize_dtype(tensor.dtype) == "string":
            raise TypeError(f"`{name}` takes arrays of numbers. Received: {argument}={value!r}")
        tensors.append(tensor)
    return tensors


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
    (weights,) = to_numbers(name, sample_weight=sample_weight)
    weights = ops.cast(weights, "float32")
    shape, batch = tuple(weights.shape), scores.shape[0]
    fits = shape == () or (shape[1:] in ((), (1,)) and (None in (shape[0], batch) or shape[0] == batch))
    if not fits:
        raise ValueError(
            f"`{name}` takes one weight for each {rows}, (B,) or (B, 1). "
            f"Received: sample_weight of shape {shape} for scores of shape {tuple(scores.shape)}"
        )
    return ones * (weights if shape == () else ops.reshape(weights, (-1,)))
