"""`VLAD`: hard assignment to the nearest centroid, pooled residuals."""

import keras
from keras import ops

from keras_netvlad.layers.adaptable_pooling import AdaptablePooling


@keras.saving.register_keras_serializable(package="keras_netvlad")
class VLAD(AdaptablePooling):
    """Pools any number of descriptors into one fixed-length descriptor, each assigned to its nearest centroid.

    The classical descriptor that NetVLAD makes differentiable, and its limit as the soft assignment becomes hard:
    a baseline, with centroids from `adapt`.

        a[n, k] = 1 where c[k] is the centroid nearest to x[n], else 0
        V[k] = sum_n a[n, k] (x[n] - c[k])      residuals, one sum a cluster
        V[k] = V[k] / ||V[k]||                  intra-normalization
        y = V / ||V||                           output normalization

    The assignment has no weights and passes no gradient; the residuals do, so that centroids and the layers below
    can be trained. A descriptor as near to two centroids goes to the first. Whatever the dtype policy, this is
    computed in float32 (in float64 under a float64 policy); a mixed policy sets the dtype of the output.

    Args:
        num_clusters: Integer, `K`.
        normalize_input: Boolean, whether to scale each descriptor to unit L2 norm first.
        intra_normalization: Boolean, whether to scale each cluster's residuals to unit L2 norm. The paper of 2010
            does not (`False`); its successor, "All about VLAD", does.
        output_normalization: Boolean, whether to scale the output to unit L2 norm.
        data_format: `"channels_last"` or `"channels_first"`, for maps. `channels_first` maps are `(B, D, H, W)`
            and `(B, T, D, H, W)`.
        centroids_initializer: Initializer, by default a truncated normal of standard deviation `1 / sqrt(D)`;
            `adapt` replaces its values with centroids of k-means.
        centroids_regularizer: Regularizer.
        centroids_constraint: Constraint.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    Call arguments:
        inputs: Descriptors, `(B, N, D)`; or maps, `(B, H, W, D)` of images or `(B, T, H, W, D)` of videos, whose
            positions are all descriptors.
        mask: Optional. What counts: boolean, or weights that are finite and not negative. Shape `(B, N)`,
            `(B, H, W)` or `(B, T, H, W)` like the input; over video maps also `(B, T)`. Padding may hold NaN.

    Input shape:
        `(B, N, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`.

    Output shape:
        `(B, K * D)`, cluster-major: the first `D` values belong to the first cluster.

    Weights:
        `centroids` `(K, D)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import VLAD
    >>> frames = np.random.default_rng(0).normal(size=(2, 300, 64)).astype("float32")
    >>> layer = VLAD(num_clusters=8)
    >>> layer.adapt(frames, seed=0, verbose=0)
    >>> tuple(layer(frames).shape)
    (2, 512)

    Raises:
        ValueError: On an argument, an input or a mask that is none of the above.

    Reference:
        - [Jégou et al. 2010](https://doi.org/10.1109/CVPR.2010.5540039), section 2.3.
        - [Arandjelović & Zisserman 2013](https://doi.org/10.1109/CVPR.2013.207) (intra-normalization).
    """

    def __init__(
        self,
        num_clusters,
        normalize_input=False,
        intra_normalization=True,
        output_normalization=True,
        data_format="channels_last",
        centroids_initializer=None,
        centroids_regularizer=None,
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

    def _assign(self, descriptors, present, training):
        centroids = ops.cast(self.centroids, self._sum_dtype)
        # ||x||^2 is the same for all clusters, so the nearest has the largest 2 c . x - ||c||^2.
        products = descriptors @ ops.transpose(centroids)  # (B, N, K)
        nearness = 2.0 * products - ops.sum(ops.square(centroids), axis=1)
        # `initial`, for there may be no descriptors. `argmax` of integers: that of floats looks at their bits in Keras
        # 3.15, and ONNX has no op that does.
        is_nearest = nearness == ops.max(nearness, axis=-1, keepdims=True, initial=float("-inf"))
        nearest = ops.argmax(ops.cast(is_nearest, "int32"), axis=-1)  # (B, N), the first where several are as near
        return ops.cast(ops.expand_dims(nearest, 2) == ops.arange(self.num_clusters), self._sum_dtype)
