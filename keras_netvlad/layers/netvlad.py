"""`NetVLAD`: soft assignment to learnable clusters, pooled residuals."""

import operator

import keras
import numpy as np
from keras import ops

from keras_netvlad.layers.adaptation import soft_assignment
from keras_netvlad.layers.residual_pooling import ResidualPooling
from keras_netvlad.layers.validation import check_boolean, check_integer

# Keras's own, named because `adapt` undoes the normalization.
BATCH_NORMALIZATION_EPSILON = 1e-3


@keras.saving.register_keras_serializable(package="keras_netvlad")
class NetVLAD(ResidualPooling):
    """Pools any number of descriptors into one fixed-length descriptor with learnable clusters.

    Each descriptor is softly assigned to `K` clusters, and each cluster sums the residuals of its descriptors to
    its centroid. The result does not depend on the order of the descriptors, ignores what `mask` leaves out, and
    has the same length for one frame and for an hour:

        a = softmax(x W + b)                    soft assignment of each descriptor
        V[k] = sum_n a[n, k] (x[n] - c[k])      residuals, one sum a cluster
        V[k] = V[k] / ||V[k]||                  intra-normalization
        y = V / ||V||                           output normalization

    Whatever the dtype policy, this is computed in float32 (in float64 under a float64 policy), unless
    `product_dtype` says otherwise; a mixed policy sets the dtype of the output. A video without frames, an empty
    cluster and a descriptor of zeros give zeros and finite gradients.

    Args:
        num_clusters: Integer, `K`.
        num_ghost_clusters: Integer, `G`. Ghost clusters take part in the softmax and are dropped after it, so
            that uninformative descriptors have somewhere to go (GhostVLAD). They have no centroids.
        assignment: `"dense"` or `"conv"`: the shape of the assignment kernel, a Dense layer's `(D, K + G)` or a
            1x1 Conv2D's `(1, 1, D, K + G)`. Both are the same function.
        use_bias: Boolean, whether the assignment has a bias.
        assignment_batch_normalization: Boolean, whether to batch-normalize the assignment's logits, leaving
            padding out of the statistics. Its offset takes the place of the bias.
        normalize_input: Boolean, whether to scale each descriptor to unit L2 norm first.
        intra_normalization: Boolean, whether to scale each cluster's residuals to unit L2 norm.
        output_normalization: Boolean, whether to scale the output to unit L2 norm.
        data_format: `"channels_last"` or `"channels_first"`, for maps under `assignment="conv"`; by default
            `keras.config.image_data_format()`. `channels_first` maps are `(B, D, H, W)` and `(B, T, D, H, W)`.
        product_dtype: `None` or `"bfloat16"`: the dtype that the factors and results of the two matrix products are
            rounded to, for speed where a device multiplies bfloat16 faster; everything between them stays float32.
            A logit of size `s` is then off by up to `s / 256`, and a mean descriptor by as much of its size: suits
            descriptors around 0 and assignments that are not sharp. `aggregate` rounds no sums.
        kernel_initializer, bias_initializer, centroids_initializer: Initializers. The default of kernel and
            centroids is a truncated normal of standard deviation `1 / sqrt(D)`.
        kernel_regularizer, bias_regularizer, centroids_regularizer: Regularizers.
        kernel_constraint, bias_constraint, centroids_constraint: Constraints.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    Call arguments:
        inputs: Descriptors, `(B, N, D)`; or maps, `(B, H, W, D)` of images or `(B, T, H, W, D)` of videos, whose
            positions are all descriptors.
        mask: Optional. What counts: boolean, or weights that are finite and not negative. Shape `(B, N)`,
            `(B, H, W)` or `(B, T, H, W)` like the input; over video maps also `(B, T)`. Padding may hold NaN.
            A mask that Keras carries along, from `Masking` or `Embedding(mask_zero=True)`, is used by itself.
            Inside a compiled graph, where nothing can be raised, a weight that is negative or NaN counts as 0.
        training: Boolean, whether batch normalization uses the statistics of the batch.

    Input shape:
        `(B, N, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`.

    Output shape:
        `(B, K * D)`, cluster-major: the first `D` values belong to the first cluster.

    Weights:
        `kernel` `(D, K + G)` or `(1, 1, D, K + G)`; `bias` `(K + G,)`; `centroids` `(K, D)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad import NetVLAD
    >>> frames = np.random.default_rng(0).normal(size=(2, 300, 64)).astype("float32")
    >>> layer = NetVLAD(num_clusters=8)
    >>> layer(frames).shape[1]
    512
    >>> layer(frames, mask=np.arange(300) < [[300], [120]]).shape[0]
    2

    Raises:
        ValueError: On an argument, an input or a mask that is none of the above.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 3.1, equations 1, 3 and 4.
        - [Zhong et al. 2018](https://arxiv.org/abs/1810.09951) (ghost clusters).
        - [Girdhar et al. 2017](https://arxiv.org/abs/1704.02895), section 3.1 (sum over space and time).
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905) (batch-normalized assignment, in its code).
    """

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
        data_format=None,
        product_dtype=None,
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
            data_format=_check_data_format(assignment, data_format),
            centroids_initializer=centroids_initializer,
            centroids_regularizer=centroids_regularizer,
            centroids_constraint=centroids_constraint,
            **kwargs,
        )
        self.num_ghost_clusters = check_integer("num_ghost_clusters", num_ghost_clusters, 0)
        self.assignment = assignment
        self.product_dtype = _check_product_dtype(product_dtype)
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
            "num_ghost_clusters": self.num_ghost_clusters,
            "assignment": self.assignment,
            "product_dtype": self.product_dtype,
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
        num_logits = self._num_assigned
        self.kernel = self.add_weight(
            name="kernel",
            autocast=False,
            shape=((1, 1) if self.assignment == "conv" else ()) + (self.feature_size, num_logits),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        offset = {
            "initializer": self.bias_initializer,
            "regularizer": self.bias_regularizer,
            "constraint": self.bias_constraint,
        }
        if self.assignment_batch_normalization:
            self.batch_normalization = keras.layers.BatchNormalization(
                epsilon=BATCH_NORMALIZATION_EPSILON,
                center=self.use_bias,
                **{f"beta_{key}": value for key, value in offset.items()},
                dtype=self._sum_dtype,
                name="batch_normalization",
            )
            self.batch_normalization.build((None, None, num_logits))
        elif self.use_bias:
            self.bias = self.add_weight(name="bias", autocast=False, shape=(num_logits,), **offset)

    def _assign(self, descriptors, present, training):
        kernel = ops.cast(self.kernel, self._sum_dtype)
        kernel = ops.squeeze(kernel, axis=(0, 1)) if self.assignment == "conv" else kernel  # (D, K + G)
        # The operator, for `ops.matmul` turns float64 into float32 on torch and JAX (Keras 3.15).
        logits = self._product(operator.matmul, descriptors, kernel)  # (B, N, K + G)
        if self.assignment_batch_normalization:
            logits = self.batch_normalization(logits, training=training, mask=present)
        elif self.use_bias:
            logits = logits + ops.cast(self.bias, self._sum_dtype)
        assignments = ops.softmax(logits, axis=-1)
        return assignments[..., : self.num_clusters] if self.num_ghost_clusters else assignments

    def _adapted_assignment(self, sample, centroids):
        if not self.assignment_batch_normalization:
            kernel, bias = soft_assignment(self.name, sample, centroids, self.use_bias)
            offset = {"bias": bias} if self.use_bias else {}
            return {"kernel": self._shaped_kernel(kernel), **offset}
        # Without an offset, training subtracts the logits' mean, so cosines are taken around the descriptors' mean. The
        # most assigned cluster is then the nearest for 91 to 96 % of real and made-up descriptors, in training as in
        # inference; with cosines around zero, for 55 to 91 % in training.
        origin = 0.0 if self.use_bias else sample.mean(axis=0, dtype="float64")
        kernel, bias = soft_assignment(
            self.name, (sample - origin).astype(sample.dtype), centroids - origin, self.use_bias
        )
        logits = np.concatenate(
            [sample[start : start + 4096].astype("float64") @ kernel for start in range(0, len(sample), 4096)]
        )
        mean, variance = logits.mean(axis=0), logits.var(axis=0)
        # Normalization and its inverse: gamma (s - mean) / sqrt(variance + epsilon) + beta = s + bias.
        offset = {"batch_normalization.beta": mean + bias} if self.use_bias else {}
        return {
            "kernel": self._shaped_kernel(kernel),
            "batch_normalization.gamma": np.sqrt(variance + BATCH_NORMALIZATION_EPSILON),
            "batch_normalization.moving_mean": mean,
            "batch_normalization.moving_variance": variance,
            **offset,
        }

    def _shaped_kernel(self, kernel):
        return kernel[None, None] if self.assignment == "conv" else kernel

    @property
    def _num_assigned(self):
        return self.num_clusters + self.num_ghost_clusters


def _check_data_format(assignment, data_format):
    if assignment not in ("dense", "conv"):
        raise ValueError(f"`assignment` must be 'dense' or 'conv'. Received: assignment={assignment!r}")
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(
            f"`data_format` must be 'channels_last' or 'channels_first'. Received: data_format={data_format!r}"
        )
    if assignment == "dense":
        if data_format == "channels_first":
            raise ValueError(
                "`data_format='channels_first'` needs `assignment='conv'`; a dense assignment reads the last axis. "
                f"Received: assignment={assignment!r}"
            )
        return data_format
    return data_format or keras.config.image_data_format()


def _check_product_dtype(product_dtype):
    if product_dtype not in (None, "bfloat16"):
        raise ValueError(f"`product_dtype` must be None or 'bfloat16'. Received: product_dtype={product_dtype!r}")
    return product_dtype
