"""Weights for the presets and for their published code: from a seed, by the names of the published code.

The published code names its variables, such as `tower/video_VLAD/cluster_weights`. `published_weights` draws the value
of a variable from its name and shape, so that names and shapes are enough to repeat a comparison.
"""

import zlib

import numpy as np

# Streams by the names of their scopes: `video_VLAD`, `audio_FV`, `video_DBOF`.
STREAMS = {"rgb": "video", "audio": "audio"}


def published_weights(name, shape):
    """Returns the value `shape` of the variable `name`, float32."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype("float32")
    leaf = name.split("/")[-1]
    if leaf in ("gamma", "moving_variance"):
        return np.abs(draw) * np.float32(0.2) + np.float32(0.8)
    if leaf in ("beta", "biases", "hidden1_biases", "moving_mean"):
        return draw * np.float32(0.1)
    if leaf == "covar_weights":
        return 1 + draw / np.sqrt(np.float32(shape[0]))
    return draw / np.sqrt(np.float32(shape[-2]))


def load_published_weights(model, values):
    """Sets the weights of a preset to those of its published code.

    Args:
        model: `VideoClassifier` of a preset, with the streams `rgb` and `audio`.
        values: Dict of arrays by the names of the published code. Each array must be used.
    """
    unused = dict(values)

    def take(name):
        return unused.pop(name)

    def assign(variable, value):
        variable.assign(np.ascontiguousarray(value))

    def assign_normalization(layer, scope, part=slice(None)):
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            assign(getattr(layer, name), values[f"{scope}/{name}"][part])
            unused.pop(f"{scope}/{name}", None)

    start = 0
    rows = []
    for stream, size in model.feature_sizes.items():
        layer = model.encoder.pooling_layers[stream]
        scope = next(name for name in values if name.startswith(f"tower/{STREAMS[stream]}_")).rsplit("/", 1)[0]
        scope = "/".join(scope.split("/")[:2])
        if model.input_batch_normalization:
            normalization = model.get_layer(f"{stream}_batch_normalization")
            assign_normalization(normalization, "tower/input_bn", slice(start, start + size))
        start += size
        assign(layer.kernel, take(f"{scope}/cluster_weights"))
        assign_normalization(layer.batch_normalization, f"{scope}/cluster_bn")
        if f"{scope}/cluster_weights2" in unused:
            assign(layer.centroids, take(f"{scope}/cluster_weights2")[0].T)
        if f"{scope}/covar_weights" in unused:
            # The published code divides by w^2 + 1e-6, NetFV by the root of d^2 + 1e-6.
            deviations = take(f"{scope}/covar_weights").astype("float64") ** 2 + 1e-6
            assign(layer.deviations, np.sqrt(deviations**2 - 1e-6).T)
        if f"{scope}/dim_red" in unused:
            assign(layer.reduction_kernel, take(f"{scope}/dim_red"))
            assign(layer.gate_kernel, take(f"{scope}/cluster_weights_2"))
            assign_normalization(layer.gate_batch_normalization, f"{scope}/cluster_bn_2")
        if f"{scope}/fully_connected/weights" in unused:
            assign(layer.expansion_kernel, take(f"{scope}/fully_connected/weights"))
            assign(layer.expansion_bias, take(f"{scope}/fully_connected/biases"))
            assign(layer.attention_kernel, take(f"{scope}/fully_connected_1/weights"))
            assign(layer.attention_bias, take(f"{scope}/fully_connected_1/biases"))
        rows.append(_rows(model.pooling, layer))
    lengths = [len(order) for order in rows]
    order = np.concatenate([rows[0], lengths[0] + rows[1]])
    if model.descriptor_batch_normalization:
        normalization = model.get_layer("descriptor_batch_normalization")
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            both = [take(f"tower/{video}_VLAD/vlad_bn/{name}") for video in STREAMS.values()]
            assign(getattr(normalization, name), np.concatenate(both)[order])
    hidden = model.get_layer("hidden")
    assign(hidden.kernel, take("tower/hidden1_weights")[order])
    if model.hidden_batch_normalization:
        assign_normalization(model.get_layer("hidden_batch_normalization"), "tower/hidden1_bn")
    else:
        assign(hidden.bias, take("tower/hidden1_biases"))
    if model.gate_features:
        gating = model.get_layer("feature_gating")
        if gating.reduction is not None:
            assign(gating.reduction_kernel, take("tower/gating_weights_1"))
        assign(gating.kernel, take("tower/gating_weights_2"))
        assign_normalization(gating.normalization, "tower/gating_bn")
    classifier = model.get_layer("ungated_scores" if model.gate_scores else "scores")
    if model.num_mixtures is None:
        assign(classifier.kernel, take("tower/fully_connected/weights"))
        assign(classifier.bias, take("tower/fully_connected/biases"))
    else:
        assign(classifier.gate_kernel, take("tower/gates/weights"))
        assign(classifier.expert_kernel, take("tower/experts/weights"))
        assign(classifier.expert_bias, take("tower/experts/biases"))
    if model.gate_scores:
        gating = model.get_layer("scores")
        assign(gating.kernel, take("tower/gating_prob_weights"))
        assign_normalization(gating.normalization, "tower/gating_prob_bn")
    assert not unused, sorted(unused)


def _rows(pooling, layer):
    """Returns, for each value of a descriptor, its place in the published one, whose residuals are feature-major."""
    clusters = layer.num_clusters
    if pooling == "soft_dbow":
        return np.arange(clusters)
    size = layer.feature_size if pooling != "nextvlad" else layer.expansion * layer.feature_size // layer.groups
    order = np.arange(clusters * size).reshape(size, clusters).T.ravel()
    return np.concatenate([order, clusters * size + order]) if pooling == "netfv" else order
