"""`NeXtVLAD`: residuals of groups of features, weighted by attention."""

from typing import Any, Literal

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.layers.batch_normalization import MOMENTUM, check_momentum
from keras_netvlad.layers.cluster_pooling import ClusterPooling
from keras_netvlad.layers.frame_pooling import Shape
from keras_netvlad.layers.soft_assignment import batch_normalization_of_logits
from keras_netvlad.layers.vlad_ops import cast_like, cluster_means, matmul, normalized_descriptor
from keras_netvlad.layers.weight_options import (
    ConstraintLike,
    InitializerLike,
    RegularizerLike,
    add_weight,
    set_centroid_options,
    set_weight_options,
    weight_config,
)


@keras.saving.register_keras_serializable(package="keras_netvlad")
class NeXtVLAD(ClusterPooling):
    """Pools features like `NetVLAD`, but cut into groups that share small clusters.

    Features are expanded `lambda` times and cut into `G` groups of `lambda D / G` values. Each group is softly assigned
    to `K` clusters and is weighted by its attention:

        z = x E + e                                         expansion, (lambda D,)
        g = sigmoid(z A + b)                                attention of each group, (G,)
        a[n, i] = g[n, i] softmax(normalized(z[n] W)[i])    soft assignment of group i, (K,)
        V[k] = sum_n sum_i a[n, i, k] (z[n, i] - c[k])      residuals, one sum per cluster
        V[k] = V[k] / ||V[k]||                              intra-normalization
        y = V / ||V||                                       output normalization

    The descriptor is `lambda / G` times as long as that of `NetVLAD`. So is the projection behind it, which has nearly
    all the weights. The published code has a batch normalization in place of the output normalization; for its form,
    use `output_normalization=False` and a `BatchNormalization` behind the layer. Its batch statistics include padding
    and its shapes are fixed to 300 frames. Here padding is left out, and there may be any number of frames.

    Inputs, masks, precision and empty videos are treated as in `NetVLAD`. `aggregate`, `describe` and `NetVLADStream`
    pool long videos chunk by chunk. `assign` returns one row per group: `(B, N * G, K)`, frame by frame.

    Args:
        num_clusters: Integer, `K`.
        groups: Integer, `G`, of which `expansion * D` must be a multiple.
        expansion: Integer, `lambda`.
        use_bias: Boolean, whether the three linear maps have biases. With a batch normalization, its offset replaces
            the bias of the assignment.
        assignment_batch_normalization: Boolean, whether to batch-normalize the assignment's logits.
        normalize_input: Boolean, whether to scale each feature to unit L2 norm first.
        intra_normalization: Boolean, whether to scale each cluster's residuals to unit L2 norm.
        output_normalization: Boolean, whether to scale the output to unit L2 norm.
        data_format: `"channels_last"` or `"channels_first"`, for maps. `channels_first` maps are `(B, D, H, W)`
            and `(B, T, D, H, W)`.
        kernel_initializer, bias_initializer, centroids_initializer: Initializers, for all kernels and all biases.
        kernel_regularizer, bias_regularizer, centroids_regularizer: Regularizers.
        kernel_constraint, bias_constraint, centroids_constraint: Constraints.
        batch_normalization_momentum: Number from 0 to below 1, the share of the moving statistics that a training step
            keeps.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Call arguments:
        inputs: Features `(B, N, D)`; or maps, `(B, H, W, D)` of images or `(B, T, H, W, D)` of videos, every
            position of which is a feature.
        mask: Optional. Booleans, true for real features, or weights, finite and not negative. The shape is
            `(B, N)`, `(B, H, W)` or `(B, T, H, W)`, as of the input, or `(B, T)` for video maps. Padding may hold NaN.
        training: Boolean, whether batch normalization uses the statistics of the batch.

    Input shape:
        `(B, N, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`.

    Output shape:
        `(B, K * lambda * D / G)`, cluster-major.

    Weights:
        `expansion_kernel` `(D, lambda D)`, `attention_kernel` `(lambda D, G)`, `kernel` `(lambda D, G * K)`,
        `centroids` `(K, lambda D / G)`; `expansion_bias`, `attention_bias`, and `bias` or the batch normalization's.
        With a hidden projection of `H` units behind it, kernels and centroids together have
        `lambda D (D + G + K (G + (H + 1) / G))` values.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import NeXtVLAD
    >>> frames = np.random.default_rng(0).normal(size=(2, 300, 64)).astype("float32")
    >>> NeXtVLAD(num_clusters=8)(frames, mask=np.arange(300) < [[300], [120]]).shape[1]
    128

    Raises:
        ValueError: If an argument, the input or the mask is invalid, or if the features cannot be cut into groups.

    Reference:
        - [Lin et al. 2018](https://arxiv.org/abs/1811.05014), section 3.2, equations 5 to 10.
    """

    def __init__(
        self,
        num_clusters: int,
        groups: int = 8,
        expansion: int = 2,
        use_bias: bool = True,
        assignment_batch_normalization: bool = True,
        normalize_input: bool = False,
        intra_normalization: bool = True,
        output_normalization: bool = True,
        data_format: Literal["channels_last", "channels_first"] = "channels_last",
        kernel_initializer: InitializerLike = "lecun_normal",
        bias_initializer: InitializerLike = "zeros",
        centroids_initializer: InitializerLike = None,
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        centroids_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        centroids_constraint: ConstraintLike = None,
        batch_normalization_momentum: float = MOMENTUM,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_clusters, normalize_input, intra_normalization, output_normalization, data_format, **kwargs
        )
        self.groups = check_integer("groups", groups, 1)
        self.expansion = check_integer("expansion", expansion, 1)
        self.use_bias = check_boolean("use_bias", use_bias)
        self.assignment_batch_normalization = check_boolean(
            "assignment_batch_normalization", assignment_batch_normalization
        )
        self.batch_normalization_momentum = check_momentum(batch_normalization_momentum)
        # Before the kernel: an initializer without a seed draws one here, and seeded runs depend on the order.
        set_centroid_options(self, centroids_initializer, centroids_regularizer, centroids_constraint)
        set_weight_options(self, "kernel", kernel_initializer, kernel_regularizer, kernel_constraint)
        set_weight_options(self, "bias", bias_initializer, bias_regularizer, bias_constraint)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        group_size = self._group_size(self.feature_size)
        expanded, num_logits = self.groups * group_size, self.groups * self.num_clusters
        self.expansion_kernel = add_weight(self, "expansion_kernel", (self.feature_size, expanded), "kernel")
        self.attention_kernel = add_weight(self, "attention_kernel", (expanded, self.groups), "kernel")
        self.kernel = add_weight(self, "kernel", (expanded, num_logits))
        if self.use_bias:
            self.expansion_bias = add_weight(self, "expansion_bias", (expanded,), "bias")
            self.attention_bias = add_weight(self, "attention_bias", (self.groups,), "bias")
        if self.assignment_batch_normalization:
            self.batch_normalization = batch_normalization_of_logits(self, num_logits)
        elif self.use_bias:
            self.bias = add_weight(self, "bias", (num_logits,))
        self.centroids = add_weight(self, "centroids", (self.num_clusters, group_size))

    def call(self, inputs: ArrayLike, mask: ArrayLike | None = None, training: bool | None = None) -> keras.KerasTensor:
        # z = x E + e, cut into groups, and a = sigmoid(z A + b) softmax(normalized(z W)), zero for padding.
        z, a = self._assigned(inputs, mask, training)  # (B, N * G, S), (B, N * G, K), with S = lambda D / G
        # V[k] = sum_n sum_i a[n, i, k] (z[n, i] - c[k]) = M[k] (A[k] / M[k] - c[k]), where A and M sum a z and a.
        means, mass = cluster_means(a, z)  # A / M (B, K, S), M (B, K)
        residuals = self._residuals(means)  # V / M (B, K, S)
        # V[k] = V[k] / ||V[k]||, y = V / ||V||
        y = normalized_descriptor(residuals, mass, self.intra_normalization, self.output_normalization)  # (B, K * S)
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], self.num_clusters * self._group_size(self._check_shape(input_shape))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_clusters": self.num_clusters,
            "groups": self.groups,
            "expansion": self.expansion,
            "use_bias": self.use_bias,
            "assignment_batch_normalization": self.assignment_batch_normalization,
            "batch_normalization_momentum": self.batch_normalization_momentum,
            "normalize_input": self.normalize_input,
            "intra_normalization": self.intra_normalization,
            "output_normalization": self.output_normalization,
            "data_format": self.data_format,
            **weight_config(self, "kernel", "bias", "centroids"),
        }

    def _assigned(self, inputs, mask, training):
        """Returns the groups `z` `(B, N * G, S)` of the expanded features and their assignments `(B, N * G, K)`."""
        x, weights, present = self._real_features(inputs, mask)
        z = self._linear(x, self.expansion_kernel, "expansion_bias")  # (B, N, G * S)
        attention = ops.sigmoid(self._linear(z, self.attention_kernel, "attention_bias"))  # (B, N, G)
        attention = attention if weights is None else attention * weights
        if self.assignment_batch_normalization:
            logits = matmul(z, ops.cast(self.kernel, z.dtype))  # (B, N, G * K)
            logits = self.batch_normalization(logits, training=training, mask=present)
        else:
            logits = self._linear(z, self.kernel, "bias")
        a = ops.softmax(self._grouped(logits), axis=-1) * self._grouped(attention)
        return self._grouped(z), a

    def _residuals(self, means):
        return means - cast_like(self.centroids, means)

    def _linear(self, x, kernel, bias):
        x = matmul(x, ops.cast(kernel, x.dtype))
        return x + ops.cast(getattr(self, bias), x.dtype) if self.use_bias else x

    def _grouped(self, values):
        """Returns `(B, N, G * S)` as `(B, N * G, S)`."""
        batch, frames, size = values.shape
        if not frames:  # no batch size can be inferred without frames
            return ops.reshape(values, (ops.shape(values)[0], 0 if frames == 0 else -1, size // self.groups))
        return ops.reshape(values, (-1 if batch is None else batch, frames * self.groups, size // self.groups))

    def _group_size(self, feature_size):
        expanded = self.expansion * feature_size
        if expanded % self.groups:
            raise ValueError(
                f"`{self.name}` cuts expanded features into groups; `expansion` times the feature size must be a "
                f"multiple of `groups`. Received: expansion={self.expansion}, feature size {feature_size}, "
                f"groups={self.groups}"
            )
        return expanded // self.groups
