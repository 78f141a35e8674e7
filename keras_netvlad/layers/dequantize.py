"""`Dequantize`: from bytes to features."""

import keras
from keras import ops

LOWEST, HIGHEST, LEVELS = -2.0, 2.0, 256


@keras.saving.register_keras_serializable(package="keras_netvlad")
class Dequantize(keras.Layer):
    """Turns features quantized to one byte into floats, as YouTube-8M's are.

    Byte `q` becomes `q * 4 / 255 + 4 / 512 - 2`: 256 levels from -2 to 2. A quarter of the traffic of float32, and
    the first layer of a model that takes `uint8`. The padding byte 0 becomes -1.99, so the number of real frames has
    to go along.

    Call arguments:
        inputs: `uint8` tensor of any shape.

    Output shape:
        As the input's, in the layer's compute dtype.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import Dequantize
    >>> np.asarray(Dequantize()(np.array([0, 128, 255], "uint8"))).round(4).tolist()
    [-1.9922, 0.0157, 2.0078]

    Raises:
        TypeError: If the inputs are not `uint8`.

    Reference:
        - [Abu-El-Haija et al. 2016](https://arxiv.org/abs/1609.08675), section 3.3: features quantized to 8 bits a
          value. The constants are those that the data set's own reader uses.
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True

    def call(self, inputs):
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if dtype != "uint8":
            raise TypeError(f"`{self.name}` takes uint8 features, one byte each. Received: dtype {dtype}")
        scale = (HIGHEST - LOWEST) / (LEVELS - 1)
        offset = (HIGHEST - LOWEST) / (2 * LEVELS) + LOWEST
        return ops.cast(inputs, self.compute_dtype) * scale + offset
