"""VGG16-NetVLAD with whitening in the weights of crlz182's Netvlad-Keras, which come from those of MATLAB."""

import keras

from keras_netvlad.convert.arrays import from_arrays
from keras_netvlad.convert.networks.place_model import place_model, whitening
from keras_netvlad.convert.networks.tensors import Tensors
from keras_netvlad.convert.networks.vgg16 import VGG16_LAYERS, vgg16
from keras_netvlad.convert.rows import reorder_rows

MEAN = "average_rgb"
NUM_CONVOLUTIONS = sum(kind == "conv" for kind, _ in VGG16_LAYERS)
# Numbers of axes of all weights, in the order of the layers: mean, VGG16, NetVLAD, whitening.
RANKS = [1, *[4, 1] * NUM_CONVOLUTIONS, 5, 4, 4, 1]


def is_crlz182(tensors: Tensors) -> bool:
    """Returns whether the tensors are those of crlz182's model, whose first layer subtracts a mean color."""
    return any(name.split("/")[-1] == MEAN for name in tensors.names)


def crlz182(tensors: Tensors) -> keras.Model:
    """Returns the model of pictures of `netvlad_weights.h5`, or of a whole-model file: VGG16, NetVLAD and whitening.

    Its layers have no names of their own, so the weights are recognized by their order. The network is the one of the
    MATLAB file: the mean color is subtracted from RGB pictures from 0 to 255, and maps are normalized.

    Args:
        tensors: Tensors of the file, in the order of the layers.

    Raises:
        ValueError: If the weights are others.
    """
    names = list(tensors.names)
    values = [tensors.read(name) for name in names]
    if [value.ndim for value in values] != RANKS:
        received = ", ".join(f"{name} {value.shape}" for name, value in zip(names, values, strict=True))
        raise ValueError(
            f"A model of crlz182 must have {len(RANKS)} weights in this order: the mean color, kernels and biases of "
            f"the {NUM_CONVOLUTIONS} convolutions of VGG16, centroids and kernel of the NetVLAD, kernel and bias of "
            f"the whitening. Received: {received}"
        )
    offset, projection = values.pop(), values.pop()
    mean, *convolutions, centroids, assignment = values
    backbone = vgg16([float(value) for value in mean], list(zip(convolutions[::2], convolutions[1::2], strict=True)))
    pooling = from_arrays(
        assignment, centroids.reshape(centroids.shape[-2:]).T, negated=True, normalize_input=True, name="netvlad"
    )
    kernel = reorder_rows(projection.reshape(projection.shape[-2:]), pooling.num_clusters, pooling.feature_size)
    del projection  # 1 GiB
    return place_model(backbone, pooling, whitening(kernel, offset, *names[-2:]), None, "vgg16_netvlad")
