"""`MultiSimilarityLoss`: every pair of a batch, weighted by how hard it is."""

import keras
from keras import ops

from keras_netvlad.base.validation import check_number
from keras_netvlad.layers.vlad_ops import normalize

# Stands for a pair that does not count: its exponential is 0, and unlike infinity it has a gradient, which is 0 too.
NO_PAIR = -1e30


@keras.saving.register_keras_serializable(package="keras_netvlad")
class MultiSimilarityLoss(keras.losses.Loss):
    """A ranking loss over all pairs of a batch, from labels that say which clips belong together.

    Each descriptor of the batch is a query to the others, which are its positives `P` if they bear its label and
    its negatives `N` if not. With cosine similarities `S` to the query, pairs that are easy are left out first,

        P = {p: S[p] < max_n S[n] + mining_margin}      N = {n: S[n] > min_p S[p] - mining_margin}

    and the others are weighted softly, the hardest most:

        1/alpha log(1 + sum_P exp(-alpha (S[p] - base))) + 1/beta log(1 + sum_N exp(beta (S[n] - base)))

    A query without positives or without negatives in the batch costs nothing, so a batch has to hold several clips
    of each of several places. Whatever the dtype, this is computed in float32 (float64 for float64). With several
    devices, each ranks its own part of the batch.

    Args:
        alpha: Positive number, how much the hardest positives outweigh the others.
        beta: Positive number, how much the hardest negatives outweigh the others.
        base: Number, the similarity that divides near from far. The paper's text says 1; its authors' code uses
            0.5, which is the default here.
        mining_margin: Number, how much easier than the hardest pair of the other kind a pair may be, to count.
        reduction: As of `keras.losses.Loss`; the mean over the batch by default.
        name, dtype: As of `keras.losses.Loss`.

    Call arguments:
        y_true: Integer labels `(B,)` or `(B, 1)`: which place, or which video, a clip shows.
        y_pred: Descriptors `(B, F)`, of any length: they are normalized here.
        sample_weight: Optional weights of the queries, `(B,)`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_netvlad import NetVLAD
    >>> from keras_netvlad.losses import MultiSimilarityLoss
    >>> clips = np.random.default_rng(0).normal(size=(8, 30, 16)).astype("float32")
    >>> places = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    >>> model = keras.Sequential([keras.Input((None, 16)), NetVLAD(2)])
    >>> model.compile("adam", MultiSimilarityLoss())
    >>> history = model.fit(clips, places, batch_size=8, verbose=0)
    >>> bool(history.history["loss"][0] > 0)
    True

    Raises:
        ValueError: On an argument that is none of the above, or on shapes that do not go together.

    Reference:
        - [Wang et al. 2019](https://arxiv.org/abs/1904.06627), equations 11, 12 and 15.
    """

    def __init__(
        self,
        alpha=2.0,
        beta=50.0,
        base=0.5,
        mining_margin=0.1,
        reduction="sum_over_batch_size",
        name="multi_similarity_loss",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.alpha = check_number("alpha", alpha, 0, exclusive=True)
        self.beta = check_number("beta", beta, 0, exclusive=True)
        self.base = check_number("base", base)
        self.mining_margin = check_number("mining_margin", mining_margin, 0)

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Returns the reduced loss of labels and descriptors."""
        labels, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        _check_shapes(self.name, labels.shape, y_pred.shape)
        # Compared here, for Keras turns labels into float32 next, which can't tell 16777216 from 16777217.
        labels = ops.reshape(labels, (-1, 1))
        return super().__call__(labels == ops.transpose(labels), y_pred, sample_weight)

    def call(self, y_true, y_pred):
        """Returns the loss of each query, `(B,)`; `y_true` `(B, B)` is 1 where two labels are the same."""
        descriptors = normalize(ops.cast(y_pred, "float64" if self.dtype == "float64" else "float32"))
        # The operator, for `ops.matmul` turns float64 into float32 on torch and JAX (Keras 3.15).
        similarities = descriptors @ ops.transpose(descriptors)  # (B, B)
        is_same = y_true > 0
        is_other = ops.logical_not(ops.eye(ops.shape(y_pred)[0], dtype="bool"))
        positive, negative = ops.logical_and(is_same, is_other), ops.logical_not(is_same)
        hardest_positive = ops.min(ops.where(positive, similarities, float("inf")), axis=1, keepdims=True)
        hardest_negative = ops.max(ops.where(negative, similarities, float("-inf")), axis=1, keepdims=True)
        # Without positives no negative is near enough to one to count, and the other way round.
        positive = ops.logical_and(positive, similarities < hardest_negative + self.mining_margin)
        negative = ops.logical_and(negative, similarities > hardest_positive - self.mining_margin)
        centred = similarities - self.base
        return _soft_maximum(-centred, positive, self.alpha) + _soft_maximum(centred, negative, self.beta)

    def get_config(self):
        """Returns the constructor's arguments, but for the dtype, as Keras's losses do."""
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "base": self.base,
            "mining_margin": self.mining_margin,
        }


def _soft_maximum(values, counts, sharpness):
    """`1/s log(1 + sum exp(s v))` over those values of each row that count; 0 where none does."""
    exponents = ops.where(counts, sharpness * values, NO_PAIR)
    # The column of zeros is the 1 in the logarithm: torch's softplus is linear from 20 on, which float64 notices.
    return ops.logsumexp(ops.pad(exponents, [[0, 0], [1, 0]]), axis=1) / sharpness


def _check_shapes(name, labels, descriptors):
    fits = len(descriptors) == 2 and (len(labels) == 1 or (len(labels) == 2 and labels[1] == 1))
    if not fits or (None not in (labels[0], descriptors[0]) and labels[0] != descriptors[0]):
        raise ValueError(
            f"`{name}` takes descriptors (B, F) and one integer label for each, (B,). "
            f"Received: y_pred of shape {tuple(descriptors)} and y_true of shape {tuple(labels)}"
        )
