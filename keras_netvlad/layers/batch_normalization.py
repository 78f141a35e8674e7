"""`BatchNormalization`: Keras's batch normalization, for batches that may consist of padding."""

from typing import Any

import keras
from keras import ops

from keras_netvlad.base.validation import check_number

# The default of Keras: the share of the moving statistics that a training step keeps.
MOMENTUM = 0.99


# The name is Keras's, because weight files name layers after their class.
@keras.saving.register_keras_serializable(package="keras_netvlad")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization whose moving statistics stay as they are in a batch without real features.

    Keras computes a mean and a variance of 0 for a batch whose mask is false everywhere, and moves its statistics
    towards them. This layer does not. In all other batches it computes the same numbers as Keras's layer.

    Args:
        **kwargs: As for `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: Tensor `(B, ..., D)`.
        training: Boolean, whether to use the statistics of the batch and to update the moving statistics.
        mask: Optional booleans `(B, ...)`. Where they are false, values are left out of the statistics.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers.batch_normalization import BatchNormalization
    >>> layer = BatchNormalization()
    >>> normalized = layer(np.ones((2, 5, 4), "float32"), training=True, mask=np.zeros((2, 5), bool))
    >>> np.array(layer.moving_variance).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> keras.KerasTensor:
        if mask is None or not training or not self.trainable:
            return super().call(inputs, training=training, mask=mask)
        statistics = [self.moving_mean, self.moving_variance]
        # Copies, because a variable of torch changes in place.
        before = [ops.copy(ops.convert_to_tensor(variable)) for variable in statistics]
        outputs = super().call(inputs, training=True, mask=mask)
        is_any_real = ops.any(ops.convert_to_tensor(mask))
        for variable, value in zip(statistics, before, strict=True):
            variable.assign(ops.where(is_any_real, ops.convert_to_tensor(variable), value))
        return outputs


def check_momentum(momentum: Any) -> float:
    """Returns `batch_normalization_momentum`, or raises if it is not a number from 0 to below 1."""
    check_number("batch_normalization_momentum", momentum, 0, 1, exclusive_maximum=True)
    return float(momentum)
