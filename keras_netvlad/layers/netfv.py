"""`NetFV`: soft assignment to learnable Gaussians, pooled first and second order statistics."""

import keras
import numpy as np
from keras import ops

from keras_netvlad.layers.adaptable_pooling import AdaptablePooling
from keras_netvlad.layers.soft_assignment import SoftAssignment

# Added to variances, so that a deviation of 0 divides nothing by 0.
LEAST_VARIANCE = 1e-6


@keras.saving.register_keras_serializable(package="keras_netvlad")
class NetFV(SoftAssignment, AdaptablePooling):
    """Pools descriptors into a Fisher vector: how they lie, and how they spread, around learnable clusters.

        a = softmax(x W + b)                                soft assignment of each descriptor
        U[k] = sum_n a[n, k] (x[n] - c[k]) / s[k]           first order
        V[k] = sum_n a[n, k] ((x[n] - c[k])^2 / s[k]^2 - 1) second order
        U[k] = U[k] / ||U[k]||, V[k] = V[k] / ||V[k]||      intra-normalization
        y = (U, V) / ||(U, V)||                             output normalization

    The published code intra-normalizes only `U`, and loses it for `V`; here both are. It scales each of the two to unit
    norm, which after intra-normalization is this output times the root of 2. Frames and masks, precision and empty
    videos are as of `NetVLAD`; `aggregate`, `describe` and `NetVLADStream` work with the sums of `x` and of `x^2`, in
    this order: `A` `(B, 2 K, D)`. The second order is a difference of sums, so descriptors far from 0 lose digits:
    the largest error was 1e-6 of the output at a mean of one deviation, 2e-4 at 10, 2e-2 at 100. Center such features.

    `adapt` starts from k-means, as of `NetVLAD`, and takes `s` from each cluster's descriptors, at least a
    hundredth of that of all, and all's where a cluster has one descriptor.

    Args:
        num_clusters: Integer, `K`.
        num_ghost_clusters, assignment, use_bias, assignment_batch_normalization, data_format: The assignment, as of
            `NetVLAD`.
        normalize_input: Boolean, whether to scale each descriptor to unit L2 norm first.
        intra_normalization: Boolean, whether to scale each cluster's sum to unit L2 norm.
        output_normalization: Boolean, whether to scale the output to unit L2 norm.
        deviations_initializer, deviations_regularizer, deviations_constraint: Of the standard deviations, by default
            1. Only their squares count, to which 1e-6 is added.
        kernel_initializer, bias_initializer, centroids_initializer: Initializers.
        kernel_regularizer, bias_regularizer, centroids_regularizer: Regularizers.
        kernel_constraint, bias_constraint, centroids_constraint: Constraints.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    Call arguments:
        inputs: Descriptors, `(B, N, D)`; or maps, `(B, H, W, D)` of images or `(B, T, H, W, D)` of videos, whose
            positions are all descriptors.
        mask: Optional. What counts: boolean, or weights that are finite and not negative. Shape `(B, N)`,
            `(B, H, W)` or `(B, T, H, W)` like the input; over video maps also `(B, T)`. Padding may hold NaN.
        training: Boolean, whether batch normalization uses the statistics of the batch.

    Input shape:
        `(B, N, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`.

    Output shape:
        `(B, 2 * K * D)`: the first order, cluster-major, then the second.

    Weights:
        `kernel` `(D, K + G)` or `(1, 1, D, K + G)`; `bias` `(K + G,)`; `deviations` and `centroids` `(K, D)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import NetFV
    >>> frames = np.random.default_rng(0).normal(size=(2, 300, 64)).astype("float32")
    >>> NetFV(num_clusters=8)(frames, mask=np.arange(300) < [[300], [120]]).shape[1]
    1024

    Raises:
        ValueError: On an argument, an input or a mask that is none of the above.

    Reference:
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905), "Beyond NetVLAD aggregation".
        - [Perronnin & Dance 2007](https://doi.org/10.1109/CVPR.2007.383266) (Fisher vectors).
    """

    _sums_a_cluster = 2

    def __init__(
        self,
        num_clusters,
        num_ghost_clusters=0,
        assignment="dense",
        use_bias=True,
        assignment_batch_normalization=False,
        normalize_input=False,
        intra_normalization=True,
        output_normalization=True,
        deviations_initializer="ones",
        deviations_regularizer=None,
        deviations_constraint=None,
        data_format=None,
        kernel_initializer="lecun_normal",
        bias_initializer="zeros",
        centroids_initializer=None,
        kernel_regularizer=None,
        bias_regularizer=None,
        centroids_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        centroids_constraint=None,
        **kwargs,
    ):
        super().__init__(
            num_clusters=num_clusters,
            num_ghost_clusters=num_ghost_clusters,
            assignment=assignment,
            use_bias=use_bias,
            assignment_batch_normalization=assignment_batch_normalization,
            normalize_input=normalize_input,
            intra_normalization=intra_normalization,
            output_normalization=output_normalization,
            data_format=data_format,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            centroids_initializer=centroids_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            centroids_regularizer=centroids_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            centroids_constraint=centroids_constraint,
            **kwargs,
        )
        self.deviations_initializer = keras.initializers.get(deviations_initializer)
        self.deviations_regularizer = keras.regularizers.get(deviations_regularizer)
        self.deviations_constraint = keras.constraints.get(deviations_constraint)

    def build(self, input_shape):
        super().build(input_shape)
        self.deviations = self.add_weight(
            name="deviations",
            autocast=False,
            shape=(self.num_clusters, self.feature_size),
            initializer=self.deviations_initializer,
            regularizer=self.deviations_regularizer,
            constraint=self.deviations_constraint,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "deviations_initializer": keras.initializers.serialize(self.deviations_initializer),
            "deviations_regularizer": keras.regularizers.serialize(self.deviations_regularizer),
            "deviations_constraint": keras.constraints.serialize(self.deviations_constraint),
        }

    def _sums(self, product, assignments, descriptors):
        return ops.concatenate(
            [product(assignments, descriptors), product(assignments, ops.square(descriptors))], axis=1
        )

    def _residuals(self, means, value):
        means, squares = means[:, : self.num_clusters], means[:, self.num_clusters :]
        centroids, deviations = value(self.centroids), value(self.deviations)
        precisions = 1.0 / (deviations * deviations + LEAST_VARIANCE)
        first = (means - centroids) * precisions**0.5
        # The mean of (x - c)^2, from those of x and x^2.
        second = (squares - centroids * (2.0 * means - centroids)) * precisions - 1.0
        concatenate = np.concatenate if isinstance(first, np.ndarray) else ops.concatenate
        return concatenate([first, second], axis=1)

    def _adapted_assignment(self, sample, centroids):
        kept = centroids[: self.num_clusters]
        nearness = 2.0 * sample @ kept.T - np.sum(kept**2, axis=1)
        nearest = nearness.argmax(axis=1)
        spread = sample.std(axis=0, dtype="float64")
        # Of a feature that does not vary at all nothing is known; as the others, on the average.
        spread = np.where(spread > 0, spread, spread.mean())
        clusters = [sample[nearest == k] for k in range(self.num_clusters)]
        deviations = [cluster.std(axis=0, dtype="float64") if len(cluster) > 1 else spread for cluster in clusters]
        # A feature that does not vary in a cluster would weigh without limit.
        deviations = np.maximum(deviations, 0.01 * spread)
        return {**super()._adapted_assignment(sample, centroids), "deviations": deviations}
