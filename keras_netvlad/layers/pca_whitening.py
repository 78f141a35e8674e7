"""`PCAWhitening`: the principal components of descriptors, each scaled to the same variance."""

import keras
import numpy as np
from keras import ops

from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.layers.vlad_ops import normalize

# A component whose variance is this small a share of the largest is rounding, which whitening would blow up.
SMALLEST_VARIANCE = 1e-10


@keras.saving.register_keras_serializable(package="keras_netvlad")
class PCAWhitening(keras.Layer):
    """Projects descriptors onto their principal components, scales these to variance 1, and normalizes the result.

        y = normalize((x - mean) W)

    The paper shortens NetVLAD's descriptors to 4096 numbers or less that way, and they retrieve better than the long
    ones: what co-occurs in all of them no longer outweighs what tells places apart. `adapt` learns mean and components
    from a sample; they are not trained after that.

    Args:
        output_dim: Integer, components to keep, `P`; or `None` for as many as descriptors are long.
        normalize_output: Boolean, whether to scale each result to length 1.
        **kwargs: `name` and `dtype`, as of any Keras layer. Computed in float32 (float64 for float64) whatever the
            policy.

    Call arguments:
        inputs: Descriptors `(B, F)`.

    Input shape:
        `(B, F)`.

    Output shape:
        `(B, P)`, the components of largest variance first.

    Weights:
        `mean` `(F,)` and `projection` `(F, P)`, not trainable; zeros and the identity before `adapt`.

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
        ValueError: On an argument or an input that is none of the above, or more components than values.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 5.1, after
          [Jégou & Chum 2012](https://inria.hal.science/hal-00722622).
    """

    def __init__(self, output_dim=None, normalize_output=True, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.output_dim = None if output_dim is None else check_integer("output_dim", output_dim, 1)
        self.normalize_output = check_boolean("normalize_output", normalize_output)

    def build(self, input_shape):
        size = self._check_input(input_shape)
        self.mean = self._add_weight("mean", (size,), "zeros")
        self.projection = self._add_weight("projection", (size, self.output_dim or size), "identity")

    def call(self, inputs):
        centred = ops.cast(inputs, self._wide_dtype) - self.mean
        # The operator, for `ops.matmul` turns float64 into float32 on torch and JAX (Keras 3.15).
        components = centred @ self.projection
        if self.normalize_output:
            components = normalize(components)
        return ops.cast(components, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        size = self._check_input(input_shape)
        return input_shape[0], self.output_dim or size

    def get_config(self):
        return {
            **super().get_config(),
            "output_dim": self.output_dim,
            "normalize_output": self.normalize_output,
        }

    def adapt(self, data):
        """Learns mean and components from a sample of descriptors, in float64.

        Builds the layer, if it is not yet. On an error the layer is as it was. With fewer samples than values, `S < F`,
        the components come from the products of samples, `(S, S)`, instead of the covariance of values, `(F, F)`.

        Args:
            data: Array `(S, F)`, at least one sample more than there are components to keep, better ten times as many;
                or an iterable of such arrays, batches, which are joined.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad.layers import PCAWhitening
        >>> sample = np.random.default_rng(0).normal(size=(1000, 3)) * [1.0, 10.0, 100.0] + 5.0
        >>> layer = PCAWhitening(2, normalize_output=False)
        >>> layer.adapt(sample)
        >>> np.round(np.std(np.asarray(layer(sample.astype("float32"))), axis=0), 2).tolist()
        [1.0, 1.0]

        Raises:
            ValueError: On samples of another shape or size than the layer's, or of NaN or infinity; or that are too
                few, or vary in too few directions, for the components.
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
            self.built = True
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
    """Returns mean `(F,)`, the largest variances `(P,)` and their directions `(F, P)`, signs fixed."""
    mean = sample.mean(axis=0)
    centred = sample - mean
    num_samples, size = centred.shape
    if size <= num_samples:
        values, vectors = np.linalg.eigh(centred.T @ centred)
        vectors = vectors[:, ::-1][:, :num_components]
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        vectors = centred.T @ vectors[:, ::-1][:, :num_components]
        lengths = np.linalg.norm(vectors, axis=0)
        vectors = vectors / np.where(lengths > 0, lengths, 1.0)
    # Either sign is right; the largest value of each is made positive, so that every machine has the same.
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(num_components)]
    return mean, values[::-1][:num_components] / (num_samples - 1), vectors * np.where(largest < 0, -1.0, 1.0)
