"""`SoftDBoW`: how much of the video belongs to each learnable cluster."""

from typing import Any, Literal

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.layers.frame_pooling import FramePooling, Shape
from keras_netvlad.layers.soft_assignment import SoftAssignment
from keras_netvlad.layers.vlad_ops import normalize
from keras_netvlad.layers.weight_options import (
    ConstraintLike,
    InitializerLike,
    RegularizerLike,
    set_weight_options,
    weight_config,
)


@keras.saving.register_keras_serializable(package="keras_netvlad")
class SoftDBoW(SoftAssignment, FramePooling):
    """Pools features into a soft, deep bag of words: how many of them belong to each cluster.

        a = softmax(x W + b)                    soft assignment of each feature
        M[k] = sum_n a[n, k]                    how many belong to cluster k
        y = M / ||M||                           output normalization

    The descriptor has one value per cluster, so there may be thousands of clusters. Inputs, masks, precision and empty
    videos are treated as in `NetVLAD`.

    Args:
        num_clusters: Integer, `K`.
        num_ghost_clusters, assignment, use_bias, assignment_batch_normalization, data_format: The assignment, as in
            `NetVLAD`.
        normalize_input: Boolean, whether to scale each feature to unit L2 norm first.
        output_normalization: Boolean, whether to scale the output to unit L2 norm. Otherwise the output counts
            features.
        kernel_initializer, bias_initializer: Initializers.
        kernel_regularizer, bias_regularizer: Regularizers.
        kernel_constraint, bias_constraint: Constraints.
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
        `(B, K)`.

    Weights:
        `kernel` `(D, K + G)` or `(1, 1, D, K + G)`; `bias` `(K + G,)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import SoftDBoW
    >>> frames = np.random.default_rng(0).normal(size=(2, 300, 64)).astype("float32")
    >>> SoftDBoW(num_clusters=8)(frames, mask=np.arange(300) < [[300], [120]]).shape[1]
    8

    Raises:
        ValueError: If an argument, the input or the mask is invalid.

    Reference:
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905), "Beyond NetVLAD aggregation".
    """

    def __init__(
        self,
        num_clusters: int,
        num_ghost_clusters: int = 0,
        assignment: Literal["dense", "conv"] = "dense",
        use_bias: bool = True,
        assignment_batch_normalization: bool = False,
        normalize_input: bool = False,
        output_normalization: bool = True,
        data_format: Literal["channels_last", "channels_first"] | None = None,
        kernel_initializer: InitializerLike = "lecun_normal",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(normalize_input, data_format or "channels_last", **kwargs)
        self.num_clusters = check_integer("num_clusters", num_clusters, 1)
        self._set_assignment(num_ghost_clusters, assignment, use_bias, assignment_batch_normalization, data_format)
        set_weight_options(self, "kernel", kernel_initializer, kernel_regularizer, kernel_constraint)
        set_weight_options(self, "bias", bias_initializer, bias_regularizer, bias_constraint)
        self.output_normalization = check_boolean("output_normalization", output_normalization)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self._build_assignment()

    def call(self, inputs: ArrayLike, mask: ArrayLike | None = None, training: bool | None = None) -> keras.KerasTensor:
        # a = softmax(x W + b), zero for padding.
        _, a = self._assigned(inputs, mask, training)  # (B, N, K)
        mass = ops.sum(a, axis=1)  # M[k] = sum_n a[n, k] (B, K)
        y = normalize(mass) if self.output_normalization else mass  # y = M / ||M||
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self._check_shape(input_shape)
        return input_shape[0], self.num_clusters

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_clusters": self.num_clusters,
            **self._assignment_config(),
            "normalize_input": self.normalize_input,
            "output_normalization": self.output_normalization,
            "data_format": self.data_format,
            **weight_config(self, "kernel", "bias"),
        }

    def assign(self, inputs: ArrayLike, mask: ArrayLike | None = None) -> keras.KerasTensor:
        """Returns the share of each feature that each cluster gets, as `NetVLAD.assign` does.

        Args:
            inputs: Features, as for the layer.
            mask: Mask, as for the layer.

        Returns:
            Assignments `(B, N, K)`, zero for padding.

        Raises:
            ValueError: If the inputs or the mask are invalid, as for the layer.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad.layers import SoftDBoW
        >>> frames = np.random.default_rng(0).normal(size=(1, 100, 16)).astype("float32")
        >>> tuple(SoftDBoW(num_clusters=4).assign(frames).shape)
        (1, 100, 4)
        """
        return self._assigned(inputs, mask, training=False)[1]
