"""Place recognition of PyTorch: the checkpoints of Nanne, Patch-NetVLAD and gmberton's benchmark."""

import keras

from keras_netvlad.convert.networks.place_model import place_model, whitening
from keras_netvlad.convert.networks.tensors import Tensors
from keras_netvlad.convert.networks.torchvision_backbones import TorchvisionBackbone
from keras_netvlad.convert.pytorch import from_pytorch
from keras_netvlad.convert.tensor_files import listed


def is_pytorch_places(tensors: Tensors) -> bool:
    """Returns whether the names are those of a place recognition network."""
    return any(name.startswith(("encoder.", "backbone.")) for name in tensors.names)


def pytorch_places(tensors: Tensors) -> keras.Model:
    """Returns the model of pictures of a checkpoint: backbone, NetVLAD and, if present, the layer behind it.

    Nanne and Patch-NetVLAD name their tensors `encoder` and `pool`, and the principal components of Patch-NetVLAD
    `WPCA`. The benchmark of gmberton names them `backbone` and `aggregation`, and `aggregation.0` and `aggregation.1`
    if a linear layer follows the NetVLAD. Pictures are normalized with the mean and deviation of ImageNet.

    Args:
        tensors: Tensors of the checkpoint.

    Raises:
        ValueError: If the checkpoint is of another network.
    """
    if any(name.startswith("backbone.") for name in tensors.names):
        head = "aggregation.0." if any(name.startswith("aggregation.0.") for name in tensors.names) else "aggregation."
        backbone_prefix, projection = "backbone.", "aggregation.1" if head == "aggregation.0." else None
    else:
        backbone_prefix, head = "encoder.", "pool."
        projection = "WPCA.0" if any(name.startswith("WPCA.") for name in tensors.names) else None
    backbone = TorchvisionBackbone(tensors, backbone_prefix)
    bias = [f"{head}conv.bias"] if f"{head}conv.bias" in tensors else []
    expected = [*backbone.expected, f"{head}conv.weight", f"{head}centroids", *bias]
    expected += [] if projection is None else [f"{projection}.weight", f"{projection}.bias"]
    tensors.check_names(expected)
    maps = backbone.build()
    names = [f"{head}conv.weight", f"{head}centroids", *bias]
    pooling = from_pytorch({name: tensors.read(name) for name in names}, name="netvlad")
    if pooling.assignment != "conv" or pooling.feature_size != maps.output_shape[-1]:
        raise ValueError(
            f"The NetVLAD must pool the maps of the backbone, of {maps.output_shape[-1]} channels. Received: a NetVLAD "
            f"of {pooling.feature_size} features with the tensors {listed(names)}"
        )
    layers = []
    if projection is not None:
        kernel = tensors.read(f"{projection}.weight")
        kernel = kernel.reshape(kernel.shape[:2]) if kernel.shape[2:] == (1, 1) else kernel
        if kernel.ndim != 2:
            raise ValueError(
                f"`{projection}.weight` must be of shape (outputs, inputs), or (outputs, inputs, 1, 1). Received: "
                f"shape {kernel.shape}"
            )
        expected_size = pooling.num_clusters * pooling.feature_size
        if kernel.shape[1] != expected_size:
            raise ValueError(
                f"`{projection}.weight` must take the {expected_size} values of the NetVLAD. Received: shape "
                f"{kernel.shape}"
            )
        bias_name = f"{projection}.bias"
        layers = whitening(kernel.T, tensors.read(bias_name), f"{projection}.weight", bias_name)
    return place_model(maps, pooling, layers, "torchvision", f"{backbone.name}_netvlad")
