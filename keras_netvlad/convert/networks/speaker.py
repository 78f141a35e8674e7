"""Speaker recognition of VGG (Xie et al. 2019): a thin ResNet with GhostVLAD, from spectrograms to descriptors."""

from collections.abc import Iterator

import keras

from keras_netvlad.base.names import DESCRIPTOR
from keras_netvlad.convert.arrays import BATCH_NORMALIZATION_NAMES
from keras_netvlad.convert.networks.tensors import Tensors, assign
from keras_netvlad.layers import ScoredVLAD
from keras_netvlad.layers.smallest_picture import nan_if_smaller, smallest_picture

SPECTROGRAMS = "spectrograms"
# Frequencies of a Fourier transform of 512 samples. The height of the maps depends on it.
NUM_FREQUENCIES = 257
FIRST = "conv1_1/3x3_s1"
STAGES = (2, 3, 4, 5)
# Blocks of each stage, and strides of the first convolution and of the stages.
RESNET34 = ((2, 3, 3, 3), (1, 1, 2, 2, 2))
# The deeper network (`resnet34l`), whose second stage has a third block.
RESNET50 = ((3, 3, 3, 3), (2, 1, 2, 1, 2))
THIRD_BLOCK = "conv2_c_1x1_reduce/kernel"
# Name of the pooling, and of the convolution that scores.
POOLINGS = {
    "gvlad_pool": "gvlad_center_assignment",
    "vlad_pool": "vlad_center_assignment",
}
# The classifier of the speakers of the training, which the published code leaves out, too.
CLASSIFIER = "prediction/kernel"


def is_speaker(tensors: Tensors) -> bool:
    """Returns whether the names are those of the speaker recognition."""
    return any(f"{pooling}/centers" in tensors for pooling in POOLINGS)


def speaker(tensors: Tensors) -> keras.Model:
    """Returns the model of a file of weights, from `spectrograms` to `descriptor` of unit L2 norm.

    A spectrogram is `(B, 257, T, 1)`, frequencies by frames of 10 ms: the magnitudes of a Fourier transform of 512
    samples in windows of 400 every 160, at 16 kHz. In each frame the mean is subtracted and the result divided by the
    deviation. A single frame is too few for a position of the maps, and gives NaN.

    Args:
        tensors: Tensors of the file.

    Raises:
        ValueError: If the file is of another network.
    """
    pooling = next((name for name in POOLINGS if f"{name}/centers" in tensors), "gvlad_pool")
    blocks, strides = RESNET50 if THIRD_BLOCK in tensors else RESNET34
    expected = [*_resnet_names(blocks), f"{pooling}/centers"]
    expected += [f"{name}/{part}" for name in ("x_fc", POOLINGS[pooling], "fc6") for part in ("kernel", "bias")]
    tensors.check_names(expected + [CLASSIFIER] * (CLASSIFIER in tensors))
    spectrograms = keras.Input((NUM_FREQUENCIES, None, 1), name=SPECTROGRAMS)
    x = _normalized(tensors, spectrograms, FIRST, strides[0])  # (B, 257, T, C)
    x = keras.layers.ReLU(name="conv1_relu")(x)
    x = keras.layers.MaxPooling2D(2, name="pool1")(x)
    for stage, number, stride in zip(STAGES, blocks, strides[1:], strict=True):
        for block in range(number):
            x = _block(tensors, x, f"conv{stage}_{'abc'[block]}", stride if block == 0 else 1, block == 0)
    x = keras.layers.MaxPooling2D((3, 1), (2, 1), name="pool2")(x)  # (B, 7, T', C)
    features = keras.layers.ReLU(name="x_fc_relu")(_convolution(tensors, x, "x_fc"))  # (B, 1, T', D)
    scores = _convolution(tensors, x, POOLINGS[pooling])  # (B, 1, T', K + G)
    kernel = tensors.read_of_rank("fc6/kernel", 2)
    centers = tensors.read_of_rank(f"{pooling}/centers", 2)
    num_clusters = len(kernel) // features.shape[-1]
    num_ghosts = len(centers) - num_clusters
    if num_clusters < 1 or num_ghosts < 0 or len(centers) != scores.shape[-1]:
        raise ValueError(
            f"`{pooling}/centers` must have a row for each score, and `fc6/kernel` rows for the clusters without the "
            f"ghosts. Received: shapes {centers.shape} and {kernel.shape}, and {scores.shape[-1]} scores"
        )
    vlad = ScoredVLAD(num_clusters, num_ghosts, output_normalization=False, name=pooling)
    vlad.build(features.shape)
    # The ghosts have centers in the file, which no descriptor depends on.
    assign(vlad.centroids, centers[:num_clusters], f"{pooling}/centers")
    dense = keras.layers.Dense(kernel.shape[1], activation="relu", name="fc6")
    x = dense(vlad(features, scores=scores))
    assign(dense.kernel, kernel, "fc6/kernel")
    assign(dense.bias, tensors.read("fc6/bias"), "fc6/bias")
    x = keras.layers.UnitNormalization(name="output_normalization")(x)
    x = nan_if_smaller(x, spectrograms, smallest_picture(keras.Model(spectrograms, features)))
    descriptor = keras.layers.Activation("linear", dtype="float32", name=DESCRIPTOR)(x)
    return keras.Model({SPECTROGRAMS: spectrograms}, {DESCRIPTOR: descriptor}, name="speaker_ghostvlad")


def _resnet_names(blocks: tuple[int, ...]) -> Iterator[str]:
    names = [FIRST]
    for stage, number in zip(STAGES, blocks, strict=True):
        for block in range(number):
            parts = ("1x1_reduce", "3x3", "1x1_increase", *(("1x1_proj",) if block == 0 else ()))
            names += [f"conv{stage}_{'abc'[block]}_{part}" for part in parts]
    for name in names:
        yield f"{name}/kernel"
        yield from (f"{name}/bn/{part}" for part in BATCH_NORMALIZATION_NAMES)


def _block(tensors, x, name, stride, is_first):
    """Adds a block of three convolutions and its shortcut, which has a convolution in the first block of a stage."""
    shortcut = _normalized(tensors, x, f"{name}_1x1_proj", stride) if is_first else x
    for part, step in (("1x1_reduce", stride), ("3x3", 1), ("1x1_increase", 1)):
        x = _normalized(tensors, x, f"{name}_{part}", step)
        if part != "1x1_increase":
            x = keras.layers.ReLU(name=f"{name}_{part}_relu")(x)
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _normalized(tensors, x, name, stride):
    """Adds a convolution without bias and its batch normalization."""
    kernel = tensors.read_of_rank(f"{name}/kernel", 4)
    layer_name = name.replace("/", "_")
    layer = keras.layers.Conv2D(
        kernel.shape[-1], kernel.shape[:2], stride, "same", use_bias=False, name=f"conv_{layer_name}"
    )
    x = layer(x)
    assign(layer.kernel, kernel, f"{name}/kernel")
    normalization = keras.layers.BatchNormalization(name=f"bn_{layer_name}")
    x = normalization(x)
    for part in BATCH_NORMALIZATION_NAMES:
        assign(getattr(normalization, part), tensors.read(f"{name}/bn/{part}"), f"{name}/bn/{part}")
    return x


def _convolution(tensors, x, name):
    """Adds a convolution over all rows of the maps."""
    kernel = tensors.read_of_rank(f"{name}/kernel", 4)
    layer = keras.layers.Conv2D(kernel.shape[-1], kernel.shape[:2], name=name)
    x = layer(x)
    assign(layer.kernel, kernel, f"{name}/kernel")
    assign(layer.bias, tensors.read(f"{name}/bias"), f"{name}/bias")
    return x
