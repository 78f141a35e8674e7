"""`AttentionPooling`: means of the features, weighted by learned attention."""

from typing import Any, Literal

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_integer
from keras_netvlad.layers.frame_pooling import FramePooling, Shape
from keras_netvlad.layers.vlad_ops import inverse_mass, matmul
from keras_netvlad.layers.weight_options import (
    ConstraintLike,
    InitializerLike,
    RegularizerLike,
    add_weight,
    set_weight_options,
    weight_config,
)

# The logit of padding. Its exponential is 0. Minus infinity would give NaN for a video without frames.
NO_LOGIT = -1e30


@keras.saving.register_keras_serializable(package="keras_netvlad")
class AttentionPooling(FramePooling):
    """Pools features into `H` means, each weighted by a softmax over the frames.

        s[n] = tanh(x[n] U) W                   attention logits, one per head; without `hidden_units` x[n] W
        a[n, h] = m[n] exp(s[n, h]) / sum_i m[i] exp(s[i, h])
        y[h] = sum_n a[n, h] x[n]               one mean per head

    `m` are the mask's weights. `NetVLAD` divides each frame among the clusters; here, each head divides its attention
    among the frames. The layer computes in float32 (float64 under a float64 policy); a mixed policy sets only the dtype
    of the output. A video without frames gives zeros.

    Args:
        num_heads: Integer, `H`.
        hidden_units: Integer, the number of columns of `U`; or `None` for attention that is linear in the features.
        normalize_input: Boolean, whether to scale each feature to unit L2 norm first.
        data_format: `"channels_last"` or `"channels_first"`, for maps. `channels_first` maps are `(B, D, H, W)`
            and `(B, T, D, H, W)`.
        kernel_initializer: Initializer of both weights, by default a truncated normal of standard deviation
            `1 / sqrt(rows)`.
        kernel_regularizer: Regularizer of both weights.
        kernel_constraint: Constraint of both weights.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Call arguments:
        inputs: Features `(B, N, D)`; or maps, `(B, H, W, D)` of images or `(B, T, H, W, D)` of videos, every
            position of which is a feature.
        mask: Optional. Booleans, true for real features, or weights, finite and not negative. The shape is
            `(B, N)`, `(B, H, W)` or `(B, T, H, W)`, as of the input, or `(B, T)` for video maps. Padding may hold NaN.

    Input shape:
        `(B, N, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`.

    Output shape:
        `(B, H * D)`, head-major: the first `D` values belong to the first head.

    Weights:
        `kernel` `W` `(D, H)`; with `hidden_units`, `hidden_kernel` `U` `(D, hidden_units)` and `kernel`
        `(hidden_units, H)`. There is no bias because it would cancel in the softmax.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import AttentionPooling
    >>> frames = np.random.default_rng(0).normal(size=(2, 300, 64)).astype("float32")
    >>> AttentionPooling(num_heads=4)(frames, mask=np.arange(300) < [[300], [120]]).shape[1]
    256

    Raises:
        ValueError: If an argument, the input or the mask is invalid.

    Reference:
        - [Lin et al. 2017](https://arxiv.org/abs/1703.03130), section 2.1, equations 5 and 6.
    """

    def __init__(
        self,
        num_heads: int = 1,
        hidden_units: int | None = None,
        normalize_input: bool = False,
        data_format: Literal["channels_last", "channels_first"] = "channels_last",
        kernel_initializer: InitializerLike = "lecun_normal",
        kernel_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(normalize_input, data_format, **kwargs)
        self.num_heads = check_integer("num_heads", num_heads, 1)
        self.hidden_units = None if hidden_units is None else check_integer("hidden_units", hidden_units, 1)
        set_weight_options(self, "kernel", kernel_initializer, kernel_regularizer, kernel_constraint)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        rows = self.feature_size
        if self.hidden_units is not None:
            self.hidden_kernel = add_weight(self, "hidden_kernel", (rows, self.hidden_units), "kernel")
            rows = self.hidden_units
        self.kernel = add_weight(self, "kernel", (rows, self.num_heads))

    def call(self, inputs: ArrayLike, mask: ArrayLike | None = None) -> keras.KerasTensor:
        x, m, present = self._real_features(inputs, mask)  # (B, N, D), (B, N, 1), (B, N)
        hidden = x
        if self.hidden_units is not None:
            hidden = ops.tanh(matmul(x, ops.cast(self.hidden_kernel, x.dtype)))  # (B, N, hidden_units)
        s = matmul(hidden, ops.cast(self.kernel, x.dtype))  # (B, N, H)
        if present is not None:
            s = ops.where(ops.expand_dims(present, 2), s, NO_LOGIT)
        # The largest logit of each head cancels, and keeps the exponentials finite.
        largest = ops.stop_gradient(ops.max(s, axis=1, keepdims=True, initial=NO_LOGIT))  # (B, 1, H)
        a = ops.exp(s - largest)
        a = a if m is None else a * m
        a = a * inverse_mass(ops.sum(a, axis=1, keepdims=True))  # (B, N, H)
        y = matmul(a, x, transpose_a=True)  # (B, H, D)
        y = ops.reshape(y, (-1, self.num_heads * self.feature_size))  # (B, H * D)
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], self.num_heads * self._check_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "hidden_units": self.hidden_units,
            "normalize_input": self.normalize_input,
            "data_format": self.data_format,
            **weight_config(self, "kernel"),
        }
