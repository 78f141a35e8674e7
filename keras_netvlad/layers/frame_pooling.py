"""`FramePooling`: the inputs and masks that every pooling takes."""

from typing import Any, TypeAlias

import keras
from keras import ops

from keras_netvlad.base.validation import check_boolean
from keras_netvlad.layers.frame_inputs import (
    check_inputs,
    check_mask,
    flatten_inputs,
    flatten_mask,
    is_boolean,
)
from keras_netvlad.layers.vlad_ops import normalize

Shape: TypeAlias = tuple[int | None, ...]


class FramePooling(keras.Layer):
    """Base of the layers that pool the features of a video or image into one row.

    A subclass defines `call`, which reads its features through `_real_features`, and `compute_output_shape`.

    Everything between the input and the output is computed in `sum_dtype`: float32, or float64 under a float64 policy.
    A float16 sum would overflow.
    """

    def __init__(self, normalize_input: bool, data_format: str, **kwargs: Any) -> None:
        # Without autocast, float32 inputs are not rounded under a mixed policy before they are summed.
        super().__init__(autocast=False, **kwargs)
        self.normalize_input = check_boolean("normalize_input", normalize_input)
        if data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                f"`data_format` must be 'channels_last' or 'channels_first'. Received: data_format={data_format!r}"
            )
        self.data_format = data_format
        self.supports_masking = True
        self.feature_size: Any = None  # an integer after `build`

    def build(self, input_shape: Shape) -> None:
        self.feature_size = self._check_shape(input_shape)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """Returns `None`: a pooling consumes its mask. Keras would multiply the loss by one that is passed on."""
        return None

    def compute_output_spec(self, inputs: Any, mask: Any = None, training: bool | None = None) -> keras.KerasTensor:
        self._check_call(inputs, mask)
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    @property
    def channel_axis(self) -> int:
        """The axis of the features in a map: -1 or -3."""
        return -3 if self.data_format == "channels_first" else -1

    @property
    def sum_dtype(self) -> str:
        """The dtype of everything between the input and the output: `"float32"` or `"float64"`."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def _real_features(self, inputs, mask, rounded_to=None):
        """Returns `(features, weights, present)`.

        - features `(B, N, D)`, zero for padding, in `sum_dtype`; or in the dtype `rounded_to`, unless they were scaled
          to unit norm, for which they are needed unrounded
        - weights `(B, N, 1)` from the mask, in `sum_dtype`; `None` without a mask
        - present `(B, N)`, which features are real, boolean; `None` without a mask

        The first call builds the layer.
        """
        check_dense(self.name, inputs)
        inputs = ops.convert_to_tensor(inputs)
        mask = None if mask is None else ops.convert_to_tensor(mask)
        self._check_call(inputs, mask)
        if not self.built:
            self.build(inputs.shape)
        sum_dtype, channel_axis = self.sum_dtype, self.channel_axis
        dtype = sum_dtype if self.normalize_input else rounded_to or sum_dtype
        features = ops.cast(flatten_inputs(inputs, channel_axis), dtype)
        weights = present = None
        if mask is not None:
            weights = flatten_mask(mask, inputs, channel_axis)  # (B, N)
            present = weights if is_boolean(weights) else weights > 0
            is_real = ops.expand_dims(present, 2)
            # Selected, not multiplied: 0 * NaN is NaN, forward and backward.
            features = ops.where(is_real, features, ops.cast(0.0, dtype))
            weights = is_real if is_boolean(weights) else ops.where(is_real, ops.expand_dims(weights, 2), 0)
            weights = ops.cast(weights, sum_dtype)
        return normalize(features) if self.normalize_input else features, weights, present

    def _check_call(self, inputs, mask):
        channel_axis = self.channel_axis
        check_inputs(self.name, inputs.shape, channel_axis, self.feature_size)
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if dtype.startswith(("complex", "string")):
            raise ValueError(f"`{self.name}` pools real numbers. Received: inputs of dtype {dtype}")
        if mask is not None:
            check_mask(self.name, mask, inputs.shape, channel_axis)

    def _check_shape(self, input_shape):
        """Returns the feature size `D`, or raises if the layer cannot pool inputs of this shape."""
        return check_inputs(self.name, input_shape, self.channel_axis)


def check_dense(layer_name: str, inputs: Any) -> None:
    """Raises if inputs are a `tf.RaggedTensor`, which has no dense shape."""
    if type(inputs).__name__ == "RaggedTensor" or getattr(inputs, "ragged", False):
        raise TypeError(
            f"`{layer_name}` takes dense tensors; pass `x.to_tensor()` with `mask=tf.sequence_mask(x.row_lengths())`, "
            f"or with `num_frames=x.row_lengths()` for a model. Received: a RaggedTensor of shape {tuple(inputs.shape)}"
        )
