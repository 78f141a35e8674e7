"""`NetRVLAD`: soft assignment to learnable clusters, without residuals."""

import keras

from keras_netvlad.layers.additive_pooling import AdditivePooling
from keras_netvlad.layers.soft_assignment import SoftAssignment


@keras.saving.register_keras_serializable(package="keras_netvlad")
class NetRVLAD(SoftAssignment, AdditivePooling):
    """Pools descriptors into one sum for each cluster, of the descriptors instead of their residuals.

        a = softmax(x W + b)                    soft assignment of each descriptor
        V[k] = sum_n a[n, k] x[n]               one sum a cluster, no centroid
        V[k] = V[k] / ||V[k]||                  intra-normalization
        y = V / ||V||                           output normalization

    `NetVLAD` without its centroids: half the weights. Frames and masks, precision and
    empty videos are as there; `aggregate`, `describe` and `NetVLADStream` pool long videos piece by piece.

    Args:
        num_clusters: Integer, `K`.
        num_ghost_clusters, assignment, use_bias, assignment_batch_normalization, data_format: The assignment, as of
            `NetVLAD`.
        normalize_input: Boolean, whether to scale each descriptor to unit L2 norm first.
        intra_normalization: Boolean, whether to scale each cluster's sum to unit L2 norm.
        output_normalization: Boolean, whether to scale the output to unit L2 norm.
        kernel_initializer, bias_initializer: Initializers.
        kernel_regularizer, bias_regularizer: Regularizers.
        kernel_constraint, bias_constraint: Constraints.
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
        `(B, K * D)`, cluster-major: the first `D` values belong to the first cluster.

    Weights:
        `kernel` `(D, K + G)` or `(1, 1, D, K + G)`; `bias` `(K + G,)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import NetRVLAD
    >>> frames = np.random.default_rng(0).normal(size=(2, 300, 64)).astype("float32")
    >>> NetRVLAD(num_clusters=8)(frames, mask=np.arange(300) < [[300], [120]]).shape[1]
    512

    Raises:
        ValueError: On an argument, an input or a mask that is none of the above.

    Reference:
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905), "Beyond NetVLAD aggregation".
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
        kernel_initializer="lecun_normal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
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
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
