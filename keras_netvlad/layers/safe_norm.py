"""The safe L2 norm that every layer here divides by."""

from keras import ops

# Squared norm, so vectors shorter than 1e-12 count as zero: the threshold of PyTorch's `normalize`.
SQUARED_EPSILON = 1e-24


def inverse_norm(x, joint_axis=None):
    """Returns `1 / ||x||` over the last axis, and 0 where `x` is zero.

    Multiplying by it normalizes every vector that has a direction and leaves the others at zero, with a gradient
    that is 0 there and finite everywhere. Added epsilons give gradients of 1e13 and more at zero.

    Args:
        x: Tensor `(..., D)`, float32 or float64. A float16 sum of squares overflows at a norm of 256.
        joint_axis: Integer, an axis of the vectors that are normalized together once each of them is, or `None`.

    Returns:
        The inverse norms `(..., 1)`.
    """
    squared = ops.sum(ops.square(x), axis=-1, keepdims=True)
    has_direction = squared > SQUARED_EPSILON
    if joint_axis is not None:
        # Each of them has norm 1 by then, so together they have the root of their number.
        squared = squared * ops.sum(ops.cast(has_direction, x.dtype), axis=joint_axis, keepdims=True)
    # Infinity has the inverse root 0, and the gradient 0: one `where` instead of two around it.
    return ops.rsqrt(ops.where(has_direction, squared, float("inf")))
