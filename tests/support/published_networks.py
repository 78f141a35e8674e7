"""Published networks with NetVLAD in plain NumPy and float64, with random weights in the format of their files."""

import numpy as np

# Channels of the 13 convolutions of VGG16, each a 64th of the published.
SMALL_VGG16 = (2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6)
POOLED = (1, 3, 6, 9)  # convolutions that a pooling follows
NUM_CLUSTERS = 3


def draw(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng([seed, *shape]).normal(size=shape)).astype("float32")


def unit(x, axis):
    return x / np.sqrt(np.maximum(np.sum(np.square(x), axis=axis, keepdims=True), 1e-24))


def softmax(x):
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def convolution(x, kernel, bias):
    """A 3x3 convolution of `(B, H, W, I)` with kernel `(3, 3, I, O)`, with zeros around the map."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)]
    return sum(shifted) + bias


def pooling(x):
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.max(axis=(2, 4))


def small_vgg16(seed=0):
    """Kernels `(3, 3, I, O)` and biases of VGG16 at small widths."""
    inputs = (3, *SMALL_VGG16[:-1])
    return [
        (draw(3, 3, i, o, seed=seed + n, scale=(2 / (9 * i)) ** 0.5), draw(o, seed=seed + n, scale=0.1))
        for n, (i, o) in enumerate(zip(inputs, SMALL_VGG16, strict=True))
    ]


def vgg16_maps(weights, x):
    """Maps of conv5_3, before its ReLU."""
    for number, (kernel, bias) in enumerate(weights):
        x = convolution(x, kernel.astype("float64"), bias)
        x = x if number == len(weights) - 1 else np.maximum(x, 0)
        x = pooling(x) if number in POOLED else x
    return x


def matlab_network(whiten=True, normalize=True, bias=False, seed=0):
    """VGG16-NetVLAD as `net_class2struct` writes it and hloc reads it: a dict that `savemat` takes."""
    layers, weights = [], small_vgg16(seed)
    for number, (kernel, offset) in enumerate(weights):
        layers.append({"type": "conv", "name": f"conv{number}", "weights": cell(kernel, offset), "pad": 1, "stride": 1})
        if number < len(weights) - 1:
            layers.append({"type": "relu", "name": f"relu{number}", "leak": 0})
        if number in POOLED:
            pool = {"type": "pool", "method": "max", "pool": [2, 2], "stride": 2, "pad": 0}
            layers.append({**pool, "name": f"pool{number}"})
    size, num_clusters = SMALL_VGG16[-1], NUM_CLUSTERS
    core = [draw(1, 1, size, num_clusters, seed=seed + 50)]
    core += [draw(1, num_clusters, seed=seed + 51)] if bias else []
    core += [draw(1, 1, size, num_clusters, seed=seed + 52, scale=0.3)]
    param = [2 * size, 1e-12, 1, 0.5]
    layers += [{"type": "normalize", "name": "preL2", "param": param}] if normalize else []
    layers += [
        {"type": "custom", "name": "vlad:core", "weights": cell(*core), "K": num_clusters, "D": size},
        {"type": "normalize", "name": "vlad:intranorm", "param": param},
        {"type": "custom", "name": "postL2"},
    ]
    if whiten:
        projection = [draw(1, 1, size * num_clusters, 4, seed=seed + 53), draw(4, 1, seed=seed + 54)]
        layers.append({"type": "conv", "name": "WPCA", "weights": cell(*projection), "pad": 0, "stride": 1})
        layers.append({"type": "custom", "name": "finalL2"})
    mean = np.broadcast_to(np.float32([123.68, 116.78, 103.94]), (8, 8, 3))
    return {"layers": cell(*layers), "meta": {"normalization": {"averageImage": mean}}}


def cell(*values):
    """A cell array of MATLAB."""
    array = np.empty((1, len(values)), object)
    array[0, :] = values
    return array


def matlab_place_descriptor(network, images):
    """The descriptor of the original code: `images` are RGB from 0 to 255."""
    layers = {layer["name"]: layer for layer in network["layers"].ravel()}
    x = images - network["meta"]["normalization"]["averageImage"][0, 0].astype("float64")
    x = vgg16_maps([layers[f"conv{n}"]["weights"].ravel() for n in range(13)], x)
    x = unit(x, -1) if "preL2" in layers else x
    core = layers["vlad:core"]["weights"].ravel()
    x = x.reshape(len(x), -1, x.shape[-1])
    assignment = softmax(x @ core[0][0, 0].astype("float64") + (core[1].ravel() if len(core) == 3 else 0.0))
    # The stored centroids are negated, and added.
    residuals = x[:, :, :, None] + core[-1][0, 0]
    vlad = unit(np.einsum("bnk,bndk->bdk", assignment, residuals), 1)
    descriptor = unit(vlad.reshape(len(x), -1), 1)
    if "WPCA" in layers:
        kernel, bias = layers["WPCA"]["weights"].ravel()
        descriptor = unit(descriptor @ kernel[0, 0].astype("float64") + bias.ravel(), 1)
    return descriptor
