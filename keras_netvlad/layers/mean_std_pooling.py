"""`MeanStdPooling`: mean and standard deviation of the frames."""

import keras
from keras import ops

from keras_netvlad.layers.frame_pooling import FramePooling
from keras_netvlad.layers.mean_pooling import mean
from keras_netvlad.layers.safe_norm import SQUARED_EPSILON, inverse_root


@keras.saving.register_keras_serializable(package="keras_netvlad")
class MeanStdPooling(FramePooling):
    """Pools descriptors into their mean and standard deviation, feature by feature.

    Deviations are taken from the mean itself, not from the difference of two large sums.

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
        `(B, 2 D)`: means, then standard deviations.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import MeanStdPooling
    >>> frames = np.random.default_rng(0).normal(size=(2, 300, 64)).astype("float32")
    >>> MeanStdPooling()(frames, mask=np.arange(300) < [[300], [120]]).shape[1]
    128

    Raises:
        ValueError: On an argument, an input or a mask that is none of the above.

    Reference:
        - [Abu-El-Haija et al. 2016](https://arxiv.org/abs/1609.08675), section 4.2.1 (with the top five values).
        - [Snyder et al. 2018](https://doi.org/10.1109/ICASSP.2018.8461375) (statistics pooling of speech).
    """

    def __init__(self, normalize_input=False, data_format="channels_last", **kwargs):
        super().__init__(normalize_input=normalize_input, data_format=data_format, **kwargs)

    def call(self, inputs, mask=None):
        descriptors, weights, _ = self._picked(inputs, mask)
        means = mean(descriptors, weights)
        variances = mean(ops.square(descriptors - ops.expand_dims(means, 1)), weights)
        deviations = variances * inverse_root(variances, variances > SQUARED_EPSILON)  # the gradient at 0 is 0
        return ops.cast(ops.concatenate([means, deviations], axis=1), self.compute_dtype)

    def _output_size(self, feature_size):
        return 2 * feature_size
