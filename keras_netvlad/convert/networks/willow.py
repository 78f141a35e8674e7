"""The winners of YouTube-8M 2017 and 2018: NetVLAD checkpoints of WILLOW and of Skalic & Austin (TensorFlow 1)."""

import keras
import numpy as np

from keras_netvlad.convert.arrays import BATCH_NORMALIZATION_NAMES
from keras_netvlad.convert.networks.tensors import Tensors, assign
from keras_netvlad.convert.rows import reorder_rows
from keras_netvlad.convert.tensor_files import Readers
from keras_netvlad.models.presets import YOUTUBE_8M
from keras_netvlad.models.video_classifier import VideoClassifier

SCOPES = {"rgb": "video_VLAD", "audio": "audio_VLAD"}
AVERAGE = "/ExponentialMovingAverage"
# Optimizers and the training loop store these next to the weights.
STATE = ("global_step", "beta1_power", "beta2_power")
SLOTS = ("/Adam", "/Adam_1", "/Momentum", "/RMSProp", "/RMSProp_1")


def weights_of_checkpoint(readers: Readers) -> Readers:
    """Returns the weights of a TensorFlow 1 checkpoint: moving averages if present, without the optimizer's state.

    Args:
        readers: Tensors by name. The names may start with the scope of a GPU, `tower/`.
    """
    named = {name.removeprefix("tower/"): read for name, read in readers.items()}
    averages = {name.removesuffix(AVERAGE): read for name, read in named.items() if name.endswith(AVERAGE)}
    weights = {
        name: read
        for name, read in named.items()
        if name.split("/")[-1] not in STATE and not name.endswith((AVERAGE, *SLOTS))
    }
    return {name: averages.get(name, read) for name, read in weights.items()}


def is_willow(tensors: Tensors) -> bool:
    """Returns whether the names are those of a WILLOW model with two NetVLADs."""
    return any(name.startswith("video_VLAD/") for name in tensors.names)


def willow(tensors: Tensors) -> keras.Model:
    """Returns the `VideoClassifier` of a checkpoint of `NetVLADModelLF` with the mixture of experts `MoeModel`.

    The tensors determine the options: `input_bn` and `cluster_bn` (batch normalization), `cluster_weights2` (NetVLAD;
    without it, LightVLAD, which is NetRVLAD), `hidden1_bn` (a ReLU6), `gating_weights_2` (gating of features) and
    `gating_prob_weights` (gating of scores). With the settings of the winners, the result is the preset
    `gated_netvlad`. A checkpoint does not contain `gating_remove_diag`, which must be off, as in the winners' models.

    Args:
        tensors: Weights of the checkpoint, as `weights_of_checkpoint` returns them.

    Raises:
        ValueError: If the checkpoint is of another network.
    """
    has_centroids = any(name.endswith("cluster_weights2") for name in tensors.names)
    has_input = any(name.startswith("input_bn/") for name in tensors.names)
    has_normalization = any("/cluster_bn/" in name for name in tensors.names)
    has_relu = any(name.startswith("hidden1_bn/") for name in tensors.names)
    gates_features = any(name.startswith("gating_weights_2") for name in tensors.names)
    gates_scores = any(name.startswith("gating_prob_weights") for name in tensors.names)
    expected = ["hidden1_weights", "gates/weights", "experts/weights", "experts/biases"]
    expected += _normalization("hidden1_bn") if has_relu else ["hidden1_biases"]
    expected += _normalization("input_bn") if has_input else []
    expected += ["gating_weights_2", *_normalization("gating_bn")] if gates_features else []
    expected += ["gating_prob_weights", *_normalization("gating_prob_bn")] if gates_scores else []
    for scope in SCOPES.values():
        expected += [f"{scope}/cluster_weights"] + ([f"{scope}/cluster_weights2"] if has_centroids else [])
        expected += _normalization(f"{scope}/cluster_bn") if has_normalization else [f"{scope}/cluster_biases"]
    tensors.check_names(expected)

    kernels = {stream: tensors.read_of_rank(f"{scope}/cluster_weights", 2) for stream, scope in SCOPES.items()}
    hidden = tensors.read_of_rank("hidden1_weights", 2)
    gates, experts = tensors.read_of_rank("gates/weights", 2), tensors.read_of_rank("experts/weights", 2)
    num_classes, num_mixtures = _num_classes(gates, experts)
    model = VideoClassifier.from_preset(
        "gated_netvlad",
        num_classes,
        feature_sizes={stream: len(kernels[stream]) for stream in YOUTUBE_8M},
        num_clusters={stream: kernels[stream].shape[1] for stream in YOUTUBE_8M},
        pooling="netvlad" if has_centroids else "netrvlad",
        pooling_options={"assignment_batch_normalization": has_normalization},
        input_batch_normalization=has_input,
        hidden_units=hidden.shape[1],
        hidden_activation="relu6" if has_relu else None,
        hidden_batch_normalization=has_relu,
        gate_features=gates_features,
        gate_scores=gates_scores,
        num_mixtures=num_mixtures,
        name="willow_netvlad",
    )
    _assign_poolings(tensors, model, kernels, has_input)
    assign(model.get_layer("hidden").kernel, _reordered(hidden, kernels), "hidden1_weights")
    if has_relu:
        _assign_normalization(tensors, [model.get_layer("hidden_batch_normalization")], "hidden1_bn")
    else:
        assign(model.get_layer("hidden").bias, tensors.read("hidden1_biases"), "hidden1_biases")
    if gates_features:
        gating = model.get_layer("feature_gating")
        assign(gating.kernel, tensors.read("gating_weights_2"), "gating_weights_2")
        _assign_normalization(tensors, [gating.normalization], "gating_bn")
    classifier = model.get_layer("ungated_scores" if gates_scores else "scores")
    assign(classifier.gate_kernel, gates, "gates/weights")
    assign(classifier.expert_kernel, experts, "experts/weights")
    assign(classifier.expert_bias, tensors.read("experts/biases"), "experts/biases")
    if gates_scores:
        gating = model.get_layer("scores")
        assign(gating.kernel, tensors.read("gating_prob_weights"), "gating_prob_weights")
        _assign_normalization(tensors, [gating.normalization], "gating_prob_bn")
    return model


def _assign_poolings(tensors, model, kernels, has_input):
    if has_input:
        # The frames of both streams are normalized together, and then split.
        _assign_normalization(
            tensors, [model.get_layer(f"{stream}_batch_normalization") for stream in SCOPES], "input_bn"
        )
    for stream, scope in SCOPES.items():
        pooling = model.encoder.pooling_layers[stream]
        assign(pooling.kernel, kernels[stream], f"{scope}/cluster_weights")
        if f"{scope}/cluster_weights2" in tensors:
            centroids = tensors.read_of_rank(f"{scope}/cluster_weights2", 3)
            assign(pooling.centroids, centroids[0].T, f"{scope}/cluster_weights2")
        if f"{scope}/cluster_biases" in tensors:
            assign(pooling.bias, tensors.read(f"{scope}/cluster_biases"), f"{scope}/cluster_biases")
        else:
            _assign_normalization(tensors, [pooling.batch_normalization], f"{scope}/cluster_bn")


def _assign_normalization(tensors, layers, scope):
    """Assigns a batch normalization to one layer, or its parts to several layers that follow each other."""
    for part in BATCH_NORMALIZATION_NAMES:
        name = f"{scope}/{part}"
        value, variables = tensors.read_of_rank(name, 1), [getattr(layer, part) for layer in layers]
        ends = np.cumsum([variable.shape[0] for variable in variables])
        for variable, values in zip(variables, [*np.split(value, ends[:-1])], strict=True):
            assign(variable, values, name)


def _normalization(scope):
    return [f"{scope}/{part}" for part in BATCH_NORMALIZATION_NAMES]


def _reordered(hidden, kernels):
    """Returns the rows of the hidden layer in the order of this package, for each descriptor separately."""
    sizes = [kernel.size for kernel in kernels.values()]
    if len(hidden) != sum(sizes):
        raise ValueError(
            f"`hidden1_weights` must have {' + '.join(map(str, sizes))} rows, one for each value of the two "
            f"descriptors. Received: shape {hidden.shape}"
        )
    parts = np.split(hidden, [sizes[0]])
    return np.concatenate(
        [reorder_rows(part, *kernel.shape[::-1]) for part, kernel in zip(parts, kernels.values(), strict=True)]
    )


def _num_classes(gates, experts):
    """Returns the number of classes and of experts: there is one gate more than experts for each class."""
    num_classes = gates.shape[1] - experts.shape[1]
    if num_classes < 1 or experts.shape[1] % num_classes or not experts.shape[1]:
        raise ValueError(
            "`gates/weights` must have one column more for each class than `experts/weights`. Received: shapes "
            f"{gates.shape} and {experts.shape}"
        )
    return num_classes, experts.shape[1] // num_classes
