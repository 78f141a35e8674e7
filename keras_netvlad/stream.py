"""`NetVLADStream`: pooling of videos that are long, live, or spread over machines."""

from typing import Any

import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray

from keras_netvlad.layers.additive_pooling import AdditivePooling


class NetVLADStream:
    """Pools videos chunk by chunk in constant memory and gives the descriptor of all frames so far at any time.

    The stream holds the two sums of `aggregate`, which add up over frames, for a batch of `B` videos that advance
    together. Chunks may have any length and come in any order. Other processes can sum some of the frames, and their
    streams can be merged. The sums are float64 NumPy arrays on the host, so the rounding of an hour of frames is not
    larger than that of one chunk.

    The layer runs in inference mode. Its weights must not change between the first `update` and the last, and must be
    the same in every process: sums that were computed with different weights must not be added.

    `first_sum` depends on the layer:

    - `NetVLAD`, `VLAD`, `NetRVLAD`, `ScoredVLAD`: the sum of the assigned features, `(B, K, D)`
    - `NeXtVLAD`: the sum of the assigned groups of expanded features, `(B, K, lambda D / G)`
    - `GeMPooling`: the sum of the powers of the features, `(B, 1, D)`
    - `NetFV`: the sums of `z` and of `z^2`, concatenated, `(B, K, 2 * D)`. `z` is the feature minus the mean of the
      centroids, so sums taken before the centroids change cannot be used after it.

    Args:
        layer: A built or new `NetVLAD`, `VLAD`, `NetRVLAD`, `NetFV`, `NeXtVLAD`, `ScoredVLAD` or `GeMPooling`.

    Attributes:
        layer: The layer.
        first_sum: `A`, float64, the sum of the assigned features as listed above; `None` before the first frame.
        second_sum: `M` `(B, K)`, float64, the sum of the assignments; `None` before the first frame.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad import NetVLAD
    >>> from keras_netvlad.stream import NetVLADStream
    >>> video = np.random.default_rng(0).normal(size=(1, 300, 64)).astype("float32")
    >>> layer = NetVLAD(num_clusters=8)
    >>> stream = NetVLADStream(layer)
    >>> for start in range(0, 300, 75):
    ...     stream.update(video[:, start : start + 75])
    >>> bool(np.allclose(stream.descriptor(), layer(video), atol=1e-6))
    True

    Raises:
        TypeError: If `layer` is not a pooling layer with `aggregate`.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), equation 4. Its sum over the features is
          computed in parts.
    """

    def __init__(self, layer: AdditivePooling) -> None:
        if not isinstance(layer, AdditivePooling):
            raise TypeError(
                "`layer` must be a NetVLAD or another pooling with `aggregate`; get it from a model with "
                "`model.get_layer(name)`. "
                f"Received: a {type(layer).__name__}"
            )
        self.layer = layer
        self.first_sum: NDArray[np.float64] | None = None
        self.second_sum: NDArray[np.float64] | None = None

    def update(self, frames: ArrayLike, mask: ArrayLike | None = None, scores: ArrayLike | None = None) -> None:
        """Adds a chunk of frames to each video.

        Args:
            frames: Inputs of the layer, `(B, T, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`, for any `T`.
            mask: Mask of the layer for this chunk. Pad and mask videos of unequal length.
            scores: Scores of this chunk, for a `ScoredVLAD` only. The scores of a frame must not depend on frames of
                other chunks.

        Raises:
            ValueError: If `frames`, `mask` or `scores` are invalid for the layer, if `B` changed, or if a real frame
                holds NaN or infinity. The sums are then unchanged.
        """
        inputs = ops.convert_to_tensor(frames)
        if self.first_sum is not None and tuple(inputs.shape[:1]) != (len(self.first_sum),):
            raise ValueError(
                f"This stream holds {len(self.first_sum)} videos and needs as many in every chunk; `reset` it, or "
                f"create one stream per video. Received: frames of shape {tuple(inputs.shape)}"
            )
        given = {} if scores is None else {"scores": scores}
        first, second = self.layer.aggregate(inputs, mask=mask, training=False, **given)
        self._add(ops.convert_to_numpy(first), ops.convert_to_numpy(second))

    def merge(self, other: "NetVLADStream | tuple[ArrayLike | None, ArrayLike | None]") -> None:
        """Adds the sums of another stream, of this or another process.

        Args:
            other: `NetVLADStream`, or the pair `(first_sum, second_sum)` of its arrays, which is enough to send between
                processes. A stream without frames adds nothing.

        Raises:
            ValueError: If the shapes of the sums or the weights of the layers differ, or if the sums are not finite.
                The sums are then unchanged.
            TypeError: If `other` is neither a stream nor a pair.
        """
        if isinstance(other, NetVLADStream):
            if other.first_sum is None:
                return
            if not _equal_weights(self.layer, other.layer):
                raise ValueError(
                    "Only streams whose layers have the same weights can be merged; copy the weights with "
                    f"`layer.set_weights(...)` before the first frame. Received: weights of `{other.layer.name}` that "
                    f"differ from those of `{self.layer.name}`"
                )
            sums: tuple[Any, ...] = other.first_sum, other.second_sum
        elif isinstance(other, (tuple, list)) and len(other) == 2:
            sums = tuple(other)
            if sums[0] is None and sums[1] is None:
                return
        else:
            raise TypeError(
                "`other` must be a NetVLADStream or a pair `(first_sum, second_sum)`. "
                f"Received: a {type(other).__name__}"
            )
        self._add(*sums)

    def descriptor(self) -> NDArray[Any]:
        """Returns the descriptors of all frames so far.

        Returns:
            NumPy array of the shape and dtype of the layer's output, such as `(B, K * D)` for `NetVLAD`.

        Raises:
            ValueError: If no frame was added yet.
        """
        if self.first_sum is None or self.second_sum is None:
            raise ValueError("This stream has no frames yet; `update` it before `descriptor`.")
        return ops.convert_to_numpy(self.layer.describe(self.first_sum, self.second_sum))

    def reset(self) -> None:
        """Forgets all frames. The next `update` may have a different number of videos."""
        self.first_sum = None
        self.second_sum = None

    def _add(self, first, second):
        first, second = np.asarray(first, "float64"), np.asarray(second, "float64")
        if (
            first.ndim != 3
            or second.shape != first.shape[:2]
            or (self.first_sum is not None and first.shape != self.first_sum.shape)
        ):
            expected = "(B, K, D) and (B, K)" if self.first_sum is None else _shapes(self.first_sum, self.second_sum)
            raise ValueError(
                f"Sums must have the shapes {expected} to be merged; compute both with the same layer and number of "
                f"videos. Received: shapes {_shapes(first, second)}"
            )
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            raise ValueError(
                "Frames must be finite; mask out frames that hold NaN or infinity. "
                "Received: a chunk or stream whose sums are not finite"
            )
        # New arrays, so that arrays which a caller holds keep their values.
        self.first_sum = first.copy() if self.first_sum is None else self.first_sum + first
        self.second_sum = second.copy() if self.second_sum is None else self.second_sum + second


def _shapes(first, second):
    return f"{first.shape} and {second.shape}"


def _equal_weights(layer, other):
    return layer is other or (
        len(layer.weights) == len(other.weights)
        and all(
            a.shape == b.shape and np.array_equal(a.numpy(), b.numpy())
            for a, b in zip(layer.weights, other.weights, strict=True)
        )
    )
