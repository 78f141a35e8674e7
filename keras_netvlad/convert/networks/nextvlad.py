"""NeXtVLAD of Lin et al. 2018: checkpoints of their code for YouTube-8M (TensorFlow 1)."""

from typing import Any

import keras
import numpy as np

from keras_netvlad.convert.networks.tensors import Tensors, assign
from keras_netvlad.convert.networks.youtube8m import (
    STREAMS,
    assign_classifier,
    assign_normalization,
    classifier_tensors,
    normalization_names,
    read_classifier,
    reordered,
)
from keras_netvlad.models.presets import PRESETS
from keras_netvlad.models.video_classifier import VideoClassifier

SCOPES = {stream: f"{prefix}_VLAD" for stream, prefix in STREAMS.items()}
# Tensors of a pooling by the name of their weight.
POOLING = {
    "expansion_kernel": "fully_connected/weights",
    "expansion_bias": "fully_connected/biases",
    "attention_kernel": "fully_connected_1/weights",
    "attention_bias": "fully_connected_1/biases",
    "kernel": "cluster_weights",
    "centroids": "cluster_weights2",
}


def is_nextvlad(tensors: Tensors) -> bool:
    """Returns whether the names are those of `NeXtVLADModel`, which expands features before their assignment."""
    return any(name.startswith(f"{SCOPES['rgb']}/fully_connected") for name in tensors.names)


def nextvlad(tensors: Tensors) -> keras.Model:
    """Returns the `VideoClassifier` of a checkpoint of `NeXtVLADModel`, with the settings of the preset `nextvlad`.

    The shapes determine the number of groups, the expansion, the clusters and the widths, and the names the classifier:
    `LogisticModel`, as published, or `MoeModel`.

    Args:
        tensors: Weights of the checkpoint, as `weights_of_checkpoint` returns them.

    Raises:
        ValueError: If the checkpoint is of another network.
    """
    of_classifier = classifier_tensors(tensors.names)
    expected = ["hidden1_weights", *normalization_names("hidden1_bn"), *of_classifier.values()]
    expected += ["gating_weights_1", "gating_weights_2", *normalization_names("gating_bn")]
    for scope in SCOPES.values():
        expected += [f"{scope}/{name}" for name in POOLING.values()]
        expected += [*normalization_names(f"{scope}/cluster_bn"), *normalization_names(f"{scope}/vlad_bn")]
    tensors.check_names(expected)

    poolings = {stream: _read_pooling(tensors, scope) for stream, scope in SCOPES.items()}
    hidden, reduction = tensors.read_of_rank("hidden1_weights", 2), tensors.read_of_rank("gating_weights_1", 2)
    classifier, weights = read_classifier(tensors, of_classifier)
    model = VideoClassifier.from_preset(
        "nextvlad",
        feature_sizes={stream: len(pooling["expansion_kernel"]) for stream, pooling in poolings.items()},
        num_clusters={stream: len(pooling["centroids"]) for stream, pooling in poolings.items()},
        pooling_options={stream: _options(pooling, stream) for stream, pooling in poolings.items()},
        hidden_units=hidden.shape[1],
        gating_reduction=max(hidden.shape[1] // max(reduction.shape[1], 1), 1),
        **classifier,
    )
    for stream, scope in SCOPES.items():
        layer: Any = model.encoder.pooling_layers[stream]
        for weight, value in poolings[stream].items():
            assign(getattr(layer, weight), value, f"{scope}/{POOLING[weight]}")
        assign_normalization(tensors, [layer.batch_normalization], f"{scope}/cluster_bn")
    descriptors = [[pooling["centroids"].shape] for pooling in poolings.values()]
    assign(model.get_layer("hidden").kernel, reordered(hidden, descriptors, "hidden1_weights"), "hidden1_weights")
    _assign_descriptor_normalization(tensors, model.get_layer("descriptor_batch_normalization"), descriptors)
    assign_normalization(tensors, [model.get_layer("hidden_batch_normalization")], "hidden1_bn")
    gating = model.get_layer("feature_gating")
    assign(gating.reduction_kernel, reduction, "gating_weights_1")
    assign(gating.kernel, tensors.read("gating_weights_2"), "gating_weights_2")
    assign_normalization(tensors, [gating.normalization], "gating_bn")
    assign_classifier(model, of_classifier, weights)
    return model


def _read_pooling(tensors: Tensors, scope: str) -> dict[str, Any]:
    """Returns the weights of a pooling by name, with centroids `(K, S)`."""
    ranks = {name: 1 if name.endswith("biases") else 2 for name in POOLING.values()} | {POOLING["centroids"]: 3}
    pooling = {weight: tensors.read_of_rank(f"{scope}/{name}", ranks[name]) for weight, name in POOLING.items()}
    pooling["centroids"] = pooling["centroids"][0].T
    return pooling


def _options(pooling: dict[str, Any], stream: str) -> dict[str, Any]:
    """Returns the options of a pooling, those of the preset with the groups and the expansion of the checkpoint."""
    size, expanded = pooling["expansion_kernel"].shape
    groups = pooling["attention_kernel"].shape[1]
    return {**PRESETS["nextvlad"]["pooling_options"][stream], "groups": groups, "expansion": expanded // max(size, 1)}


def _assign_descriptor_normalization(tensors: Tensors, layer: Any, descriptors: Any) -> None:
    """Assigns the batch normalizations of the two descriptors, `vlad_bn`, to that of the joined descriptor."""
    for name in normalization_names("vlad_bn"):
        joined = np.concatenate([tensors.read_of_rank(f"{scope}/{name}", 1) for scope in SCOPES.values()])
        part = name.split("/")[-1]
        assign(getattr(layer, part), reordered(joined, descriptors, name), name)
