"""Inverse L2 norms that are 0, with the gradient 0, where there is no direction."""

from keras import ops

# Squared norm, so vectors shorter than 1e-12 count as zero: the threshold of PyTorch's `normalize`.
SQUARED_EPSILON = 1e-24


def squared_norm(x):
    """Returns `||x||^2` over the last axis, `(..., 1)`, of a float32 or float64 tensor.

    A float16 sum of squares overflows at a norm of 256.
    """
    return ops.sum(ops.square(x), axis=-1, keepdims=True)


def inverse_root(squared, is_long):
    """Returns `1 / sqrt(squared)` where `is_long`, and 0 with the gradient 0 elsewhere.

    Added epsilons give gradients of 1e13 and more at zero.
    """
    # Infinity has the inverse root 0, and the gradient 0: one `where` instead of two around it.
    return ops.rsqrt(ops.where(is_long, squared, float("inf")))


def normalize(x):
    """Scales each vector of the last axis to norm 1; those without a direction become 0."""
    squared = squared_norm(x)
    return x * inverse_root(squared, squared > SQUARED_EPSILON)
