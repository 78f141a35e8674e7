"""`NetVLAD`: soft assignment to learnable clusters, pooled residuals."""

import keras

from keras_netvlad.layers.adaptable_pooling import AdaptablePooling
from keras_netvlad.layers.soft_assignment import SoftAssignment


@keras.saving.register_keras_serializable(package="keras_netvlad")
class NetVLAD(SoftAssignment, AdaptablePooling):
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
        self.product_dtype = _check_product_dtype(product_dtype)

    def get_config(self):
        return {**super().get_config(), "product_dtype": self.product_dtype}


def _check_product_dtype(product_dtype):
    if product_dtype not in (None, "bfloat16"):
        raise ValueError(f"`product_dtype` must be None or 'bfloat16'. Received: product_dtype={product_dtype!r}")
    return product_dtype
