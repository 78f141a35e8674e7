"""`SoftAssignment`: the weights and the equation of `a = softmax(x W + b)`."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.layers.batch_normalization import BatchNormalization
from keras_netvlad.layers.kmeans import assignment_from_centroids
from keras_netvlad.layers.vlad_ops import matmul, soft_assignments
from keras_netvlad.layers.weight_options import add_weight

# The default of Keras, named because `adapt` undoes the normalization.
BATCH_NORMALIZATION_EPSILON = 1e-3


class SoftAssignment:
    """Mixin for poolings that assign their features to clusters with a linear map and a softmax.

    The layer sets `num_clusters`, `batch_normalization_momentum` and the options of `kernel` and `bias`, and calls
    `_set_assignment` in `__init__`, `_build_assignment` in `build`, `_assigned` in `call` and `_assignment_config` in
    `get_config`.
    """

    product_dtype: str | None = None
    batch_normalization_momentum: float

    # Provided by the layer; declared for type checkers.
    name: str
    num_clusters: int
    feature_size: Any
    sum_dtype: Any
    _real_features: Callable[..., Any]

    def _set_assignment(self, num_ghost_clusters, assignment, use_bias, batch_normalization, data_format):
        """Checks and sets the options of the assignment."""
        # `None` remains for a dense assignment, which does not depend on `keras.config.image_data_format()`.
        self.data_format = _check_data_format(assignment, data_format)
        self.num_ghost_clusters = check_integer("num_ghost_clusters", num_ghost_clusters, 0)
        self.assignment = assignment
        self.use_bias = check_boolean("use_bias", use_bias)
        self.assignment_batch_normalization = check_boolean("assignment_batch_normalization", batch_normalization)

    def _build_assignment(self):
        """Creates `kernel` and, as the options say, `bias` or `batch_normalization`."""
        num_logits = self.num_clusters + self.num_ghost_clusters
        shape = (self.feature_size, num_logits)
        self.kernel = add_weight(self, "kernel", (1, 1, *shape) if self.assignment == "conv" else shape)
        if self.assignment_batch_normalization:
            self.batch_normalization = batch_normalization_of_logits(self, num_logits)
        elif self.use_bias:
            self.bias = add_weight(self, "bias", (num_logits,))

    def _assignment_config(self):
        return {
            "num_ghost_clusters": self.num_ghost_clusters,
            "assignment": self.assignment,
            "use_bias": self.use_bias,
            "assignment_batch_normalization": self.assignment_batch_normalization,
            "batch_normalization_momentum": self.batch_normalization_momentum,
        }

    def _assigned(self, inputs, mask, training):
        """Returns the features `x` `(B, N, D)` and `a = softmax(x W + b)`, masked or weighted, `(B, N, K)`."""
        x, weights, present = self._real_features(inputs, mask, rounded_to=self.product_dtype)
        return x, soft_assignments(self._logits(x, present, training), self.num_clusters, weights)

    def _logits(self, x, present, training):
        """Returns `x W + b` `(B, N, K + G)`, or `x W` batch-normalized over the features that are present."""
        kernel = ops.cast(self.kernel, self.sum_dtype)
        kernel = ops.squeeze(kernel, axis=(0, 1)) if self.assignment == "conv" else kernel  # (D, K + G)
        logits = matmul(x, kernel, rounded_to=self.product_dtype)
        if self.assignment_batch_normalization:
            return self.batch_normalization(logits, training=training, mask=present)
        return logits + ops.cast(self.bias, logits.dtype) if self.use_bias else logits

    def _adapted_weights(self, sample, centroids):
        """Returns values for the weights of the assignment, by attribute, that prefer the nearest centroids."""
        if not self.assignment_batch_normalization:
            kernel, bias = assignment_from_centroids(self.name, sample, centroids, self.use_bias)
            return {"kernel": self._shaped_kernel(kernel), **({"bias": bias} if self.use_bias else {})}
        # Without an offset, training subtracts the mean of the logits, so cosines are taken around the mean of the
        # features. The most assigned cluster is then the nearest for 91 to 96 % of real and synthetic features, in
        # training as in inference. With cosines around zero it is the nearest for 55 to 91 % in training.
        origin = 0.0 if self.use_bias else sample.mean(axis=0, dtype="float64")
        kernel, bias = assignment_from_centroids(
            self.name, (sample - origin).astype(sample.dtype), centroids - origin, self.use_bias
        )
        logits = np.concatenate(
            [sample[start : start + 4096].astype("float64") @ kernel for start in range(0, len(sample), 4096)]
        )
        mean, variance = logits.mean(axis=0), logits.var(axis=0)
        # The normalization and its inverse: gamma (s - mean) / sqrt(variance + epsilon) + beta = s + bias.
        return {
            "kernel": self._shaped_kernel(kernel),
            "batch_normalization.gamma": np.sqrt(variance + BATCH_NORMALIZATION_EPSILON),
            "batch_normalization.moving_mean": mean,
            "batch_normalization.moving_variance": variance,
            **({"batch_normalization.beta": mean + bias} if self.use_bias else {}),
        }

    def _shaped_kernel(self, kernel):
        return kernel[None, None] if self.assignment == "conv" else kernel


def batch_normalization_of_logits(layer: keras.Layer, num_logits: int) -> BatchNormalization:
    """Returns a built batch normalization whose offset, if there is one, has the options of the layer's bias."""
    batch_normalization = BatchNormalization(
        momentum=layer.batch_normalization_momentum,
        epsilon=BATCH_NORMALIZATION_EPSILON,
        center=layer.use_bias,
        beta_initializer=layer.bias_initializer,
        beta_regularizer=layer.bias_regularizer,
        beta_constraint=layer.bias_constraint,
        dtype=layer.sum_dtype,
        name="batch_normalization",
    )
    batch_normalization.build((None, None, num_logits))
    return batch_normalization


def _check_data_format(assignment, data_format):
    if assignment not in ("dense", "conv"):
        raise ValueError(f"`assignment` must be 'dense' or 'conv'. Received: assignment={assignment!r}")
    if assignment == "conv":
        return data_format or keras.config.image_data_format()
    if data_format == "channels_first":
        raise ValueError(
            "`data_format='channels_first'` needs `assignment='conv'`; a dense assignment reads the last axis. "
            f"Received: assignment={assignment!r}"
        )
    return data_format
