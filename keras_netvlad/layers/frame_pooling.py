"""`FramePooling`: what all poolings share: which inputs and masks they take, and what of them counts."""

import keras
from keras import ops

from keras_netvlad.layers.descriptors import check_inputs, check_mask, flatten_inputs, flatten_mask, is_boolean
from keras_netvlad.layers.safe_norm import normalize
from keras_netvlad.layers.validation import check_boolean


class FramePooling(keras.Layer):
    """Pools descriptors of frames or positions into one row a video or image.

    Everything between the input and the output is computed in float32 (float64 under a float64 policy): a float16 sum
    overflows.

    Shapes in comments: `B` batch, `N` descriptors of a video or image, `D` feature size.
    """

    def __init__(self, normalize_input, data_format, **kwargs):
        # Without autocast float32 inputs, and weights made with `autocast=False`, reach the sums unrounded under a
        # mixed policy.
        super().__init__(autocast=False, **kwargs)
        self.normalize_input = check_boolean("normalize_input", normalize_input)
        if data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                f"`data_format` must be 'channels_last' or 'channels_first'. Received: data_format={data_format!r}"
            )
        self.data_format = data_format
        self.supports_masking = True
        self.product_dtype = None
        self.feature_size = None

    def build(self, input_shape):
        self.feature_size = check_inputs(self.name, input_shape, self._channel_axis)

    def compute_mask(self, inputs, previous_mask):
        """Returns `None`: pooling consumes the mask. Passed on, Keras would multiply the loss by it."""
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self._output_size(check_inputs(self.name, input_shape, self._channel_axis)))

    def compute_output_spec(self, inputs, mask=None, training=None):
        self._check_call(inputs, mask)
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "normalize_input": self.normalize_input, "data_format": self.data_format}

    def _output_size(self, feature_size):
        """Length of the output for descriptors of a size."""
        raise NotImplementedError

    def _picked(self, inputs, mask):
        """What counts: descriptors `(B, N, D)` with zeros for padding, their weights `(B, N, 1)`, which are there.

        Without a mask, weights and presence `(B, N)` are `None`. Descriptors are of `product_dtype` already, unless
        they were normalized.
        """
        inputs = ops.convert_to_tensor(inputs)
        mask = None if mask is None else ops.convert_to_tensor(mask)
        self._check_call(inputs, mask)
        if not self.built:
            self.build(inputs.shape)
        dtype = self._sum_dtype if self.normalize_input or not self.product_dtype else self.product_dtype
        descriptors = ops.cast(flatten_inputs(inputs, self._channel_axis), dtype)
        if mask is None:
            return self._normalized(descriptors), None, None
        weights = flatten_mask(mask, inputs, self._channel_axis)  # (B, N)
        present = weights if is_boolean(weights) else weights > 0
        picks = ops.expand_dims(present, 2)
        # Picked, not multiplied: 0 * NaN is NaN, forward and backward. What is left is finite.
        descriptors = self._normalized(ops.where(picks, descriptors, ops.cast(0.0, dtype)))
        weights = picks if is_boolean(weights) else ops.where(picks, ops.expand_dims(weights, 2), 0)
        return descriptors, ops.cast(weights, self._sum_dtype), present

    def _value(self, weight):
        """A weight as it takes part in the sums."""
        return ops.cast(weight, self._sum_dtype)

    def _normalized(self, descriptors):
        return normalize(descriptors) if self.normalize_input else descriptors

    def _check_call(self, inputs, mask):
        check_inputs(self.name, inputs.shape, self._channel_axis, self.feature_size)
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if dtype.startswith(("complex", "string")):
            raise ValueError(f"`{self.name}` pools real numbers. Received: inputs of dtype {dtype}")
        if mask is not None:
            check_mask(self.name, mask, inputs.shape, self._channel_axis)

    @property
    def _channel_axis(self):
        return -3 if self.data_format == "channels_first" else -1

    @property
    def _sum_dtype(self):
        return "float64" if self.compute_dtype == "float64" else "float32"
