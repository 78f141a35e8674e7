"""Checks inputs and masks of any accepted shape, and flattens them to features `(B, N, D)` and weights `(B, N)`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops
from keras.backend import standardize_dtype

from keras_netvlad.base.validation import concrete_values

RANKS = {
    3: "(batch, frames, features)",
    4: "(batch, height, width, features)",
    5: "(batch, frames, height, width, features)",
}


def check_inputs(
    layer_name: str, shape: Sequence[int | None] | None, channel_axis: int, feature_size: int | None = None
) -> int:
    """Returns the feature size `D` of an input shape, or raises if the layer cannot pool such an input.

    Args:
        layer_name: Name for the message.
        shape: Static shape with `None` for unknown dimensions.
        channel_axis: -1 or -3, the axis of the feature dimension in a map.
        feature_size: The feature size of a built layer; `None` before `build`.
    """
    if shape is None:
        raise ValueError(f"`{layer_name}` pools an array of features. Received: None")
    if len(shape) not in RANKS:
        raise ValueError(
            f"`{layer_name}` pools inputs of shape {', '.join(RANKS.values())}; "
            f"reshape or stack them first. Received: shape {tuple(shape)}"
        )
    received = shape[-1 if len(shape) == 3 else channel_axis]
    if not received:
        raise ValueError(
            f"`{layer_name}` needs a known, positive feature size to create its weights. Received: shape {tuple(shape)}"
        )
    if feature_size is not None and received != feature_size:
        raise ValueError(
            f"`{layer_name}` was built for features of size {feature_size}; build a new layer for another size. "
            f"Received: shape {tuple(shape)}"
        )
    return received


def check_mask(layer_name: str, mask: Any, shape: Sequence[int | None], channel_axis: int) -> None:
    """Raises if the shape of a mask does not fit an input of this shape, or if its values are not weights."""
    positions = _without_features(shape, channel_axis)  # (B, N), (B, H, W) or (B, T, H, W)
    allowed = [positions] if len(shape) != 5 else [positions[:2], positions]
    if not any(_may_equal(mask.shape, candidate) for candidate in allowed):
        raise ValueError(
            f"`mask` of `{layer_name}` must have shape {' or '.join(str(a) for a in allowed)}, one value per frame or "
            f"position. Received: mask of shape {tuple(mask.shape)} for inputs of shape {tuple(shape)}"
        )
    values = concrete_values(mask)
    if values is not None and values.dtype.kind in "USO":
        raise ValueError(
            f"`mask` of `{layer_name}` must be boolean or hold numbers. Received: dtype {values.dtype.name}"
        )
    if values is not None and values.dtype != bool and not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(
            f"`mask` of `{layer_name}` must be boolean or hold finite weights of 0 or more. "
            f"Received: values from {values.min()} to {values.max()}"
        )


def flatten_inputs(inputs: Any, channel_axis: int) -> Any:
    """Returns inputs of rank 3 to 5 as features `(B, N, D)`, frame by frame and row by row."""
    if len(inputs.shape) == 3:
        return inputs
    if channel_axis == -3:
        order = list(range(len(inputs.shape)))
        inputs = ops.transpose(inputs, [*order[:-3], order[-2], order[-1], order[-3]])
    return ops.reshape(inputs, (*_rows(inputs, inputs.shape[1:-1]), inputs.shape[-1]))


def flatten_mask(mask: Any, inputs: Any, channel_axis: int) -> Any:
    """Returns a mask of any accepted shape as `(B, N)`, in the order of `flatten_inputs`."""
    if len(inputs.shape) == 3:
        return mask
    if len(inputs.shape) == 5 and len(mask.shape) == 2:
        height, width = (size for axis, size in enumerate(inputs.shape) if axis > 1 and axis - 5 != channel_axis)
        if height and width:
            every_position = ops.ones((height, width), mask.dtype)
        else:
            # `ones_like` and not a product: the padding that the mask covers may hold NaN.
            every_position = ops.ones_like(ops.take(inputs, 0, axis=channel_axis), dtype=mask.dtype)  # (B, T, H, W)
        spread = ops.expand_dims(mask, (2, 3))
        mask = ops.logical_and(spread, every_position) if is_boolean(mask) else spread * every_position
    return ops.reshape(mask, _rows(mask, mask.shape[1:]))


def is_boolean(tensor: Any) -> bool:
    """Returns whether a tensor of any backend is boolean."""
    return standardize_dtype(tensor.dtype) == "bool"


def _rows(tensor, positions):
    """Returns the shape `(B, N)` of a tensor whose positions become one axis. At most one size is -1."""
    if all(positions):
        return -1, math.prod(positions)
    # A map with a side of 0 has no values from which the batch size could be inferred.
    return ops.shape(tensor)[0], -1 if None in tensor.shape else math.prod(positions)


def _without_features(shape, channel_axis):
    shape = list(shape)
    del shape[-1 if len(shape) == 3 else channel_axis]
    return tuple(shape)


def _may_equal(shape, expected):
    return len(shape) == len(expected) and all(
        a is None or b is None or a == b for a, b in zip(shape, expected, strict=True)
    )
