"""`NeXtVLAD`: residuals of groups of features, weighted by attention."""

import keras
from keras import ops

from keras_netvlad.layers.residual_pooling import ResidualPooling
from keras_netvlad.layers.soft_assignment import BATCH_NORMALIZATION_EPSILON
from keras_netvlad.layers.validation import check_boolean, check_integer


@keras.saving.register_keras_serializable(package="keras_netvlad")
class NeXtVLAD(ResidualPooling):
    """Pools descriptors like `NetVLAD`, but in groups of features that share small clusters.

    Descriptors are expanded `lambda` times and cut into `G` groups of `lambda D / G` features. Each group is softly
    assigned to `K` clusters and counts as much as its attention says:

        z = x E + e                                         expansion, (lambda D,)
        g = sigmoid(z A + b)                                attention of each group, (G,)
        a[n, i] = g[n, i] softmax(normalized(z[n] W)[i])    soft assignment of group i, (K,)
        V[k] = sum_n sum_i a[n, i, k] (z[n, i] - c[k])      residuals, one sum a cluster
        V[k] = V[k] / ||V[k]||                              intra-normalization
        y = V / ||V||                                       output normalization

    The descriptor is `lambda / G` times as long as that of NetVLAD, and with it the projection behind it, where nearly
    all weights are. Where the output is normalized here the published code has a batch normalization;
    `output_normalization=False` and a `BatchNormalization` behind the layer are its form. Its batch statistics include
    padding and its shapes a constant of 300 frames; here padding is left out, and frames are any number.

    Frames and masks, precision and empty videos are as of `NetVLAD`; `aggregate`, `describe` and `NetVLADStream` pool
    long videos piece by piece. `assign` gives a row for each group: `(B, N * G, K)`, frame by frame.

    Args:
        num_clusters: Integer, `K`.
        groups: Integer, `G`, of which `expansion * D` must be a multiple.
        expansion: Integer, `lambda`.
        use_bias: Boolean, whether the three linear maps have biases, the assignment's being the batch normalization's
            offset if there is one.
        assignment_batch_normalization: Boolean, whether to batch-normalize the assignment's logits.
        normalize_input: Boolean, whether to scale each descriptor to unit L2 norm first.
        intra_normalization: Boolean, whether to scale each cluster's residuals to unit L2 norm.
        output_normalization: Boolean, whether to scale the output to unit L2 norm.
        data_format: `"channels_last"` or `"channels_first"`, for maps. `channels_first` maps are `(B, D, H, W)`
            and `(B, T, D, H, W)`.
        kernel_initializer, bias_initializer, centroids_initializer: Initializers, of all kernels and all biases.
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
        ValueError: On an argument, an input or a mask that is none of the above, or features that can't be grouped.

    Reference:
        - [Lin et al. 2018](https://arxiv.org/abs/1811.05014), section 3.2, equations 5 to 10.
    """

    def __init__(
        self,
        num_clusters,
        groups=8,
        expansion=2,
        use_bias=True,
        assignment_batch_normalization=True,
        normalize_input=False,
        intra_normalization=True,
        output_normalization=True,
        data_format="channels_last",
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
            normalize_input=normalize_input,
            intra_normalization=intra_normalization,
            output_normalization=output_normalization,
            data_format=data_format,
            centroids_initializer=centroids_initializer,
            centroids_regularizer=centroids_regularizer,
            centroids_constraint=centroids_constraint,
            **kwargs,
        )
        self.groups = check_integer("groups", groups, 1)
        self.expansion = check_integer("expansion", expansion, 1)
        self.use_bias = check_boolean("use_bias", use_bias)
        self.assignment_batch_normalization = check_boolean(
            "assignment_batch_normalization", assignment_batch_normalization
        )
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    def get_config(self):
        return {
            **super().get_config(),
            "groups": self.groups,
            "expansion": self.expansion,
            "use_bias": self.use_bias,
            "assignment_batch_normalization": self.assignment_batch_normalization,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }

    def _build_assignment(self):
        expanded, num_logits = self.expansion * self.feature_size, self.groups * self.num_clusters
        self.expansion_kernel = self._add_kernel("expansion_kernel", (self.feature_size, expanded))
        self.attention_kernel = self._add_kernel("attention_kernel", (expanded, self.groups))
        self.kernel = self._add_kernel("kernel", (expanded, num_logits))
        if self.use_bias:
            self.expansion_bias = self._add_bias("expansion_bias", expanded)
            self.attention_bias = self._add_bias("attention_bias", self.groups)
        if self.assignment_batch_normalization:
            self.batch_normalization = keras.layers.BatchNormalization(
                epsilon=BATCH_NORMALIZATION_EPSILON,
                center=self.use_bias,
                beta_initializer=self.bias_initializer,
                beta_regularizer=self.bias_regularizer,
                beta_constraint=self.bias_constraint,
                dtype=self._sum_dtype,
                name="batch_normalization",
            )
            self.batch_normalization.build((None, None, num_logits))
        elif self.use_bias:
            self.bias = self._add_bias("bias", num_logits)

    def _assigned(self, inputs, mask, training):
        """Groups `(B, N * G, lambda D / G)` of the expanded descriptors, and their assignments `(B, N * G, K)`."""
        descriptors, weights, present = self._picked(inputs, mask)
        expanded = self._mapped(descriptors, self.expansion_kernel, "expansion_bias")
        attention = ops.sigmoid(self._mapped(expanded, self.attention_kernel, "attention_bias"))  # (B, N, G)
        attention = attention if weights is None else attention * weights
        if self.assignment_batch_normalization:
            logits = expanded @ ops.cast(self.kernel, self._sum_dtype)
            logits = self.batch_normalization(logits, training=training, mask=present)
        else:
            logits = self._mapped(expanded, self.kernel, "bias")
        assignments = ops.softmax(self._grouped(logits), axis=-1) * self._grouped(attention)
        return self._grouped(expanded), assignments

    def _mapped(self, values, kernel, bias):
        values = values @ ops.cast(kernel, self._sum_dtype)
        return values + ops.cast(getattr(self, bias), self._sum_dtype) if self.use_bias else values

    def _grouped(self, values):
        """`(B, N, G * S)` as `(B, N * G, S)`."""
        batch, frames, size = values.shape
        if frames is None:
            return ops.reshape(values, (ops.shape(values)[0], -1, size // self.groups))
        return ops.reshape(values, (-1 if batch is None else batch, frames * self.groups, size // self.groups))

    def _shape_of_sums(self, feature_size):
        expanded = self.expansion * feature_size
        if expanded % self.groups:
            raise ValueError(
                f"`{self.name}` cuts expanded features into groups; `expansion` times the feature size must be a "
                f"multiple of `groups`. Received: expansion={self.expansion}, feature size {feature_size}, "
                f"groups={self.groups}"
            )
        return self.num_clusters, expanded // self.groups

    def _add_kernel(self, name, shape):
        return self.add_weight(
            name=name,
            autocast=False,
            shape=shape,
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )

    def _add_bias(self, name, size):
        return self.add_weight(
            name=name,
            autocast=False,
            shape=(size,),
            initializer=self.bias_initializer,
            regularizer=self.bias_regularizer,
            constraint=self.bias_constraint,
        )
