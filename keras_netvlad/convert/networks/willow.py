"""The winners of YouTube-8M 2017 and 2018: checkpoints of WILLOW and of Skalic & Austin (TensorFlow 1)."""

from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_netvlad.convert.networks.nextvlad import is_nextvlad
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

# The published code adds it to the squares of `covar_weights`, and NetFV to the squares of its deviations.
EPSILON = 1e-6


class Kind(NamedTuple):
    """A kind of pooling in the published code: the end of its scopes, and what its streams have.

    Attributes:
        preset: The preset with this pooling.
        scope: End of the name of the scopes.
        weights: Tensors of each stream besides the kernel and the assignment's offset.
        gates: Tensors of `rgb` that gate the counts.
    """

    preset: str
    scope: str
    weights: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()


KINDS = (
    Kind("gated_netvlad", "VLAD", ("cluster_weights2",)),
    Kind("gated_netrvlad", "VLAD"),
    Kind("gated_netfv", "FV", ("cluster_weights2", "covar_weights")),
    Kind("gated_soft_dbow", "DBOF", (), ("dim_red", "cluster_weights_2", *normalization_names("cluster_bn_2"))),
    Kind("soft_dbow", "DBOF"),
)


def is_willow(tensors: Tensors) -> bool:
    """Returns whether the names are those of a WILLOW model with a pooling of each stream."""
    scopes = tuple(f"{STREAMS['rgb']}_{kind.scope}/" for kind in KINDS)
    return any(name.startswith(scopes) for name in tensors.names) and not is_nextvlad(tensors)


def willow(tensors: Tensors) -> keras.Model:
    """Returns the `VideoClassifier` of a checkpoint of WILLOW's frame-level models.

    The scopes and tensors determine the pooling: `video_VLAD` (NetVLAD; without `cluster_weights2` LightVLAD, which is
    NetRVLAD), `video_FV` (NetFV), `video_DBOF` (Soft-DBoW; with `dim_red` Gated Soft-DBoW). They also determine the
    options: `input_bn` and `cluster_bn` (batch normalization), `hidden1_bn` (a ReLU6), `gating_weights_2` (gating of
    features), `gates` and `experts` (a mixture of experts, otherwise a logistic classifier) and `gating_prob_weights`
    (gating of scores). With the settings of the winners, the result is the preset. A checkpoint does not contain
    `gating_remove_diag`, which must be off, as in the winners' models.

    Args:
        tensors: Weights of the checkpoint, as `weights_of_checkpoint` returns them.

    Raises:
        ValueError: If the checkpoint is of another network, or NetFV has a `covar_weights` without an equal.
    """
    kind = _kind(tensors)
    scopes = {stream: f"{prefix}_{kind.scope}" for stream, prefix in STREAMS.items()}
    has_input, has_normalization, has_relu, gates_features, gates_scores = (
        any(part in f"/{name}" for name in tensors.names)
        for part in ("/input_bn/", "/cluster_bn/", "/hidden1_bn/", "/gating_weights_2", "/gating_prob_weights")
    )
    of_classifier = classifier_tensors(tensors.names)
    expected = ["hidden1_weights", *of_classifier.values()]
    expected += normalization_names("hidden1_bn") if has_relu else ["hidden1_biases"]
    expected += normalization_names("input_bn") if has_input else []
    expected += ["gating_weights_2", *normalization_names("gating_bn")] if gates_features else []
    expected += ["gating_prob_weights", *normalization_names("gating_prob_bn")] if gates_scores else []
    for stream, scope in scopes.items():
        expected += _pooling_names(kind, stream, scope, has_normalization)
    tensors.check_names(expected)

    kernels = {stream: tensors.read_of_rank(f"{scope}/cluster_weights", 2) for stream, scope in scopes.items()}
    hidden = tensors.read_of_rank("hidden1_weights", 2)
    classifier, weights = read_classifier(tensors, of_classifier)
    of_preset: Any = PRESETS[kind.preset]["pooling_options"]
    options = {
        stream: {**of_preset.get(stream, of_preset), "assignment_batch_normalization": has_normalization}
        for stream in STREAMS
    }
    model = VideoClassifier.from_preset(
        kind.preset,
        feature_sizes={stream: len(kernel) for stream, kernel in kernels.items()},
        num_clusters={stream: kernel.shape[1] for stream, kernel in kernels.items()},
        pooling_options=options,
        input_batch_normalization=has_input,
        hidden_units=hidden.shape[1],
        hidden_activation="relu6" if has_relu else None,
        hidden_batch_normalization=has_relu,
        gate_features=gates_features,
        gate_scores=gates_scores,
        **classifier,
        name=f"willow_{kind.preset.removeprefix('gated_')}",
    )
    if has_input:
        # The frames of both streams are normalized together, and then split.
        normalizations = [model.get_layer(f"{stream}_batch_normalization") for stream in STREAMS]
        assign_normalization(tensors, normalizations, "input_bn")
    for stream, scope in scopes.items():
        _assign_pooling(tensors, model.encoder.pooling_layers[stream], scope, kernels[stream])
    descriptors = [_parts(kind, *kernel.shape) for kernel in kernels.values()]
    assign(model.get_layer("hidden").kernel, reordered(hidden, descriptors, "hidden1_weights"), "hidden1_weights")
    if has_relu:
        assign_normalization(tensors, [model.get_layer("hidden_batch_normalization")], "hidden1_bn")
    else:
        assign(model.get_layer("hidden").bias, tensors.read("hidden1_biases"), "hidden1_biases")
    if gates_features:
        _assign_gating(tensors, model.get_layer("feature_gating"), "gating_weights_2", "gating_bn")
    assign_classifier(model, of_classifier, weights)
    if gates_scores:
        _assign_gating(tensors, model.get_layer("scores"), "gating_prob_weights", "gating_prob_bn")
    return model


def _kind(tensors: Tensors) -> Kind:
    """Returns the first kind of whose tensors the checkpoint has some. The check of the names lists missing ones."""
    leaves = {tuple(name.split("/", 1)) for name in tensors.names if "/" in name}

    def is_found(kind: Kind) -> bool:
        scope, further = f"{STREAMS['rgb']}_{kind.scope}", (*kind.weights, *kind.gates)
        of_scope = {name for prefix, name in leaves if prefix == scope}
        return bool(of_scope) and (not further or any(name in of_scope for name in further))

    return next((kind for kind in KINDS if is_found(kind)), KINDS[0])


def _pooling_names(kind: Kind, stream: str, scope: str, has_normalization: bool) -> list[str]:
    """Returns the names of the tensors of a pooling."""
    names = [f"{scope}/{name}" for name in ("cluster_weights", *kind.weights)]
    names += normalization_names(f"{scope}/cluster_bn") if has_normalization else [f"{scope}/cluster_biases"]
    return names + [f"{scope}/{name}" for name in kind.gates if stream == "rgb"]


def _parts(kind: Kind, size: int, num_clusters: int) -> list[tuple[int, int]]:
    """Returns the numbers of clusters and features of the parts of a descriptor: NetFV has two, counts one value."""
    if kind.scope == "DBOF":
        return [(num_clusters, 1)]
    return [(num_clusters, size)] * (2 if kind.scope == "FV" else 1)


def _assign_pooling(tensors: Tensors, layer: Any, scope: str, kernel: NDArray[np.float64]) -> None:
    assign(layer.kernel, kernel, f"{scope}/cluster_weights")
    if f"{scope}/cluster_biases" in tensors:
        assign(layer.bias, tensors.read(f"{scope}/cluster_biases"), f"{scope}/cluster_biases")
    else:
        assign_normalization(tensors, [layer.batch_normalization], f"{scope}/cluster_bn")
    if (name := f"{scope}/cluster_weights2") in tensors:
        assign(layer.centroids, tensors.read_of_rank(name, 3)[0].T, name)
    if (name := f"{scope}/covar_weights") in tensors:
        assign(layer.deviations, _deviations(name, tensors.read_of_rank(name, 2)).T, name)
    if (name := f"{scope}/dim_red") in tensors:
        assign(layer.reduction_kernel, tensors.read(name), name)
        assign(layer.gate_kernel, tensors.read(f"{scope}/cluster_weights_2"), f"{scope}/cluster_weights_2")
        assign_normalization(tensors, [layer.gate_batch_normalization], f"{scope}/cluster_bn_2")


def _deviations(name: str, covar_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the `deviations` `d` of NetFV with which it divides by the same numbers as the published code.

    The code divides by `w^2 + 1e-6`, NetFV by `sqrt(d^2 + 1e-6)`, so that `d = sqrt((w^2 + 1e-6)^2 - 1e-6)`.
    """
    squares = (covar_weights**2 + EPSILON) ** 2 - EPSILON
    if squares.min(initial=0.0) < 0:
        places = np.argwhere(squares < 0)
        first = ", ".join(f"{covar_weights[d, k]:.3g} of feature {d} and cluster {k}" for d, k in places[:3])
        raise ValueError(
            f"`{name}` must have absolute values of at least 0.0317, because NetFV divides by at least 0.001 and the "
            f"published code would divide by less; take another checkpoint. Received: {len(places)} smaller values, "
            f"such as {first}"
        )
    return np.sqrt(squares)


def _assign_gating(tensors: Tensors, layer: Any, kernel: str, scope: str) -> None:
    assign(layer.kernel, tensors.read(kernel), kernel)
    assign_normalization(tensors, [layer.normalization], scope)
