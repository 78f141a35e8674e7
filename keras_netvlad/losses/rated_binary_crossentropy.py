"""`RatedBinaryCrossentropy`: cross-entropy of the classes that were rated."""

from typing import Any

import keras
from keras import ops

# Keeps the logarithms of 0 finite, as in the code of YouTube-8M.
EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="keras_netvlad")
class RatedBinaryCrossentropy(keras.losses.Loss):
    """Binary cross-entropy, summed over the rated classes of each segment. Other classes have no gradient.

    The segments of YouTube-8M 2019 are rated for a few classes each. With labels `y`, scores `p` and `e = 1e-5`:

        - sum over c with y[c] >= 0 of (y[c] log(p[c] + e) + (1 - y[c]) log(1 - p[c] + e))

    Args:
        reduction: Reduction, as for `keras.losses.Loss`, by default the mean over the batch.
        name, dtype: As for `keras.losses.Loss`.

    Call arguments:
        y_true: Labels `(B, C)`: from 0 to 1, or -1 for a class that was not rated, as `youtube8m(level="segment")`
            gives them.
        y_pred: Scores `(B, C)` from 0 to 1, such as those of a sigmoid.
        sample_weight: Optional weights of the segments, `(B,)`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.losses import RatedBinaryCrossentropy
    >>> loss = RatedBinaryCrossentropy()
    >>> round(float(loss(np.array([[1.0, -1.0, 0.0]]), np.array([[0.5, 0.9, 0.5]]))), 3)  # 2 log 2
    1.386

    Raises:
        ValueError: If labels and scores have different shapes.

    Reference:
        - [google/youtube-8m](https://github.com/google/youtube-8m), `losses.py`, `CrossEntropyLoss` with
          `label_weights`.
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "rated_binary_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the loss of each segment, `(B,)`."""
        if len(y_pred.shape) != 2 or len(y_true.shape) != 2 or y_true.shape[1] != y_pred.shape[1]:
            raise ValueError(
                f"`{self.name}` takes labels and scores (segments, classes). "
                f"Received: y_true of shape {tuple(y_true.shape)} and y_pred of shape {tuple(y_pred.shape)}"
            )
        entropy = y_true * ops.log(y_pred + EPSILON) + (1.0 - y_true) * ops.log(1.0 - y_pred + EPSILON)
        return -ops.sum(ops.where(y_true >= 0, entropy, 0.0), axis=1)
