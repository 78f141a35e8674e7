"""`MaxPooling`: the largest value of each feature."""

import keras
from keras import ops

from keras_netvlad.layers.frame_pooling import FramePooling


@keras.saving.register_keras_serializable(package="keras_netvlad")
class MaxPooling(FramePooling):
    """Pools descriptors into the largest value of each feature.

    Of a mask that holds weights only the presence counts: what weighs 0 is left out.

    Whatever the dtype policy, this is computed in float32 (in float64 under a float64 policy); a mixed policy sets the
    dtype of the output. A video without frames gives zeros. It has no weights.

    Args:
        normalize_input: Boolean, whether to scale each descriptor to unit L2 norm first.
        data_format: `"channels_last"` or `"channels_first"`, for maps. `channels_first` maps are `(B, D, H, W)`
            and `(B, T, D, H, W)`.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    Call arguments:
        inputs: Descriptors, `(B, N, D)`; or maps, `(B, H, W, D)` of images or `(B, T, H, W, D)` of videos, whose
            positions are all descriptors.
        mask: Optional. What counts: boolean, or weights that are finite and not negative. Shape `(B, N)`,
            `(B, H, W)` or `(B, T, H, W)` like the input; over video maps also `(B, T)`. Padding may hold NaN.

    Input shape:
        `(B, N, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`.

    Output shape:
        `(B, D)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import MaxPooling
    >>> frames = np.random.default_rng(0).normal(size=(2, 300, 64)).astype("float32")
    >>> MaxPooling()(frames, mask=np.arange(300) < [[300], [120]]).shape[1]
    64

    Raises:
        ValueError: On an argument, an input or a mask that is none of the above.
    """

    def __init__(self, normalize_input=False, data_format="channels_last", **kwargs):
        super().__init__(normalize_input=normalize_input, data_format=data_format, **kwargs)

    def call(self, inputs, mask=None):
        descriptors, _, present = self._picked(inputs, mask)
        present = ops.ones_like(descriptors[..., :1], dtype="bool") if present is None else ops.expand_dims(present, 2)
        candidates = ops.where(present, descriptors, float("-inf"))
        largest = ops.max(candidates, axis=1, initial=float("-inf"))  # `initial`, for there may be no descriptors
        largest = ops.where(ops.any(present, axis=1), largest, 0.0)
        # What is broken has to show: the maximum of onnxruntime passes over NaN, unless it comes first.
        largest = ops.where(ops.any(ops.isnan(descriptors), axis=1), float("nan"), largest)
        return ops.cast(largest, self.compute_dtype)

    def _output_size(self, feature_size):
        return feature_size
