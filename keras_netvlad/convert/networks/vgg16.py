"""`vgg16`: VGG16 cut at conv5_3, before its ReLU, as NetVLAD uses it."""

from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from keras_netvlad.convert.networks.tensors import assign

# Kind and name of each layer from conv1_1 to conv5_3, in the order of both MatConvNet and torchvision.
VGG16_LAYERS = [
    (kind, f"{kind}{block}_{number}")
    for block, size in enumerate((2, 2, 3, 3, 3), 1)
    for number in range(1, size + 1)
    for kind in ("conv", "relu")
]
for _block, _place in ((1, 4), (2, 9), (3, 16), (4, 23)):
    VGG16_LAYERS.insert(_place, ("pool", f"pool{_block}"))
VGG16_LAYERS.pop()  # the ReLU behind conv5_3


def vgg16(
    mean: Sequence[float] | None, weights: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> keras.Model:
    """Returns VGG16 from pictures of any size to the maps of conv5_3.

    Args:
        mean: Mean color that the network subtracts from the pictures; or `None`.
        weights: Kernel `(3, 3, I, O)` and bias `(O,)` of each of the 13 convolutions. They determine the widths.

    Returns:
        A functional `keras.Model` from `(B, H, W, 3)` to `(B, H // 16, W // 16, D)`.

    Raises:
        ValueError: If a kernel or a bias does not fit its place in the network.

    Reference:
        - [Simonyan & Zisserman 2015](https://arxiv.org/abs/1409.1556), table 1, D.
    """
    pictures = keras.Input((None, None, 3), name="pictures")
    x = pictures
    if mean is not None:
        x = keras.layers.Rescaling(1.0, [-value for value in mean], name="mean_subtraction")(x)
    remaining = iter(weights)
    for kind, name in VGG16_LAYERS:
        if kind == "relu":
            x = keras.layers.ReLU(name=name)(x)
        elif kind == "pool":
            x = keras.layers.MaxPooling2D(2, name=name)(x)
        else:
            kernel, bias = next(remaining)
            layer = keras.layers.Conv2D(kernel.shape[-1], 3, padding="same", name=name)
            x = layer(x)
            assign(layer.kernel, kernel, f"{name} kernel")
            assign(layer.bias, bias, f"{name} bias")
    return keras.Model(pictures, x, name="vgg16")
