"""The oracle: the equations of NetVLAD as float64 NumPy loops, and nothing fast."""

import numpy as np

# Shorter vectors have no direction: normalized, they are zero.
SMALLEST_NORM = 1e-12


def netvlad(
    inputs,
    kernel,
    centroids,
    bias=None,
    mask=None,
    batch_normalization=None,
    normalize_input=False,
    intra_normalization=True,
    output_normalization=True,
    channels_first=False,
):
    """Returns the descriptor `(B, K * D)`, cluster-major.

    Args:
        inputs: `(B, N, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`; maps with `D` before `H` if `channels_first`.
        kernel: `(D, K + G)` or `(1, 1, D, K + G)`, of which the last `G` columns are ghosts.
        centroids: `(K, D)`.
        bias: `(K + G,)`, or `None` for no bias.
        mask: `None`, or booleans or weights over frames or positions.
        batch_normalization: `None`; or `gamma`, `beta`, `mean`, `variance`, `(K + G,)` each, and `epsilon`.
    """
    first, second = sums(
        inputs, kernel, len(centroids), bias, mask, batch_normalization, normalize_input, channels_first
    )
    return describe(first, second, centroids, intra_normalization, output_normalization)


def sums(
    inputs,
    kernel,
    num_clusters,
    bias=None,
    mask=None,
    batch_normalization=None,
    normalize_input=False,
    channels_first=False,
):
    """Returns `A` `(B, K, D)`, the sum of a[n, k] x[n], and `M` `(B, K)`, the sum of a[n, k]."""
    x, weights = flatten(inputs, mask, channels_first)
    a = assignments(inputs, kernel, num_clusters, bias, mask, batch_normalization, normalize_input, channels_first)
    batch, num_descriptors, size = x.shape
    first, second = np.zeros((batch, num_clusters, size)), np.zeros((batch, num_clusters))
    for b in range(batch):
        for n in range(num_descriptors):
            if weights[b, n] == 0:
                continue
            descriptor = normalized(x[b, n]) if normalize_input else x[b, n]
            for k in range(num_clusters):
                first[b, k] += a[b, n, k] * descriptor
                second[b, k] += a[b, n, k]
    return first, second


def assignments(
    inputs,
    kernel,
    num_clusters,
    bias=None,
    mask=None,
    batch_normalization=None,
    normalize_input=False,
    channels_first=False,
):
    """Returns `a` `(B, N, K)`: softmax over clusters and ghosts, times the weight, ghosts dropped."""
    x, weights = flatten(inputs, mask, channels_first)
    kernel = np.asarray(kernel, "float64")
    kernel = kernel.reshape(kernel.shape[-2:])
    a = np.zeros((*x.shape[:2], num_clusters))
    for b in range(x.shape[0]):
        for n in range(x.shape[1]):
            if weights[b, n] == 0:
                continue
            descriptor = normalized(x[b, n]) if normalize_input else x[b, n]
            logits = descriptor @ kernel
            if batch_normalization is not None:
                gamma, beta, mean, variance, epsilon = (np.asarray(v, "float64") for v in batch_normalization)
                logits = gamma * (logits - mean) / np.sqrt(variance + epsilon) + beta
            elif bias is not None:
                logits = logits + np.asarray(bias, "float64")
            exponentials = np.exp(logits - logits.max())
            a[b, n] = weights[b, n] * (exponentials / exponentials.sum())[:num_clusters]
    return a


def describe(first, second, centroids, intra_normalization=True, output_normalization=True):
    """Returns the descriptor `(B, K * D)` of the two sums."""
    centroids = np.asarray(centroids, "float64")
    rows = []
    for b in range(len(first)):
        blocks = []
        for k in range(len(centroids)):
            block = first[b, k] - second[b, k] * centroids[k]
            blocks.append(normalized(block) if intra_normalization else block)
        row = np.concatenate(blocks)
        rows.append(normalized(row) if output_normalization else row)
    return np.stack(rows)


def netfv(
    first,
    second,
    squares,
    centroids,
    deviations,
    intra_normalization=True,
    output_normalization=True,
    separate_orders=False,
):
    """Returns the Fisher vector `(B, 2 * K * D)` of the assigned sums of x, of 1 and of x^2."""
    variances = np.asarray(deviations, "float64") ** 2 + 1e-6
    rows = []
    for b in range(len(first)):
        blocks = []
        for k, c in enumerate(np.asarray(centroids, "float64")):
            blocks.append((first[b, k] - second[b, k] * c) / np.sqrt(variances[k]))
        for k, c in enumerate(np.asarray(centroids, "float64")):
            spread = squares[b, k] - 2 * c * first[b, k] + second[b, k] * c**2
            blocks.append(spread / variances[k] - second[b, k])
        num_clusters = len(blocks) // 2
        orders = [blocks[:num_clusters], blocks[num_clusters:]]
        if intra_normalization:
            orders[0] = [normalized(block) for block in orders[0]]
            orders[1] = orders[1] if separate_orders else [normalized(block) for block in orders[1]]
        orders = [np.concatenate(order) for order in orders]
        if output_normalization and separate_orders:
            orders = [normalized(order) for order in orders]
        row = np.concatenate(orders)
        rows.append(normalized(row) if output_normalization and not separate_orders else row)
    return np.stack(rows)


def soft_dbow(second, output_normalization=True, gates=None):
    """Returns the soft counts `(B, K)` of clusters, multiplied by gates `(B, K)` if there are any."""
    counts = second if gates is None else second * gates
    return np.stack([normalized(row) if output_normalization else row for row in counts])


def count_gates(a, reduction_kernel, gate_kernel, batch_normalization):
    """Returns the gates `(B, K)` of assignments `(B, N, K)`, from the largest assignment to each cluster."""
    rows = []
    for assigned in a:
        largest = normalized(np.array([max(column, default=0.0) for column in assigned.T]))
        logits = _batch_normalized(largest @ reduction_kernel @ gate_kernel, batch_normalization)
        rows.append(1 / (1 + np.exp(-logits)))
    return np.stack(rows)


def nextvlad(inputs, weights, groups, mask=None, intra_normalization=True, output_normalization=True):
    """Returns the descriptor `(B, K * lambda * D / G)`, cluster-major.

    Args:
        inputs: `(B, N, D)`, or maps.
        weights: Dict of arrays by the names of `NeXtVLAD`'s weights, and `batch_normalization`: `None`, or `gamma`,
            `beta`, `mean`, `variance`, `(G * K,)` each, and `epsilon`. A bias that is not there is 0.
        groups: `G`.
        mask: As of `netvlad`.
    """
    x, presence = flatten(inputs, mask)
    centroids = np.asarray(weights["centroids"], "float64")
    num_clusters, size = centroids.shape
    first, second = np.zeros((len(x), num_clusters, size)), np.zeros((len(x), num_clusters))
    for b in range(x.shape[0]):
        for n in range(x.shape[1]):
            if presence[b, n] == 0:
                continue
            expanded = x[b, n] @ weights["expansion_kernel"] + weights.get("expansion_bias", 0.0)
            attention = 1 / (1 + np.exp(-(expanded @ weights["attention_kernel"] + weights.get("attention_bias", 0.0))))
            logits = expanded @ weights["kernel"] + weights.get("bias", 0.0)
            logits = _batch_normalized(logits, weights["batch_normalization"])
            for g in range(groups):
                exponentials = np.exp(logits[g * num_clusters : (g + 1) * num_clusters])
                for k in range(num_clusters):
                    share = presence[b, n] * attention[g] * exponentials[k] / exponentials.sum()
                    first[b, k] += share * expanded[g * size : (g + 1) * size]
                    second[b, k] += share
    return describe(first, second, centroids, intra_normalization, output_normalization)


def salad(inputs, weights, iterations, mask=None, output_normalization=True, token=None):
    """Returns SALAD's descriptor `(B, T + K * L)`: Sinkhorn's scaling of rows and columns, not of logarithms.

    Args:
        inputs: `(B, N, D)`, or maps.
        weights: Dict of arrays by the names of `SALAD`'s weights.
        iterations: Number of iterations.
        mask: As of `netvlad`.
        output_normalization: Whether the descriptor has unit norm.
        token: `(B, D)` or `None`.
    """

    def perceptron(name, x):
        hidden = x @ weights[f"{name}_hidden_kernel"] + weights[f"{name}_hidden_bias"]
        return np.maximum(hidden, 0.0) @ weights[f"{name}_kernel"] + weights.get(f"{name}_bias", 0.0)

    rows = []
    for b, (x, presence) in enumerate(zip(*flatten(inputs, mask), strict=True)):
        x, presence = x[presence > 0], presence[presence > 0]
        scores, features, number = perceptron("score", x), perceptron("feature", x), presence.sum()
        num_clusters = scores.shape[1]
        if number > num_clusters:
            shares = np.array([1.0] * num_clusters + [number - num_clusters])
        if number <= num_clusters + 1:
            shares = np.full(num_clusters + 1, number / (num_clusters + 1))
        plan = np.exp(np.hstack([scores, np.ones((len(x), 1))]))
        of_features = presence
        for _ in range(iterations):
            of_clusters = shares / np.maximum(of_features @ plan, 1e-300)
            of_features = presence / (plan @ of_clusters)
        plan = of_features[:, None] * plan * of_clusters
        blocks = [normalized(plan[:, k] @ features) for k in range(num_clusters)]
        blocks = blocks if token is None else [normalized(perceptron("token", token[b])), *blocks]
        row = np.concatenate(blocks)
        rows.append(normalized(row) if output_normalization else row)
    return np.stack(rows)


def simple_pooling(kind, inputs, mask=None, kernel=None, hidden_kernel=None, exponent=None, epsilon=None):
    """Returns `"mean"`, `"mean_std"`, `"max"`, `"gem"` or `"attention"` pooling `(B, F)` of `(B, N, D)` or maps."""
    rows = []
    for x, weights in zip(*flatten(inputs, mask), strict=True):
        x, weights = x[weights > 0], weights[weights > 0]
        if not len(x):
            heads = 1 if kernel is None else kernel.shape[1]
            rows.append(np.zeros(x.shape[1] * {"mean_std": 2}.get(kind, heads)))
        elif kind == "max":
            rows.append(x.max(axis=0))
        elif kind == "gem":
            rows.append(np.average(np.maximum(x, epsilon) ** exponent, axis=0, weights=weights) ** (1 / exponent))
        elif kind == "attention":
            features = x if hidden_kernel is None else np.tanh(x @ hidden_kernel)
            exponentials = weights[:, None] * np.exp(features @ kernel)
            rows.append(np.concatenate([np.average(x, axis=0, weights=column) for column in exponentials.T]))
        else:
            mean = np.average(x, axis=0, weights=weights)
            deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights))
            rows.append(np.concatenate([mean, deviation]) if kind == "mean_std" else mean)
    return np.stack(rows)


def video_classifier(model, streams, num_frames):
    """Returns `scores` `(B, C)` and `descriptor` `(B, sum of K * D)` of a `VideoClassifier`.

    Args:
        model: The `VideoClassifier` whose weights are taken.
        streams: Dict from the name of each stream to its frames `(B, T, D)`; beyond `num_frames` they may hold
            anything.
        num_frames: `(B,)` integers.
    """
    descriptors, features = [], {}
    for name in model.feature_sizes:
        mask = np.arange(streams[name].shape[1]) < np.asarray(num_frames)[:, None]
        frames = streams[name] * (4 / 255) + 4 / 512 - 2 if model.stream_dtype == "uint8" else streams[name]
        features[name] = np.where(mask[:, :, None], frames, 0.0)
    if model.joint_input_normalization:
        sizes = [frames.shape[2] for frames in features.values()]
        joint = np.apply_along_axis(normalized, 2, np.concatenate(list(features.values()), axis=2))
        features = dict(zip(features, np.split(joint, np.cumsum(sizes)[:-1], axis=2), strict=True))
    for name, frames in features.items():
        if model.input_batch_normalization:
            frames = _batch_normalized(frames, _moments(model.get_layer(f"{name}_batch_normalization")))
        layer = model.get_layer(f"{name}_{model.pooling}")
        descriptors.append(pooled(layer, frames, mask))
    descriptor = np.concatenate(descriptors, axis=1)
    features = descriptor
    if model.descriptor_normalization:
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    if model.descriptor_batch_normalization:
        features = _batch_normalized(features, _moments(model.get_layer("descriptor_batch_normalization")))
    if model.hidden_units is not None:
        features = _dense(model.get_layer("hidden"), features)
        if model.hidden_batch_normalization:
            features = _batch_normalized(features, _moments(model.get_layer("hidden_batch_normalization")))
        features = {None: features, "relu": np.maximum(features, 0), "tanh": np.tanh(features)}[model.hidden_activation]
    if model.gate_features:
        features = context_gating(features, **gating_options_of(model.get_layer("feature_gating")))
    classifier = model.get_layer("ungated_scores" if model.gate_scores else "scores")
    if model.num_mixtures is not None:
        weights = {weight.name: _array(weight) for weight in classifier.weights}
        scores = mixture_of_experts(features, num_mixtures=model.num_mixtures, **weights)
    else:
        logits = _dense(classifier, features)
        if model.activation == "sigmoid":
            scores = 1 / (1 + np.exp(-logits))
        else:
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores = exponentials / exponentials.sum(axis=1, keepdims=True)
    if model.gate_scores:
        scores = context_gating(scores, **gating_options_of(model.get_layer("scores")))
    return {"scores": scores, "descriptor": descriptor}


def context_gating(inputs, kernel, bias=None, batch_normalization=None, reduction_kernel=None, reduction_bias=None):
    """Returns `x * sigmoid(...)` of rows `(B, D)`.

    Args:
        inputs: `(B, D)`.
        kernel: `(D, D)`, or `(D // r, D)` behind a reduction.
        bias: `(D,)` or `None`.
        batch_normalization: `None`; or `gamma`, `beta`, `mean`, `variance` and `epsilon`, of the logits or, if there is
            a reduction, of what is before its ReLU.
        reduction_kernel: `(D, D // r)` or `None`.
        reduction_bias: `(D // r,)` or `None`.
    """
    rows = []
    for x in np.asarray(inputs, "float64"):
        logits = x
        if reduction_kernel is not None:
            logits = logits @ reduction_kernel + (0.0 if reduction_bias is None else reduction_bias)
            logits = np.maximum(_batch_normalized(logits, batch_normalization), 0.0) @ kernel
        else:
            logits = _batch_normalized(logits @ kernel, batch_normalization)
        logits = logits + (0.0 if bias is None else bias)
        rows.append(x / (1 + np.exp(-logits)))
    return np.stack(rows)


def mixture_of_experts(inputs, gate_kernel, expert_kernel, expert_bias, num_mixtures, gate_bias=None):
    """Returns scores `(B, C)` of rows `(B, D)`; kernels are class-major, the dummy is each class's last gate."""
    inputs = np.asarray(inputs, "float64")
    num_classes = len(expert_bias) // num_mixtures
    scores = np.zeros((len(inputs), num_classes))
    for b, x in enumerate(inputs):
        for c in range(num_classes):
            gates = []
            for m in range(num_mixtures + 1):
                column = c * (num_mixtures + 1) + m
                gates.append(np.exp(x @ gate_kernel[:, column] + (0.0 if gate_bias is None else gate_bias[column])))
            for m in range(num_mixtures):
                column = c * num_mixtures + m
                expert = 1 / (1 + np.exp(-(x @ expert_kernel[:, column] + expert_bias[column])))
                scores[b, c] += gates[m] / sum(gates) * expert
    return scores


def pooled(layer, inputs, mask=None):
    """Returns what a built pooling layer, of any of the package's classes with float weights, gives."""
    kind = type(layer).__name__
    weights = {weight.name: _array(weight) for weight in layer.weights}
    if kind in ("MeanPooling", "MeanStdPooling", "MaxPooling", "GeMPooling", "AttentionPooling"):
        x, presence = flatten(inputs, mask, layer.data_format == "channels_first")
        if layer.normalize_input:
            x = np.apply_along_axis(normalized, 2, np.where(presence[..., None] > 0, x, 0.0))
        if kind == "GeMPooling":
            weights["epsilon"] = layer.epsilon
        kind = {
            "MeanPooling": "mean",
            "MeanStdPooling": "mean_std",
            "MaxPooling": "max",
            "GeMPooling": "gem",
            "AttentionPooling": "attention",
        }[kind]
        return simple_pooling(kind, x, presence, **weights)
    norms = {"output_normalization": layer.output_normalization}
    if kind == "SALAD":
        x, presence = flatten(inputs, mask, layer.data_format == "channels_first")
        if layer.normalize_input:
            x = np.apply_along_axis(normalized, 2, np.where(presence[..., None] > 0, x, 0.0))
        return salad(x, weights, layer.iterations, presence, **norms)
    if kind != "SoftDBoW":
        norms["intra_normalization"] = layer.intra_normalization
    if kind == "NeXtVLAD":
        weights["batch_normalization"] = None
        if layer.assignment_batch_normalization:
            weights["batch_normalization"] = assignment_options_of(layer)["batch_normalization"]
        return nextvlad(inputs, weights, layer.groups, mask, **norms)
    options = assignment_options_of(layer)
    first, second = sums(inputs, layer.kernel, layer.num_clusters, mask=mask, **options)
    if kind == "SoftDBoW" and layer.gate_counts:
        a = assignments(inputs, layer.kernel, layer.num_clusters, mask=mask, **options)
        kernels = _array(layer.reduction_kernel), _array(layer.gate_kernel)
        norms["gates"] = count_gates(a, *kernels, _moments(layer.gate_batch_normalization))
    if kind == "SoftDBoW":
        return soft_dbow(second, **norms)
    if kind == "NetRVLAD":
        return describe(first, second, np.zeros((layer.num_clusters, first.shape[2])), **norms)
    if kind == "NetVLAD":
        return describe(first, second, layer.centroids, **norms)
    a = assignments(inputs, layer.kernel, layer.num_clusters, mask=mask, **options)
    x, presence = flatten(inputs, mask, layer.data_format == "channels_first")
    squares = np.einsum("bnk,bnd->bkd", a, np.where(presence[..., None] > 0, x, 0.0) ** 2)
    norms["separate_orders"] = layer.separate_orders
    return netfv(first, second, squares, _array(layer.centroids), _array(layer.deviations), **norms)


def flatten(inputs, mask=None, channels_first=False):
    """Returns descriptors `(B, N, D)` and weights `(B, N)`, frame by frame, row by row."""
    inputs = np.asarray(inputs, "float64")
    if channels_first and inputs.ndim > 3:
        inputs = np.moveaxis(inputs, -3, -1)
    positions = inputs.shape[1:-1]
    weights = np.ones(inputs.shape[:-1]) if mask is None else np.asarray(mask, "float64")
    if weights.ndim == 2 and inputs.ndim == 5:
        weights = np.stack([[np.full(positions[1:], w) for w in row] for row in weights])
    return inputs.reshape(len(inputs), -1, inputs.shape[-1]), weights.reshape(len(inputs), -1)


def normalized(vector):
    """Returns `vector / ||vector||`, or zeros where there is no direction."""
    norm = np.sqrt(np.sum(vector**2))
    return vector / norm if norm > SMALLEST_NORM else np.zeros_like(vector)


def batch_statistics(inputs, kernel, mask=None):
    """Returns mean and variance `(K + G,)` of the logits of the descriptors that the mask leaves in."""
    x, weights = flatten(inputs, mask)
    kernel = np.asarray(kernel, "float64")
    logits = x[weights > 0] @ kernel.reshape(kernel.shape[-2:])
    return logits.mean(axis=0), logits.var(axis=0)


def options_of(layer):
    """Returns what `netvlad` takes beside inputs and mask, read off a built `NetVLAD` layer."""
    return {
        "kernel": _array(layer.kernel),
        "centroids": _array(layer.centroids),
        **assignment_options_of(layer),
        "intra_normalization": layer.intra_normalization,
        "output_normalization": layer.output_normalization,
    }


def assignment_options_of(layer):
    """Returns what `sums` and `assignments` take beside inputs, mask, kernel and number of clusters."""
    normalization = None
    if layer.assignment_batch_normalization:
        inner = layer.batch_normalization
        beta = _array(inner.beta) if layer.use_bias else 0.0
        moments = _array(inner.moving_mean), _array(inner.moving_variance)
        normalization = (_array(inner.gamma), beta, *moments, inner.epsilon)
    has_bias = layer.use_bias and not layer.assignment_batch_normalization
    return {
        "bias": _array(layer.bias) if has_bias else None,
        "batch_normalization": normalization,
        "normalize_input": layer.normalize_input,
        "channels_first": layer.data_format == "channels_first",
    }


def gating_options_of(layer):
    """Returns what `context_gating` takes beside inputs, read off a built `ContextGating` layer."""
    values = {weight.name: _array(weight) for weight in layer.weights}
    names = ("kernel", "bias", "reduction_kernel", "reduction_bias")
    normalization = _moments(layer.normalization) if layer.batch_normalization else None
    return {**{name: values.get(name) for name in names}, "batch_normalization": normalization}


def _moments(layer):
    """Gamma, beta, mean, variance and epsilon of a built `BatchNormalization` layer."""
    return *map(_array, (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)), layer.epsilon


def _batch_normalized(values, batch_normalization):
    if batch_normalization is None:
        return values
    gamma, beta, mean, variance, epsilon = batch_normalization
    return gamma * (values - mean) / np.sqrt(variance + epsilon) + beta


def _dense(layer, inputs):
    return inputs @ _array(layer.kernel) + (_array(layer.bias) if layer.use_bias else 0.0)


def _array(variable):
    return variable.numpy().astype("float64")
