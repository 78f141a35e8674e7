"""`GeMPooling`: the generalized mean of the features."""

from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_number
from keras_netvlad.layers.frame_pooling import FramePooling, Shape
from keras_netvlad.layers.vlad_ops import LEAST_MASS, at_least, cast_like, inverse_mass, weighted_mean


@keras.saving.register_keras_serializable(package="keras_netvlad")
class GeMPooling(FramePooling):
    """Pools features into the generalized mean of each dimension, weighted by `m` if the mask holds weights:

        y[d] = (sum_n m[n] max(x[n, d], epsilon)^p / sum_n m[n])^(1 / p)

    The exponent `p` is learned and stays at 1 or more. With 1 this is the mean of the features; the larger the
    exponent, the closer it is to their maximum. GeM is the usual baseline of image retrieval, on features behind a
    ReLU.

    Powers need positive numbers, so values below `epsilon`, zeros and negative ones, count as `epsilon` and pass no
    gradient. Use `MeanPooling` or `NetVLAD` for features whose negative values matter. In a call, powers are taken of
    the features divided by the largest one of their dimension, so that no feature is too large or too small for them.

    The layer computes in float32 (float64 under a float64 policy); a mixed policy sets only the dtype of the output. A
    video without frames gives zeros. `aggregate`, `describe` and `NetVLADStream` pool long videos chunk by chunk.

    Args:
        exponent: Number, the initial `p`, 1 or more.
        epsilon: Number above 0, the lower bound of the values.
        normalize_input: Boolean, whether to scale each feature to unit L2 norm first.
        data_format: `"channels_last"` or `"channels_first"`, for maps. `channels_first` maps are `(B, D, H, W)`
            and `(B, T, D, H, W)`.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer. `trainable=False` fixes the exponent.

    Call arguments:
        inputs: Features `(B, N, D)`; or maps, `(B, H, W, D)` of images or `(B, T, H, W, D)` of videos, every
            position of which is a feature.
        mask: Optional. Booleans, true for real features, or weights, finite and not negative. The shape is
            `(B, N)`, `(B, H, W)` or `(B, T, H, W)`, as of the input, or `(B, T)` for video maps. Padding may hold NaN.

    Input shape:
        `(B, N, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`.

    Output shape:
        `(B, D)`.

    Weights:
        `exponent` `()`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import GeMPooling
    >>> frames = np.random.default_rng(0).uniform(size=(2, 300, 64)).astype("float32")
    >>> GeMPooling()(frames, mask=np.arange(300) < [[300], [120]]).shape[1]
    64

    Raises:
        ValueError: If an argument, the input or the mask is invalid.

    Reference:
        - [Radenović et al. 2018](https://arxiv.org/abs/1711.02512), section 3.2, equation 3; one exponent for all
          dimensions, as in its experiments.
    """

    def __init__(
        self,
        exponent: float = 3.0,
        epsilon: float = 1e-6,
        normalize_input: bool = False,
        data_format: Literal["channels_last", "channels_first"] = "channels_last",
        **kwargs: Any,
    ) -> None:
        super().__init__(normalize_input, data_format, **kwargs)
        self.initial_exponent = check_number("exponent", exponent, 1)
        self.epsilon = check_number("epsilon", epsilon, 0, exclusive=True)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        initializer = keras.initializers.Constant(self.initial_exponent)
        # A mixed dtype policy does not cast it.
        self.exponent = self.add_weight((), initializer, constraint=_AtLeastOne(), autocast=False, name="exponent")

    def call(self, inputs: ArrayLike, mask: ArrayLike | None = None) -> keras.KerasTensor:
        x, m, p = self._positive_features(inputs, mask)  # (B, N, D), (B, N, 1), ()
        # The largest value of each dimension cancels, and keeps the powers between 0 and 1.
        largest = ops.stop_gradient(ops.max(x, axis=1, keepdims=True, initial=self.epsilon))  # (B, 1, D)
        mean = weighted_mean(ops.power(x / largest, p), m)  # (B, D)
        is_empty = mean == 0.0  # no frames
        y = ops.squeeze(largest, axis=1) * ops.power(ops.where(is_empty, 1.0, mean), 1.0 / p)  # (B, D)
        return ops.cast(ops.where(is_empty, 0.0, y), self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], self._check_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "exponent": self.initial_exponent,
            "epsilon": self.epsilon,
            "normalize_input": self.normalize_input,
            "data_format": self.data_format,
        }

    def aggregate(
        self, inputs: ArrayLike, mask: ArrayLike | None = None, training: bool | None = None
    ) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Sums the powers of the features over the frames: the part of pooling that is additive.

        Unlike in a call, the powers themselves must be numbers of float32: for an exponent of 3 features from 3e-13 to
        6e12.

        Args:
            inputs: Features, as for the layer.
            mask: Mask, as for the layer.
            training: Not used.

        Returns:
            The sum of the powers, `(B, 1, D)`, and the number of features or the sum of their weights, `(B, 1)`, in
            float32 (float64 under a float64 policy).

        Raises:
            ValueError: If the inputs or the mask are invalid, as for the layer.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad.layers import GeMPooling
        >>> frames = np.random.default_rng(0).uniform(size=(1, 100, 16)).astype("float32")
        >>> layer = GeMPooling()
        >>> (first, second), (more, more_second) = layer.aggregate(frames[:, :60]), layer.aggregate(frames[:, 60:])
        >>> bool(np.allclose(layer.describe(first + more, second + more_second), layer(frames), atol=1e-6))
        True
        """
        x, m, p = self._positive_features(inputs, mask)  # (B, N, D), (B, N, 1), ()
        m = ops.ones_like(x[..., :1]) if m is None else m
        return ops.sum(m * ops.power(x, p), axis=1, keepdims=True), ops.sum(m, axis=1)

    def describe(self, first_sum: ArrayLike, second_sum: ArrayLike) -> keras.KerasTensor:
        """Turns the sums of `aggregate` into the descriptor.

        Args:
            first_sum: `(B, 1, D)`. A float64 NumPy array is processed in float64 on every backend.
            second_sum: `(B, 1)`.

        Returns:
            The descriptor, as the layer returns it, in the layer's compute dtype.

        Raises:
            ValueError: If the layer was never called, or the sums have other shapes.
        """
        is_wide = isinstance(first_sum, np.ndarray) and first_sum.dtype == "float64"
        total: Any = first_sum if is_wide else ops.cast(first_sum, self.sum_dtype)
        mass = ops.cast(second_sum, self.sum_dtype)  # (B, 1)
        if not self.built:
            raise ValueError(f"`{self.name}` has no exponent yet; call it or `aggregate` on inputs first.")
        if tuple(total.shape[1:]) != (1, self.feature_size) or tuple(mass.shape[1:]) != (1,):
            raise ValueError(
                f"`describe` of `{self.name}` takes the sums of `aggregate`, (batch, 1, {self.feature_size}) and "
                f"(batch, 1). Received: shapes {tuple(total.shape)} and {tuple(mass.shape)}"
            )
        if is_wide:
            means = total[:, 0] / np.maximum(second_sum, LEAST_MASS)  # (B, D)
            y = means ** (1.0 / cast_like(self.exponent, means))
        else:
            means = total[:, 0] * inverse_mass(mass)
            is_empty = means == 0.0
            y = ops.power(ops.where(is_empty, 1.0, means), 1.0 / cast_like(self.exponent, means))
            y = ops.where(is_empty, 0.0, y)
        return ops.cast(y, self.compute_dtype)

    def compute_sums_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        """Returns the shapes of the two sums of `aggregate` for inputs of a shape."""
        batch, size = self.compute_output_shape(input_shape)
        return (batch, 1, size), (batch, 1)

    def _positive_features(self, inputs, mask):
        """Returns the features, at least `epsilon`, their weights, zero for padding, and the exponent."""
        x, m, _ = self._real_features(inputs, mask)
        # The comparison is false for NaN, so NaN in a feature reaches the output.
        x = ops.where(x < self.epsilon, ops.cast(self.epsilon, x.dtype), x)
        return x, m, ops.cast(self.exponent, x.dtype)


class _AtLeastOne(keras.constraints.Constraint):
    """Keeps a weight at 1 or more when an optimizer has changed it."""

    def __call__(self, w: keras.KerasTensor) -> keras.KerasTensor:
        return at_least(w, 1.0)
