"""`AdditivePooling`: poolings whose descriptor follows from two sums over frames."""

import functools
import math

import keras
from keras import ops

from keras_netvlad.layers.cluster_pooling import ClusterPooling
from keras_netvlad.layers.safe_norm import SQUARED_EPSILON, inverse_root, squared_norm
from keras_netvlad.layers.validation import check_boolean

# Sums of assignments below this count as none: a cluster's residuals would have to be longer than 1e6 to show. Smaller,
# and the gradient of the quotient overflows on JAX.
LEAST_SUM = 1e-18


class AdditivePooling(ClusterPooling):
    """Pools descriptors into one sum for each of `K` clusters, normalized.

    Subclasses may take something away from each cluster's mean, in `_residuals`, and sum more than the descriptors
    themselves, in `_sums`: `_sums_a_cluster` times as many rows, all sums of one kind after each other.
    """

    _sums_a_cluster = 1

    def __init__(self, intra_normalization, output_normalization, **kwargs):
        super().__init__(**kwargs)
        self.intra_normalization = check_boolean("intra_normalization", intra_normalization)
        self.output_normalization = check_boolean("output_normalization", output_normalization)

    def call(self, inputs, mask=None, training=None):
        descriptors, assignments = self._assigned(inputs, mask, training)
        second_sum = ops.sum(assignments, axis=1)  # (B, K)
        # The mean descriptor of each cluster, divided before the product, where it is cheaper than after: a training
        # step of 300 frames takes 0.9 to 0.95 times as long.
        shares = assignments * inverse_sum(ops.expand_dims(second_sum, 1))
        means = self._sums(functools.partial(self._product, sums_of_products), shares, descriptors)
        return self._described(self._residuals(means, self._value), second_sum)

    def get_config(self):
        return {
            **super().get_config(),
            "intra_normalization": self.intra_normalization,
            "output_normalization": self.output_normalization,
        }

    def aggregate(self, inputs, mask=None, training=None):
        """Sums descriptors and assignments over the frames: the part of pooling that is additive.

        The sums of a video are the sums of its chunks, in any split and order, so a long or live video is pooled
        in constant memory and machines can each sum frames of their own.

        Args:
            inputs: As the layer's.
            mask: As the layer's.
            training: As the layer's.

        Returns:
            `A` `(B, K, D)`, the sum of the assigned descriptors, and `M` `(B, K)`, the sum of the assignments
            (Arandjelović et al. 2016, equation 4, taken apart), in float32 (float64 under a float64 policy).

        Raises:
            ValueError: As the layer's.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad import NetVLAD
        >>> frames = np.random.default_rng(0).normal(size=(1, 100, 16)).astype("float32")
        >>> layer = NetVLAD(num_clusters=4)
        >>> (first, second), (more, more_second) = layer.aggregate(frames[:, :60]), layer.aggregate(frames[:, 60:])
        >>> bool(np.allclose(layer.describe(first + more, second + more_second), layer(frames), atol=1e-6))
        True
        """
        descriptors, assignments = self._assigned(inputs, mask, training)
        first_sum = self._sums(sums_of_products, assignments, ops.cast(descriptors, self._sum_dtype))
        return first_sum, ops.sum(assignments, axis=1)

    def describe(self, first_sum, second_sum):
        """Turns the sums of `aggregate` into the descriptor.

        Args:
            first_sum: `A` `(B, K, D)`.
            second_sum: `M` `(B, K)`.

        Returns:
            The descriptor `(B, K * D)`, cluster-major, in the layer's compute dtype.

        Raises:
            ValueError: If the layer was never called, or the sums have other shapes.
        """
        if not self.built:
            raise ValueError(f"`{self.name}` has no centroids yet; call it or `aggregate` on inputs first.")
        first_sum = ops.cast(first_sum, self._sum_dtype)
        second_sum = ops.cast(second_sum, self._sum_dtype)
        rows, size = self._shape_of_sums(self.feature_size)
        if tuple(first_sum.shape[1:]) != (rows, size) or tuple(second_sum.shape[1:]) != (self.num_clusters,):
            raise ValueError(
                f"`describe` of `{self.name}` takes the sums of `aggregate`, (batch, {rows}, {size}) and "
                f"(batch, {self.num_clusters}). Received: shapes {tuple(first_sum.shape)} and {tuple(second_sum.shape)}"
            )
        means = first_sum * inverse_sum(self._masses(second_sum))
        return self._described(self._residuals(means, self._value), second_sum)

    def _sums(self, product, assignments, descriptors):
        """`A` `(B, K, D)` of assignments `(B, N, K)` and descriptors `(B, N, D)`, which `product` multiplies."""
        return product(assignments, descriptors)

    def _residuals(self, means, value):
        """What is described of the clusters' means `(B, K, D)`, sums divided by `M`.

        `value` turns a weight into what `means` are: a tensor, or for `NetVLADStream` a float64 NumPy array.
        """
        return means

    def _described(self, mean_residuals, second_sum):
        """The descriptor from `A / M - c` `(B, K, D)` and `M` `(B, K)`.

        `M (A / M - c)` is the sum of the residuals, which thus never exist one by one; nor does `M c`, which would be
        as large as the sum. What normalizing divides out again is not multiplied in.
        """
        squared = squared_norm(mean_residuals)  # (B, K, 1)
        masses = self._masses(second_sum)
        squared_sums = squared * ops.square(masses)
        if self.intra_normalization:
            is_filled = squared_sums > SQUARED_EPSILON
            if self.output_normalization:
                # Each filled cluster has norm 1 by then, so together they have the root of their number.
                squared = squared * ops.sum(ops.cast(is_filled, self._sum_dtype), axis=1, keepdims=True)
            scales = inverse_root(squared, is_filled)
        elif self.output_normalization:
            squared = ops.sum(squared_sums, axis=1, keepdims=True)
            scales = masses * inverse_root(squared, squared > SQUARED_EPSILON)
        else:
            scales = masses
        descriptor = mean_residuals * scales
        descriptor = ops.reshape(descriptor, (-1, self._output_size(self.feature_size)))  # (B, K * D)
        return ops.cast(descriptor, self.compute_dtype)

    def _masses(self, second_sum):
        """`M` beside each row of `A`: `(B, K, 1)`, again for each kind of sum."""
        masses = ops.expand_dims(second_sum, 2)
        return ops.concatenate([masses] * self._sums_a_cluster, axis=1) if self._sums_a_cluster > 1 else masses

    def _output_size(self, feature_size):
        return math.prod(self._shape_of_sums(feature_size))

    def _shape_of_sums(self, feature_size):
        """Shape of `A` without the batch, for descriptors of a size."""
        return self._sums_a_cluster * self.num_clusters, feature_size


def inverse_sum(second_sum):
    """`1 / M`, finite where no descriptor counts."""
    return ops.reciprocal(ops.maximum(second_sum, LEAST_SUM))


def sums_of_products(assignments, descriptors):
    """`a^T x` `(B, K, D)` of `(B, N, K)` and `(B, N, D)`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # As a flag: the gradient of a transpose of its own is one more, and a training step 1.02 to 1.15 times as long.
        return tf.matmul(assignments, descriptors, transpose_a=True)
    return ops.transpose(assignments, (0, 2, 1)) @ descriptors
