"""`WeaklySupervisedTripletLoss`: the nearest of several possible matches against all mismatches."""

from typing import Any

import keras
from keras import ops

from keras_netvlad.base.validation import check_integer, check_number


@keras.saving.register_keras_serializable(package="keras_netvlad")
class WeaklySupervisedTripletLoss(keras.losses.Loss):
    """The ranking loss of the NetVLAD paper, for labels that only name possible matches.

    Each query has potential positives, at least one of which shows the same place, and negatives, which show other
    places. The loss takes the potential positive that is nearest to the query as its match, and requires each negative
    to be farther away by a margin:

        sum_j max(0, min_i ||q - p[i]||^2 + margin - ||q - n[j]||^2)

    A negative that is far enough adds no loss and no gradient. The loss of a query without potential positives or
    without negatives is 0. Distances are computed in float32 (float64 under float64).

    Args:
        margin: Number of 0 or more, a squared distance. The 0.1 of the paper suits descriptors of unit length.
        num_hard_negatives: Integer, the number of negatives of each query to use, the nearest first; or `None` for all.
        reduction: Reduction, as for `keras.losses.Loss`, by default the mean over queries.
        name, dtype: As for `keras.losses.Loss`.

    Call arguments:
        y_true: The role of each descriptor, `(B, M)`: 1 for a potential positive, -1 for a negative, 0 for padding.
        y_pred: Descriptors `(B, 1 + M, F)`, the query first. Padding may hold NaN.
        sample_weight: Optional weights of the queries, `(B,)`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_netvlad import NetVLAD
    >>> from keras_netvlad.losses import WeaklySupervisedTripletLoss
    >>> rng = np.random.default_rng(0)
    >>> clips = rng.normal(size=(4, 6, 30, 16)).astype("float32")  # a query and five other clips, 30 frames each
    >>> roles = np.tile([1, 1, -1, -1, -1], (4, 1))
    >>> model = keras.Sequential([keras.Input((6, 30, 16)), keras.layers.TimeDistributed(NetVLAD(2))])
    >>> model.compile("adam", WeaklySupervisedTripletLoss())
    >>> history = model.fit(clips, roles, verbose=0)
    >>> bool(history.history["loss"][0] > 0)
    True

    Raises:
        ValueError: If an argument is invalid, or if the shapes do not fit.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 4, equations 5 to 7; 10 hard
          negatives and a margin of 0.1 in appendix A.
    """

    def __init__(
        self,
        margin: float = 0.1,
        num_hard_negatives: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "weakly_supervised_triplet_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.margin = check_number("margin", margin, 0)
        self.num_hard_negatives = (
            None if num_hard_negatives is None else check_integer("num_hard_negatives", num_hard_negatives, 1)
        )

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the loss of each query, `(B,)`."""
        _check_shapes(self.name, y_true.shape, y_pred.shape)
        y_pred = ops.cast(y_pred, "float64" if self.dtype == "float64" else "float32")
        is_positive, is_negative = y_true > 0, y_true < 0  # (B, M)
        query, others = y_pred[:, :1], y_pred[:, 1:]
        # Selected before the squares: the gradient of the square of NaN is NaN, also when it is multiplied by zero.
        others = ops.where(ops.expand_dims(y_true != 0, 2), others, 0.0)
        squared = ops.sum(ops.square(query - others), axis=2)  # (B, M)
        nearest = ops.min(ops.where(is_positive, squared, float("inf")), axis=1, keepdims=True)
        has_positive = ops.any(is_positive, axis=1, keepdims=True)
        violations = ops.relu(ops.where(has_positive, nearest, 0.0) + self.margin - squared)
        violations = ops.where(ops.logical_and(has_positive, is_negative), violations, 0.0)
        if self.num_hard_negatives is not None:
            violations = ops.sort(violations, axis=1)[:, -self.num_hard_negatives :]
        return ops.sum(violations, axis=1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor without the dtype, like the losses of Keras."""
        return {**super().get_config(), "margin": self.margin, "num_hard_negatives": self.num_hard_negatives}


def _check_shapes(name, roles, descriptors):
    fits = len(roles) == 2 and len(descriptors) == 3
    if not fits or (None not in (roles[1], descriptors[1]) and descriptors[1] != 1 + roles[1]):
        raise ValueError(
            f"`{name}` takes descriptors (B, 1 + M, F), the query first, and the roles of the others, (B, M). "
            f"Received: y_pred of shape {tuple(descriptors)} and y_true of shape {tuple(roles)}"
        )
