"""`MultiSimilarityLoss`: all pairs of a batch, weighted by their difficulty."""

from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_number
from keras_netvlad.layers.vlad_ops import matmul, normalize

# The exponent of ignored pairs. Its exponential is 0, and so is its gradient. Minus infinity would give NaN gradients.
NO_PAIR = -1e30


@keras.saving.register_keras_serializable(package="keras_netvlad")
class MultiSimilarityLoss(keras.losses.Loss):
    """Ranks all pairs of a batch, given labels that say which clips belong together.

    Each descriptor of the batch is a query. The other descriptors with its label are its positives `P`, and those with
    other labels its negatives `N`. With the cosine similarities `S` to the query, easy pairs are removed first,

        P = {p: S[p] < max_n S[n] + mining_margin}
        N = {n: S[n] > min_p S[p] - mining_margin}

    and the remaining pairs are weighted softly, hard pairs most:

        1/alpha log(1 + sum_P exp(-alpha (S[p] - base))) + 1/beta log(1 + sum_N exp(beta (S[n] - base)))

    The loss of a query without positives or without negatives is 0, so a batch should hold several clips of each of
    several places. The loss is computed in float32 (float64 under float64). With several devices, each device ranks its
    part of the batch.

    Args:
        alpha: Positive number, the sharpness of the weights of positives.
        beta: Positive number, the sharpness of the weights of negatives.
        base: Number, the similarity that separates near from far. The paper's text uses 1. The default, 0.5, is that of
            the authors' code.
        mining_margin: Number of 0 or more. Pairs that are easier than the hardest pair of the other kind by more than
            this margin are removed.
        reduction: Reduction, as for `keras.losses.Loss`, by default the mean over the batch.
        name, dtype: As for `keras.losses.Loss`.

    Call arguments:
        y_true: Integer labels `(B,)` or `(B, 1)`, such as the number of the place or video that a clip shows.
        y_pred: Descriptors `(B, F)`. The loss normalizes them to unit length.
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
        ValueError: If an argument is invalid, or if the shapes do not fit.

    Reference:
        - [Wang et al. 2019](https://arxiv.org/abs/1904.06627), equations 11, 12 and 15.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        mining_margin: float = 0.1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "multi_similarity_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.alpha = check_number("alpha", alpha, 0, exclusive=True)
        self.beta = check_number("beta", beta, 0, exclusive=True)
        self.base = check_number("base", base)
        self.mining_margin = check_number("mining_margin", mining_margin, 0)

    def __call__(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> keras.KerasTensor:
        """Returns the reduced loss of labels and descriptors."""
        labels, descriptors = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        _check_shapes(self.name, labels.shape, descriptors.shape)
        # Compared before Keras casts the labels to float32, in which 16777216 and 16777217 are equal.
        labels = ops.reshape(labels, (-1, 1))
        return super().__call__(labels == ops.transpose(labels), descriptors, sample_weight)

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the loss of each query, `(B,)`. `y_true` `(B, B)` is 1 where two labels are equal."""
        descriptors = normalize(ops.cast(y_pred, "float64" if self.dtype == "float64" else "float32"))
        similarities = matmul(descriptors, ops.transpose(descriptors))  # (B, B)
        is_same = y_true > 0
        is_other = ops.logical_not(ops.eye(ops.shape(y_pred)[0], dtype="bool"))
        positive, negative = ops.logical_and(is_same, is_other), ops.logical_not(is_same)
        hardest_positive = ops.min(ops.where(positive, similarities, float("inf")), axis=1, keepdims=True)
        hardest_negative = ops.max(ops.where(negative, similarities, float("-inf")), axis=1, keepdims=True)
        # Without positives the minimum is infinite, which removes all negatives, and vice versa.
        positive = ops.logical_and(positive, similarities < hardest_negative + self.mining_margin)
        negative = ops.logical_and(negative, similarities > hardest_positive - self.mining_margin)
        centered = similarities - self.base
        return _soft_maximum(-centered, positive, self.alpha) + _soft_maximum(centered, negative, self.beta)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor without the dtype, like the losses of Keras."""
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "base": self.base,
            "mining_margin": self.mining_margin,
        }


def _soft_maximum(values, counts, sharpness):
    """Returns `1/s log(1 + sum exp(s v))` over the included values of each row; 0 if there are none."""
    exponents = ops.where(counts, sharpness * values, NO_PAIR)
    # The column of zeros is the 1 in the logarithm. The softplus of torch is linear above 20, too inexact for float64.
    return ops.logsumexp(ops.pad(exponents, [[0, 0], [1, 0]]), axis=1) / sharpness


def _check_shapes(name, labels, descriptors):
    fits = len(descriptors) == 2 and (len(labels) == 1 or (len(labels) == 2 and labels[1] == 1))
    if not fits or (None not in (labels[0], descriptors[0]) and labels[0] != descriptors[0]):
        raise ValueError(
            f"`{name}` takes descriptors (B, F) and one integer label for each, (B,). "
            f"Received: y_pred of shape {tuple(descriptors)} and y_true of shape {tuple(labels)}"
        )
