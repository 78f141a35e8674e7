"""`ContextGating`: every value scaled by a gate that all values decide on."""

import keras
from keras import ops

from keras_netvlad.layers.validation import check_boolean, check_integer


@keras.saving.register_keras_serializable(package="keras_netvlad")
class ContextGating(keras.Layer):
    """Scales each feature, or each class's score, by a gate between 0 and 1 that depends on all of them.

        y = x * sigmoid(x W + b)

    Features that belong together strengthen each other, and scores that the others speak against fade: a video of a
    tree and snow is rather skiing than gardening. The winners of YouTube-8M 2017 gate the features before the
    classifier and the scores after it.

    With `reduction`, the gates come from a bottleneck of `D // reduction` units, NeXtVLAD's SE context gating:
    `y = x * sigmoid(relu(normalized(x W1)) W2)`.

    Args:
        batch_normalization: Boolean, whether to batch-normalize: the gates' logits; with `reduction`, what is before
            the bottleneck's ReLU. Its offset takes the place of the bias there.
        reduction: Integer, how many times narrower the bottleneck is; or `None` for none.
        kernel_initializer, bias_initializer: Initializers. The default of kernels is a truncated normal of standard
            deviation `1 / sqrt(D)`, rows being `D`.
        kernel_regularizer, bias_regularizer: Regularizers.
        kernel_constraint, bias_constraint: Constraints.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    Call arguments:
        inputs: Features of any rank from 2 on, the last axis of which is gated.
        mask: Optional booleans, over all axes but the last. Batch statistics leave out what it leaves out.
        training: Boolean, whether batch normalization uses the statistics of the batch.

    Input shape:
        `(B, ..., D)`.

    Output shape:
        As the input's.

    Weights:
        `kernel` `(D, D)`; with `reduction`, `reduction_kernel` `(D, D // reduction)` and `kernel`
        `(D // reduction, D)`. Without batch normalization `bias` `(D,)`, and `reduction_bias` `(D // reduction,)`.
        With both, there is no bias behind the bottleneck, as in NeXtVLAD.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import ContextGating
    >>> features = np.ones((2, 16), "float32")
    >>> gated = ContextGating()(features)
    >>> tuple(gated.shape), bool(np.all(np.asarray(gated) < 1))
    ((2, 16), True)

    Raises:
        ValueError: On an argument or an input that is none of the above.

    Reference:
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905), section "Context Gating" (batch normalization is in
          its code).
        - [Lin et al. 2018](https://arxiv.org/abs/1811.05014), section 3.3 and figure 4 (`reduction`).
    """

    def __init__(
        self,
        batch_normalization=False,
        reduction=None,
        kernel_initializer="lecun_normal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.batch_normalization = check_boolean("batch_normalization", batch_normalization)
        self.reduction = None if reduction is None else check_integer("reduction", reduction, 1)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.supports_masking = True

    def build(self, input_shape):
        size = _check_input(self.name, input_shape)
        self.reduction_kernel = self.reduction_bias = self.bias = self.normalization = None
        width = size
        if self.reduction is not None:
            width = size // self.reduction
            if not width:
                raise ValueError(
                    f"`reduction` of `{self.name}` must leave a unit of the {size} features. "
                    f"Received: reduction={self.reduction}"
                )
            self.reduction_kernel = self._add_kernel("reduction_kernel", (size, width))
            if not self.batch_normalization:
                self.reduction_bias = self._add_bias("reduction_bias", width)
        self.kernel = self._add_kernel("kernel", (width, size))
        if self.batch_normalization:
            self.normalization = keras.layers.BatchNormalization(dtype=self.dtype_policy, name="batch_normalization")
            self.normalization.build((*input_shape[:-1], width))
        else:
            self.bias = self._add_bias("bias", size)

    def call(self, inputs, mask=None, training=None):
        logits = inputs
        if self.reduction is not None:
            logits = ops.relu(self._offset(logits @ self.reduction_kernel, self.reduction_bias, mask, training))
            logits = logits @ self.kernel
            logits = logits if self.bias is None else logits + self.bias
        else:
            logits = self._offset(logits @ self.kernel, self.bias, mask, training)
        return inputs * ops.sigmoid(logits)

    def compute_output_shape(self, input_shape):
        _check_input(self.name, input_shape)
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "batch_normalization": self.batch_normalization,
            "reduction": self.reduction,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }

    def _offset(self, logits, bias, mask, training):
        if self.normalization is None:
            return logits + bias
        if mask is not None:  # picked, not multiplied: padding may hold NaN
            logits = ops.where(ops.expand_dims(mask, -1), logits, ops.zeros_like(logits))
        return self.normalization(logits, training=training, mask=mask)

    def _add_kernel(self, name, shape):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )

    def _add_bias(self, name, size):
        return self.add_weight(
            name=name,
            shape=(size,),
            initializer=self.bias_initializer,
            regularizer=self.bias_regularizer,
            constraint=self.bias_constraint,
        )


def _check_input(name, shape):
    if len(shape) < 2 or not shape[-1]:
        raise ValueError(
            f"`{name}` gates features of shape (batch, ..., features) with a known, positive number of features. "
            f"Received: shape {tuple(shape)}"
        )
    return shape[-1]
