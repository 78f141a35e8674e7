"""`WeaklySupervisedTripletLoss`: the nearest of several possible matches against every mismatch."""

import keras
from keras import ops

from keras_netvlad.base.validation import check_integer, check_number


@keras.saving.register_keras_serializable(package="keras_netvlad")
class WeaklySupervisedTripletLoss(keras.losses.Loss):
    """The ranking loss of the NetVLAD paper, for labels that only say where to look for a match.

    A query comes with potential positives, of which at least one shows the same place but nobody knows which, and
    with negatives, which certainly don't. The potential positive nearest to the query is taken for the match, and
    each negative has to be farther by a margin:

        sum_j max(0, min_i ||q - p[i]||^2 + margin - ||q - n[j]||^2)

    A negative that is far enough costs nothing and has no gradient. A query without potential positives, or without
    negatives, costs nothing. Whatever the dtype, distances are computed in float32 (float64 for float64).

    Args:
        margin: Number, in squared distance. The paper's 0.1 is meant for descriptors of unit length.
        num_hard_negatives: Integer: only so many negatives of each query count, those nearest to it. `None`: all.
        reduction: As of `keras.losses.Loss`; the mean over queries by default.
        name, dtype: As of `keras.losses.Loss`.

    Call arguments:
        y_true: What each descriptor is to its query, `(B, M)`: 1 a potential positive, -1 a negative, 0 padding.
        y_pred: Descriptors `(B, 1 + M, F)`, the query's first. Padding may hold anything, even NaN.
        sample_weight: Optional weights of the queries, `(B,)`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_netvlad import NetVLAD
    >>> from keras_netvlad.losses import WeaklySupervisedTripletLoss
    >>> rng = np.random.default_rng(0)
    >>> clips = rng.normal(size=(4, 6, 30, 16)).astype("float32")  # a query and five clips beside it, 30 frames each
    >>> roles = np.tile([1, 1, -1, -1, -1], (4, 1))
    >>> model = keras.Sequential([keras.Input((6, 30, 16)), keras.layers.TimeDistributed(NetVLAD(2))])
    >>> model.compile("adam", WeaklySupervisedTripletLoss())
    >>> history = model.fit(clips, roles, verbose=0)
    >>> bool(history.history["loss"][0] > 0)
    True

    Raises:
        ValueError: On an argument that is none of the above, or on shapes that do not go together.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 4, equations 5 to 7; 10 hard
          negatives and a margin of 0.1 in appendix A.
    """

    def __init__(
        self,
        margin=0.1,
        num_hard_negatives=None,
        reduction="sum_over_batch_size",
        name="weakly_supervised_triplet_loss",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.margin = check_number("margin", margin, 0)
        self.num_hard_negatives = (
            None if num_hard_negatives is None else check_integer("num_hard_negatives", num_hard_negatives, 1)
        )

    def call(self, y_true, y_pred):
        """Returns the loss of each query, `(B,)`."""
        _check_shapes(self.name, y_true.shape, y_pred.shape)
        y_pred = ops.cast(y_pred, "float64" if self.dtype == "float64" else "float32")
        is_positive, is_negative = y_true > 0, y_true < 0  # (B, M)
        query, others = y_pred[:, :1], y_pred[:, 1:]
        # Picked before anything is computed: the gradient of a square of NaN is NaN, also when multiplied by zero.
        others = ops.where(ops.expand_dims(y_true != 0, 2), others, 0.0)
        squared = ops.sum(ops.square(query - others), axis=2)  # (B, M)
        nearest = ops.min(ops.where(is_positive, squared, float("inf")), axis=1, keepdims=True)
        has_positive = ops.any(is_positive, axis=1, keepdims=True)
        violations = ops.relu(ops.where(has_positive, nearest, 0.0) + self.margin - squared)
        violations = ops.where(ops.logical_and(has_positive, is_negative), violations, 0.0)
        if self.num_hard_negatives is not None:
            violations = ops.sort(violations, axis=1)[:, -self.num_hard_negatives :]
        return ops.sum(violations, axis=1)

    def get_config(self):
        """Returns the constructor's arguments, but for the dtype, as Keras's losses do."""
        return {**super().get_config(), "margin": self.margin, "num_hard_negatives": self.num_hard_negatives}


def _check_shapes(name, roles, descriptors):
    fits = len(roles) == 2 and len(descriptors) == 3
    if not fits or (None not in (roles[1], descriptors[1]) and descriptors[1] != 1 + roles[1]):
        raise ValueError(
            f"`{name}` takes descriptors (B, 1 + M, F), the query's first, and what the others are to it, (B, M). "
            f"Received: y_pred of shape {tuple(descriptors)} and y_true of shape {tuple(roles)}"
        )
