"""`SoftDBoW`: the number of features that belong to each learnable cluster."""

from typing import Any, Literal

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.layers.batch_normalization import MOMENTUM, BatchNormalization, check_momentum
from keras_netvlad.layers.frame_pooling import FramePooling, Shape
from keras_netvlad.layers.soft_assignment import SoftAssignment
from keras_netvlad.layers.vlad_ops import matmul, normalize
from keras_netvlad.layers.weight_options import (
    ConstraintLike,
    InitializerLike,
    RegularizerLike,
    add_weight,
    set_weight_options,
    weight_config,
)


@keras.saving.register_keras_serializable(package="keras_netvlad")
class SoftDBoW(SoftAssignment, FramePooling):
    """Pools features into a soft bag of words: the number of features that belong to each cluster.

        a = softmax(x W + b)                    soft assignment of each feature
        M[k] = sum_n a[n, k]                    how many belong to cluster k
        y = M / ||M||                           output normalization

    With `gate_counts`, the counts are gated by the largest assignments of each cluster, through a linear bottleneck of
    `D` units:

        m[k] = max_n a[n, k], m = m / ||m||     largest assignment to each cluster
        M = M * sigmoid(normalized(m R S))      gated counts

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
        batch_normalization_momentum: Number from 0 to below 1, the share of the moving statistics that a training step
            keeps.
        gate_counts: Boolean, whether to gate the counts, as `GatedDbofModelLF` of the published code does for `rgb`.
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
        `kernel` `(D, K + G)` or `(1, 1, D, K + G)`; `bias` `(K + G,)`. With `gate_counts`, `reduction_kernel` `R`
        `(K, D)`, `gate_kernel` `S` `(D, K)`, both with the options of `kernel`, and a batch normalization.

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
        batch_normalization_momentum: float = MOMENTUM,
        gate_counts: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(normalize_input, data_format or "channels_last", **kwargs)
        self.num_clusters = check_integer("num_clusters", num_clusters, 1)
        self._set_assignment(num_ghost_clusters, assignment, use_bias, assignment_batch_normalization, data_format)
        self.batch_normalization_momentum = check_momentum(batch_normalization_momentum)
        set_weight_options(self, "kernel", kernel_initializer, kernel_regularizer, kernel_constraint)
        set_weight_options(self, "bias", bias_initializer, bias_regularizer, bias_constraint)
        self.output_normalization = check_boolean("output_normalization", output_normalization)
        self.gate_counts = check_boolean("gate_counts", gate_counts)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self._build_assignment()
        if self.gate_counts:
            self.reduction_kernel = add_weight(
                self, "reduction_kernel", (self.num_clusters, self.feature_size), "kernel"
            )
            self.gate_kernel = add_weight(self, "gate_kernel", (self.feature_size, self.num_clusters), "kernel")
            self.gate_batch_normalization = BatchNormalization(
                momentum=self.batch_normalization_momentum, dtype=self.sum_dtype, name="gate_batch_normalization"
            )
            self.gate_batch_normalization.build((None, self.num_clusters))

    def call(self, inputs: ArrayLike, mask: ArrayLike | None = None, training: bool | None = None) -> keras.KerasTensor:
        # a = softmax(x W + b), zero for padding.
        _, a = self._assigned(inputs, mask, training)  # (B, N, K)
        mass = ops.sum(a, axis=1)  # M[k] = sum_n a[n, k] (B, K)
        if self.gate_counts:
            mass = mass * self._gates(a, training)  # M = M * sigmoid(normalized(m R S))
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
            "gate_counts": self.gate_counts,
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

    def _gates(self, a, training):
        """Returns `sigmoid(normalized(m R S))` `(B, K)` from the assignments `a` `(B, N, K)`, zero for padding."""
        # `initial`, for there may be no features.
        m = normalize(ops.max(a, axis=1, initial=0.0))  # m = m / ||m|| (B, K)
        reduced = matmul(m, ops.cast(self.reduction_kernel, m.dtype))  # m R (B, D)
        logits = matmul(reduced, ops.cast(self.gate_kernel, m.dtype))  # m R S (B, K)
        return ops.sigmoid(self.gate_batch_normalization(logits, training=training))
