"""`ClusterPooling`: poolings whose descriptor follows from two sums over the features of each cluster."""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.layers.frame_pooling import FramePooling, Shape
from keras_netvlad.layers.vlad_ops import LEAST_MASS, cluster_sums, inverse_mass, normalized_descriptor


class ClusterPooling(FramePooling):
    """Base of `NetVLAD`, `NetRVLAD`, `NetFV`, `NeXtVLAD` and `VLAD`.

    A subclass defines `__init__`, `build`, `call`, `compute_output_shape` and `get_config`. `call` is written in three
    steps, of which `assign`, `aggregate` and `describe` use the first two as well:

        _assigned(inputs, mask, training)   the features `x` `(B, N, D)` and their assignments `a` `(B, N, K)`, both
                                            zero for padding
        _residuals(means)                   `(B, R, D)` with `R D = K S` from the means `(B, K, S)` of what is summed.
                                            Both are tensors, or both NumPy arrays
        _statistics(x)                      what is summed, `(B, N, S)`; by default the features themselves
        _descriptor(residuals, mass)        the normalized descriptor, `(B, K S)`; by default `normalized_descriptor`
    """

    def __init__(
        self,
        num_clusters: int,
        normalize_input: bool,
        intra_normalization: bool,
        output_normalization: bool,
        data_format: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(normalize_input, data_format, **kwargs)
        self.num_clusters = check_integer("num_clusters", num_clusters, 1)
        self.intra_normalization = check_boolean("intra_normalization", intra_normalization)
        self.output_normalization = check_boolean("output_normalization", output_normalization)

    def assign(self, inputs: ArrayLike, mask: ArrayLike | None = None) -> keras.KerasTensor:
        """Returns the share of each feature that each cluster gets, for inspection.

        Args:
            inputs: Features, as for the layer.
            mask: Mask, as for the layer.

        Returns:
            Assignments `(B, N, K)`, frame by frame and row by row. A row sums to 1, or to less where ghost clusters
            take a share. Rows of padding are 0, and weighted rows are multiplied by their weight.

        Raises:
            ValueError: If the inputs or the mask are invalid, as for the layer.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad import NetVLAD
        >>> frames = np.random.default_rng(0).normal(size=(1, 100, 16)).astype("float32")
        >>> assignments = NetVLAD(num_clusters=4).assign(frames)
        >>> tuple(assignments.shape), bool(np.allclose(np.sum(assignments, axis=2), 1))
        ((1, 100, 4), True)
        """
        return self._assigned(inputs, mask, training=False)[1]

    def aggregate(
        self, inputs: ArrayLike, mask: ArrayLike | None = None, training: bool | None = None
    ) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Sums features and assignments over the frames: the part of pooling that is additive.

        The sums of a video are the sums of its chunks, in any split and order. A long or live video can therefore be
        pooled in constant memory, and several machines can each sum some of its frames.

        Args:
            inputs: Features, as for the layer.
            mask: Mask, as for the layer.
            training: Boolean, as for the layer.

        Returns:
            `A` `(B, K, D)`, the sum of the assigned features, and `M` `(B, K)`, the sum of the assignments
            (Arandjelović et al. 2016, equation 4, split in two), in float32 (float64 under a float64 policy).

        Raises:
            ValueError: If the inputs or the mask are invalid, as for the layer.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad import NetVLAD
        >>> frames = np.random.default_rng(0).normal(size=(1, 100, 16)).astype("float32")
        >>> layer = NetVLAD(num_clusters=4)
        >>> (first, second), (more, more_second) = layer.aggregate(frames[:, :60]), layer.aggregate(frames[:, 60:])
        >>> bool(np.allclose(layer.describe(first + more, second + more_second), layer(frames), atol=1e-6))
        True
        """
        x, a = self._assigned(inputs, mask, training)
        return cluster_sums(a, *self._statistics(ops.cast(x, self.sum_dtype)))

    def describe(self, first_sum: ArrayLike, second_sum: ArrayLike) -> keras.KerasTensor:
        """Turns the sums of `aggregate` into the descriptor.

        Args:
            first_sum: `A` `(B, K, D)`. If it is a float64 NumPy array, as in `NetVLADStream`, the centroids are
                subtracted in float64 on every backend.
            second_sum: `M` `(B, K)`.

        Returns:
            The descriptor, as the layer returns it, in the layer's compute dtype.

        Raises:
            ValueError: If the layer was never called, or the sums have other shapes.
        """
        mass = ops.cast(second_sum, self.sum_dtype)  # (B, K)
        if isinstance(first_sum, np.ndarray) and first_sum.dtype == "float64":
            self._check_sums(first_sum.shape, mass.shape)
            means = first_sum / np.maximum(second_sum, LEAST_MASS)[:, :, None]  # (B, K, S)
        else:
            total = ops.cast(first_sum, self.sum_dtype)
            self._check_sums(total.shape, mass.shape)
            means = total * inverse_mass(ops.expand_dims(mass, 2))
        residuals = ops.cast(self._residuals(means), self.sum_dtype)
        return ops.cast(self._descriptor(residuals, mass), self.compute_dtype)

    def compute_sums_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        """Returns the shapes of the two sums of `aggregate` for inputs of a shape."""
        batch, size = self.compute_output_shape(input_shape)  # the descriptor has as many values as the first sum
        return (batch, self.num_clusters, size // self.num_clusters), (batch, self.num_clusters)

    def _assigned(self, inputs, mask, training):
        raise NotImplementedError

    def _residuals(self, means):
        raise NotImplementedError

    def _statistics(self, x):
        return (x,)

    def _descriptor(self, residuals, mass):
        return normalized_descriptor(residuals, mass, self.intra_normalization, self.output_normalization)

    def _check_sums(self, first_shape, second_shape):
        if not self.built:
            raise ValueError(f"`{self.name}` has no centroids yet; call it or `aggregate` on inputs first.")
        (_, *first), (_, *second) = self.compute_sums_shape((None, None, self.feature_size))
        if list(first_shape[1:]) != first or list(second_shape[1:]) != second:
            raise ValueError(
                f"`describe` of `{self.name}` takes the sums of `aggregate`, (batch, {first[0]}, {first[1]}) and "
                f"(batch, {second[0]}). Received: shapes {tuple(first_shape)} and {tuple(second_shape)}"
            )
