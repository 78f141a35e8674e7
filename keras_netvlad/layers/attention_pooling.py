"""`AttentionPooling`: means of the frames, weighted by learnt attention."""

import keras
from keras import ops

from keras_netvlad.base.validation import check_integer
from keras_netvlad.layers.frame_pooling import FramePooling
from keras_netvlad.layers.vlad_ops import inverse_mass, matmul

# The logit of padding, whose exponential is 0 beside any other. Infinity would make NaN of a video without frames.
NO_LOGIT = -1e30


@keras.saving.register_keras_serializable(package="keras_netvlad")
class AttentionPooling(FramePooling):
    """Pools descriptors into `H` means, each weighted by a softmax over the frames.

        a[n, h] = softmax over n of w[h] . tanh(x[n] U)      without `hidden_units`: of w[h] . x[n]
        y[h] = sum_n a[n, h] x[n]

    Unlike the clusters of `NetVLAD`, among which each frame is shared out, each head chooses among the frames. Whatever
    the dtype policy, this is computed in float32 (in float64 under a float64 policy); a mixed policy sets the dtype of
    the output. A video without frames gives zeros.

    Args:
        num_heads: Integer, `H`.
        hidden_units: Integer, the columns of `U`; or `None` for attention that is linear in the descriptors.
        normalize_input: Boolean, whether to scale each descriptor to unit L2 norm first.
        data_format: `"channels_last"` or `"channels_first"`, for maps. `channels_first` maps are `(B, D, H, W)`
            and `(B, T, D, H, W)`.
        kernel_initializer: Initializer of both weights, by default a truncated normal of standard deviation
            `1 / sqrt(D)`, rows being `D`.
        kernel_regularizer: Regularizer of both weights.
        kernel_constraint: Constraint of both weights.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    Call arguments:
        inputs: Descriptors, `(B, N, D)`; or maps, `(B, H, W, D)` of images or `(B, T, H, W, D)` of videos, whose
            positions are all descriptors.
        mask: Optional. What counts: boolean, or weights that are finite and not negative. Shape `(B, N)`,
            `(B, H, W)` or `(B, T, H, W)` like the input; over video maps also `(B, T)`. Padding may hold NaN.
            Weights multiply the attention before it is normalized.

    Input shape:
        `(B, N, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`.

    Output shape:
        `(B, H * D)`, head-major.

    Weights:
        `kernel` `(D, H)`; with `hidden_units`, `hidden_kernel` `(D, hidden_units)` and `kernel` `(hidden_units, H)`. A
        bias would be the same for all frames, and cancel.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import AttentionPooling
    >>> frames = np.random.default_rng(0).normal(size=(2, 300, 64)).astype("float32")
    >>> AttentionPooling(num_heads=4)(frames, mask=np.arange(300) < [[300], [120]]).shape[1]
    256

    Raises:
        ValueError: On an argument, an input or a mask that is none of the above.

    Reference:
        - [Lin et al. 2017](https://arxiv.org/abs/1703.03130), section 2.1, equations 5 and 6.
    """

    def __init__(
        self,
        num_heads=1,
        hidden_units=None,
        normalize_input=False,
        data_format="channels_last",
        kernel_initializer="lecun_normal",
        kernel_regularizer=None,
        kernel_constraint=None,
        **kwargs,
    ):
        super().__init__(normalize_input=normalize_input, data_format=data_format, **kwargs)
        self.num_heads = check_integer("num_heads", num_heads, 1)
        self.hidden_units = None if hidden_units is None else check_integer("hidden_units", hidden_units, 1)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)

    def build(self, input_shape):
        super().build(input_shape)
        rows = self.feature_size
        if self.hidden_units is not None:
            self.hidden_kernel = self._add_kernel("hidden_kernel", (rows, self.hidden_units))
            rows = self.hidden_units
        self.kernel = self._add_kernel("kernel", (rows, self.num_heads))

    def call(self, inputs, mask=None):
        descriptors, weights, present = self._real_features(inputs, mask)
        features = descriptors
        if self.hidden_units is not None:
            features = ops.tanh(features @ ops.cast(self.hidden_kernel, self.sum_dtype))
        logits = features @ ops.cast(self.kernel, self.sum_dtype)  # (B, N, H)
        if present is not None:
            logits = ops.where(ops.expand_dims(present, 2), logits, NO_LOGIT)
        largest = ops.stop_gradient(ops.max(logits, axis=1, keepdims=True, initial=NO_LOGIT))
        attention = ops.exp(logits - largest)
        attention = attention if weights is None else attention * weights
        attention = attention * inverse_mass(ops.sum(attention, axis=1, keepdims=True))
        pooled = ops.reshape(matmul(attention, descriptors, transpose_a=True), (-1, self.num_heads * self.feature_size))
        return ops.cast(pooled, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "hidden_units": self.hidden_units,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.num_heads * self._check_shape(input_shape)

    def _add_kernel(self, name, shape):
        return self.add_weight(
            name=name,
            autocast=False,
            shape=shape,
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
