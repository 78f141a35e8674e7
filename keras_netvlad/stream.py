"""`NetVLADStream`: pooling of videos that are long, live, or spread over machines."""

import numpy as np
from keras import ops

from keras_netvlad.layers.cluster_pooling import ClusterPooling


class NetVLADStream:
    """Pools videos chunk by chunk, in constant memory, with a descriptor at any moment.

    Holds the two sums of `aggregate`, which add up over frames, for a batch of `B` streams that advance together.
    Chunks may have any length and come in any order; other processes can each sum their own frames and be merged.
    The sums are float64 NumPy arrays on the host, so that an hour of frames adds no rounding to that of a chunk.

    The layer works as in inference. Its weights must stay as they are from the first `update` to the last, and be
    the same in every process: sums taken with other weights do not add up.

    Args:
        layer: `NetVLAD`, `VLAD`, `NetRVLAD`, `NetFV` or `NeXtVLAD`, built or not.

    Attributes:
        layer: The layer.
        first_sum: `A` `(B, K, D)`, float64, the sum of the assigned descriptors; `None` before the first frame.
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
        TypeError: If `layer` is no pooling layer of this package.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), equation 4, whose sum over descriptors this
          takes in parts.
    """

    def __init__(self, layer):
        if not isinstance(layer, ClusterPooling):
            raise TypeError(
                "`layer` must be a NetVLAD or another pooling with `aggregate`; take it out of a model with "
                "`model.get_layer(name)`. "
                f"Received: a {type(layer).__name__}"
            )
        self.layer = layer
        self.reset()

    def update(self, frames, mask=None):
        """Adds a chunk of frames to each stream.

        Args:
            frames: As the layer's inputs: `(B, T, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`, of any `T`.
            mask: As the layer's, for this chunk; streams of unequal length are padded and masked.

        Raises:
            ValueError: If `frames` or `mask` do not suit the layer, if `B` changed, or if a frame that counts holds
                NaN or infinity. Nothing is added then.
        """
        frames = ops.convert_to_tensor(frames)
        if self.first_sum is not None and tuple(frames.shape[:1]) != (len(self.first_sum),):
            raise ValueError(
                f"This stream holds {len(self.first_sum)} videos and takes as many in every chunk; `reset` it, or "
                f"make a stream of its own for each video. Received: frames of shape {tuple(frames.shape)}"
            )
        first, second = self.layer.aggregate(frames, mask=mask, training=False)
        self._add(ops.convert_to_numpy(first), ops.convert_to_numpy(second))

    def merge(self, other):
        """Adds what another stream has summed, in this process or in another.

        Args:
            other: `NetVLADStream`; or a pair `(first_sum, second_sum)` of its arrays, all that has to travel. A
                stream without frames adds nothing.

        Raises:
            ValueError: If the shapes of the sums differ, if the layers' weights do, or if the sums are not finite.
                Nothing is added then.
            TypeError: If `other` is neither.
        """
        if isinstance(other, NetVLADStream):
            if other.first_sum is None:
                return
            if not _equal_weights(self.layer, other.layer):
                raise ValueError(
                    "Streams add up only if their layers have the same weights; copy them with "
                    f"`layer.set_weights(...)` before the first frame. Received: weights of `{other.layer.name}` that "
                    f"differ from those of `{self.layer.name}`"
                )
            sums = other.first_sum, other.second_sum
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

    def descriptor(self):
        """Returns the descriptors `(B, K * D)` of all frames so far, a NumPy array of the layer's compute dtype.

        Raises:
            ValueError: Before the first frame, when the number of streams is not known.
        """
        if self.first_sum is None:
            raise ValueError("This stream has no frames yet; `update` it before `descriptor`.")
        return ops.convert_to_numpy(self.layer.describe(self.first_sum, self.second_sum))

    def reset(self):
        """Forgets all frames; the next `update` may have another number of streams."""
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
                f"Sums must have the shapes {expected} to be merged; make both with the same layer and number of "
                f"videos. Received: shapes {_shapes(first, second)}"
            )
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            raise ValueError(
                "Frames must be finite, or they would spoil all that follows; mask out frames that hold NaN or "
                "infinity. Received: a chunk or stream whose sums are not finite"
            )
        # New arrays, so that what a caller took before keeps its values.
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
