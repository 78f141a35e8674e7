"""`place_model`: a backbone, a pooling and the layers behind it, joined into a model from pictures to descriptors."""

from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from keras_netvlad.base.names import DESCRIPTOR
from keras_netvlad.convert.networks.tensors import assign
from keras_netvlad.layers import PicturePreprocessing
from keras_netvlad.layers.smallest_picture import nan_if_smaller, smallest_picture


def place_model(
    backbone: keras.Model, pooling: keras.Layer, head: Sequence[keras.Layer], preprocessing: str | None, name: str
) -> keras.Model:
    """Returns a model from `uint8` pictures of any size, `images` `(B, H, W, 3)` in RGB, to `descriptor` `(B, F)`.

    The descriptor of a picture that is too small for a single position of the map is NaN, as in `picture_model`.

    Args:
        backbone: Model from preprocessed pictures to maps.
        pooling: Layer from maps to descriptors.
        head: Layers behind the pooling, one after the other.
        preprocessing: Preprocessing of the pictures, as in `FrameEncoder`.
        name: Name of the model.
    """
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    values = PicturePreprocessing(preprocessing, name="picture_preprocessing")(images)
    maps = backbone(values, training=False)  # (B, H', W', D)
    descriptors = pooling(maps)
    for layer in head:
        descriptors = layer(descriptors)
    descriptors = nan_if_smaller(descriptors, values, smallest_picture(backbone))
    descriptors = keras.layers.Activation("linear", dtype="float32", name=DESCRIPTOR)(descriptors)
    return keras.Model({"images": images}, {DESCRIPTOR: descriptors}, name=name)


def whitening(
    kernel: NDArray[np.float64], bias: NDArray[np.float64], kernel_name: str, bias_name: str
) -> list[keras.Layer]:
    """Returns the layers of a projection and the scaling of its outputs to unit L2 norm.

    Args:
        kernel: Array `(F, P)`.
        bias: Array `(P,)`.
        kernel_name, bias_name: Names of the tensors, for messages.
    """
    layer = keras.layers.Dense(kernel.shape[1], name="whitening")
    layer.build((None, kernel.shape[0]))
    assign(layer.kernel, kernel, kernel_name)
    assign(layer.bias, bias, bias_name)
    return [layer, keras.layers.UnitNormalization(name="output_normalization")]
