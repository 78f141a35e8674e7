"""`PCAWhitening`: the principal components of descriptors, each scaled to the same variance."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.layers.frame_pooling import Shape
from keras_netvlad.layers.vlad_ops import matmul, normalize

# A component with a smaller share of the largest variance is rounding noise, which whitening would amplify.
SMALLEST_VARIANCE = 1e-10


@keras.saving.register_keras_serializable(package="keras_netvlad")
class PCAWhitening(keras.Layer):
    """Projects descriptors onto their principal components, scales these to variance 1, and normalizes the result.

        y = (x - mean) W
        y = y / ||y||                           output normalization

    The paper shortens NetVLAD's descriptors to at most 4096 values with it, and the short descriptors retrieve better
    than the long ones, because directions that all descriptors share no longer dominate. `adapt` computes mean and
    components from a sample. They are not trained.

    Args:
        output_dim: Integer, the number of components to keep, `P`; or `None` to keep all.
        normalize_output: Boolean, whether to scale each output to unit L2 norm.
        **kwargs: `name` and `dtype`, as for any Keras layer. The layer computes in float32 (float64 under a float64
            policy); a mixed policy sets only the dtype of the output.

    Call arguments:
        inputs: Descriptors `(B, F)`.

    Input shape:
        `(B, F)`.

    Output shape:
        `(B, P)`, the components of largest variance first.

    Weights:
        `mean` `(F,)` and `projection` `W` `(F, P)`, not trainable. They are zeros and the identity before `adapt`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_netvlad import NetVLAD
    >>> from keras_netvlad.layers import PCAWhitening
    >>> clips = np.random.default_rng(0).normal(size=(100, 30, 16)).astype("float32")
    >>> pooling = NetVLAD(8)
    >>> whitening = PCAWhitening(output_dim=32)
    >>> whitening.adapt(pooling(clips))
    >>> model = keras.Sequential([keras.Input((None, 16)), pooling, whitening])
    >>> model.predict(clips[:2], verbose=0).shape
    (2, 32)

    Raises:
        ValueError: If an argument or the input is invalid, or if `output_dim` exceeds the size of the descriptors.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 5.1, after
          [Jégou & Chum 2012](https://inria.hal.science/hal-00722622).
    """

    def __init__(self, output_dim: int | None = None, normalize_output: bool = True, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.output_dim = None if output_dim is None else check_integer("output_dim", output_dim, 1)
        self.normalize_output = check_boolean("normalize_output", normalize_output)

    def build(self, input_shape: Shape) -> None:
        size = self._check_input(input_shape)
        self.mean = self._add_weight("mean", (size,), "zeros")
        self.projection = self._add_weight("projection", (size, self.output_dim or size), "identity")

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        centered = ops.cast(inputs, self._wide_dtype) - self.mean  # (B, F)
        components = matmul(centered, self.projection)  # (B, P)
        if self.normalize_output:
            components = normalize(components)
        return ops.cast(components, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        size = self._check_input(input_shape)
        return input_shape[0], self.output_dim or size

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "output_dim": self.output_dim,
            "normalize_output": self.normalize_output,
        }

    def adapt(self, data: ArrayLike | Iterable[ArrayLike]) -> None:
        """Computes mean and components from a sample of descriptors, in float64.

        The method builds the layer if necessary. After an error the layer is unchanged. If there are fewer samples than
        values, `S < F`, the components are computed from the Gram matrix of the samples, `(S, S)`, instead of the
        covariance of the values, `(F, F)`.

        Args:
            data: Array `(S, F)`, or an iterable of such arrays, which are concatenated. `S` must be larger than the
                number of components. Ten times as many samples are better.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad.layers import PCAWhitening
        >>> sample = np.random.default_rng(0).normal(size=(1000, 3)) * [1.0, 10.0, 100.0] + 5.0
        >>> layer = PCAWhitening(2, normalize_output=False)
        >>> layer.adapt(sample)
        >>> np.round(np.std(np.asarray(layer(sample.astype("float32"))), axis=0), 2).tolist()
        [1.0, 1.0]

        Raises:
            ValueError: If the shape or size of the samples does not fit the layer, if they hold NaN or infinity, or if
                they are too few or vary in too few directions for the number of components.
        """
        sample = _to_array(self.name, data)
        size = self._check_input(sample.shape)
        if self.built and size != self.mean.shape[0]:
            raise ValueError(
                f"`{self.name}` was built for descriptors of {self.mean.shape[0]} values. "
                f"Received: a sample of shape {sample.shape}"
            )
        num_components = self.output_dim or size
        if len(sample) <= num_components:
            raise ValueError(
                f"`adapt` of `{self.name}` needs at least {num_components + 1} samples for {num_components} "
                f"components; give more, or keep fewer with `output_dim`. Received: a sample of shape {sample.shape}"
            )
        if not np.isfinite(sample).all():
            raise ValueError(
                f"`adapt` of `{self.name}` needs finite descriptors; drop those that are not. Received: NaN or "
                f"infinity in {int((~np.isfinite(sample).all(axis=1)).sum())} of {len(sample)}"
            )
        mean, variances, components = _principal_components(sample, num_components)
        num_usable = int(np.sum(variances > SMALLEST_VARIANCE * max(variances[0], np.finfo(float).tiny)))
        if num_usable < num_components:
            raise ValueError(
                f"`adapt` of `{self.name}` needs a sample that varies in as many directions as there are components; "
                f"give a more varied one, or `output_dim={num_usable or 1}`. Received: {len(sample)} samples that vary "
                f"in {num_usable} directions, for {num_components} components"
            )
        if not self.built:
            self.build((None, size))
        self.mean.assign(mean)
        self.projection.assign(components / np.sqrt(variances))

    @property
    def _wide_dtype(self):
        return "float64" if self.compute_dtype == "float64" else "float32"

    def _add_weight(self, name, shape, initializer):
        dtype = self._wide_dtype
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, dtype=dtype, trainable=False, autocast=False
        )

    def _check_input(self, shape):
        if len(shape) != 2 or not shape[1]:
            raise ValueError(
                f"`{self.name}` takes descriptors (batch, values) with a known number of values. "
                f"Received: shape {tuple(shape)}"
            )
        if self.output_dim is not None and self.output_dim > shape[1]:
            raise ValueError(
                f"`output_dim` must be at most the number of values of a descriptor, {shape[1]}. "
                f"Received: output_dim={self.output_dim}"
            )
        return shape[1]


def _to_array(name, data):
    if hasattr(data, "shape"):
        return np.asarray(ops.convert_to_numpy(data), "float64")
    batches = [np.asarray(ops.convert_to_numpy(batch), "float64") for batch in data]
    if not batches or any(batch.ndim != 2 or batch.shape[1:] != batches[0].shape[1:] for batch in batches):
        raise ValueError(
            f"`adapt` of `{name}` takes an array (samples, values) or batches of such. "
            f"Received: batches of shapes {[batch.shape for batch in batches[:5]]}"
        )
    return np.concatenate(batches)


def _principal_components(sample, num_components):
    """Returns the mean `(F,)`, the largest variances `(P,)` and their directions `(F, P)` with fixed signs."""
    mean = sample.mean(axis=0)
    centered = sample - mean
    num_samples, size = centered.shape
    if size <= num_samples:
        values, vectors = np.linalg.eigh(centered.T @ centered)
        vectors = vectors[:, ::-1][:, :num_components]
    else:
        values, vectors = np.linalg.eigh(centered @ centered.T)
        vectors = centered.T @ vectors[:, ::-1][:, :num_components]
        lengths = np.linalg.norm(vectors, axis=0)
        vectors = vectors / np.where(lengths > 0, lengths, 1.0)
    # The sign of a component is arbitrary. Its largest value is made positive, so that all machines agree.
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(num_components)]
    return mean, values[::-1][:num_components] / (num_samples - 1), vectors * np.where(largest < 0, -1.0, 1.0)
