"""Checks of the inputs of metrics: numbers, and one weight for each video or query."""

from typing import Any

from keras import ops
from keras.backend import standardize_dtype


def to_numbers(name: str, **values: Any) -> list[Any]:
    """Returns `y_true`, `y_pred` or `sample_weight` as tensors, or raises if one does not hold numbers."""
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


def check_num_classes(name: str, scores: Any, num_classes: int) -> None:
    """Raises if scores `(B, C)` are of another number of classes than the metric."""
    if scores.shape[1] != num_classes:
        raise ValueError(
            f"`{name}` was made for {num_classes} classes. Received: scores of shape {tuple(scores.shape)}"
        )


def row_weights(name: str, sample_weight: Any, rows: str, scores: Any) -> Any:
    """Returns float32 weights `(B,)`, by default ones, or raises if the number of weights differs from that of rows.

    Args:
        name: Name of the metric for the message.
        sample_weight: `None`, a number, or an array `(B,)` or `(B, 1)`.
        rows: The kind of row for the message, "video" or "query".
        scores: Scores `(B, C)`.
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
