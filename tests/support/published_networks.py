"""Published networks with NetVLAD in plain NumPy and float64, with random weights in the format of their files."""

import numpy as np

# Channels of the 13 convolutions of VGG16, as published and small.
VGG16 = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
SMALL_VGG16 = (2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6)
POOLED = (1, 3, 6, 9)  # convolutions that a pooling follows
# Places of the convolutions in torchvision's `vgg16().features`.
TORCHVISION_VGG16 = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
NUM_CLUSTERS = 3


def draw(*shape, seed=0, scale=1.0):
    values = np.random.default_rng([seed, *shape]).standard_normal(shape, "float32")
    return values * np.float32(scale)


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


def random_vgg16(widths=SMALL_VGG16, seed=0):
    """Kernels `(3, 3, I, O)` and biases of VGG16."""
    inputs = (3, *widths[:-1])
    return [
        (draw(3, 3, i, o, seed=seed + n, scale=(2 / (9 * i)) ** 0.5), draw(o, seed=seed + n, scale=0.1))
        for n, (i, o) in enumerate(zip(inputs, widths, strict=True))
    ]


def vgg16_maps(weights, x):
    """Maps of conv5_3, before its ReLU."""
    for number, (kernel, bias) in enumerate(weights):
        x = convolution(x, kernel.astype("float64"), bias)
        x = x if number == len(weights) - 1 else np.maximum(x, 0)
        x = pooling(x) if number in POOLED else x
    return x


def matlab_network(
    whiten=True, normalize=True, bias=False, seed=0, widths=SMALL_VGG16, num_clusters=NUM_CLUSTERS, outputs=4
):
    """VGG16-NetVLAD as `net_class2struct` writes it and hloc reads it: a dict that `savemat` takes."""
    layers, weights = [], random_vgg16(widths, seed)
    for number, (kernel, offset) in enumerate(weights):
        layers.append({"type": "conv", "name": f"conv{number}", "weights": cell(kernel, offset), "pad": 1, "stride": 1})
        if number < len(weights) - 1:
            layers.append({"type": "relu", "name": f"relu{number}", "leak": 0})
        if number in POOLED:
            pool = {"type": "pool", "method": "max", "pool": [2, 2], "stride": 2, "pad": 0}
            layers.append({**pool, "name": f"pool{number}"})
    size = widths[-1]
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
        projection = [draw(1, 1, size * num_clusters, outputs, seed=seed + 53), draw(outputs, 1, seed=seed + 54)]
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
    # The stored centroids are negated, and added.
    vlad = pooled(x, core[0][0, 0], core[1].ravel() if len(core) == 3 else 0.0, -core[-1][0, 0])
    descriptor = unit(vlad.reshape(len(x), -1), 1)
    if "WPCA" in layers:
        kernel, bias = layers["WPCA"]["weights"].ravel()
        descriptor = unit(descriptor @ kernel[0, 0].astype("float64") + bias.ravel(), 1)
    return descriptor


def pooled(x, kernel, bias, centroids):
    """The residuals `(B, D, K)` of maps `(B, H, W, D)`, each of unit norm; kernel and centroids are `(D, K)`."""
    x = x.reshape(len(x), -1, x.shape[-1])
    assignment = softmax(x @ kernel.astype("float64") + bias)
    return unit(np.einsum("bnk,bnd->bdk", assignment, x) - assignment.sum(axis=1)[:, None] * centroids, 1)


def patch_netvlad_checkpoint(outputs=4, seed=0):
    """VGG16, NetVLAD and principal components of Patch-NetVLAD, by the names of its state_dict."""
    tensors, size = {}, SMALL_VGG16[-1]
    for place, (kernel, bias) in zip(TORCHVISION_VGG16, random_vgg16(seed=seed), strict=True):
        tensors |= {f"encoder.{place}.weight": kernel.transpose(3, 2, 0, 1), f"encoder.{place}.bias": bias}
    tensors["pool.conv.weight"] = draw(NUM_CLUSTERS, size, 1, 1, seed=seed + 50)
    tensors["pool.centroids"] = draw(NUM_CLUSTERS, size, seed=seed + 51, scale=0.3)
    tensors["WPCA.0.weight"] = draw(outputs, NUM_CLUSTERS * size, 1, 1, seed=seed + 52)
    tensors["WPCA.0.bias"] = draw(outputs, seed=seed + 53)
    return tensors


def patch_netvlad_descriptor(tensors, images):
    """The descriptor of the original code: `images` are RGB from 0 to 255."""
    kernels = [tensors[f"encoder.{place}.weight"].transpose(2, 3, 1, 0) for place in TORCHVISION_VGG16]
    biases = [tensors[f"encoder.{place}.bias"] for place in TORCHVISION_VGG16]
    x = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = unit(vgg16_maps(list(zip(kernels, biases, strict=True)), x), -1)
    vlad = pooled(x, tensors["pool.conv.weight"][:, :, 0, 0].T, 0.0, tensors["pool.centroids"].T)
    descriptor = unit(vlad.transpose(0, 2, 1).reshape(len(x), -1), 1)
    return unit(descriptor @ tensors["WPCA.0.weight"][:, :, 0, 0].T.astype("float64") + tensors["WPCA.0.bias"], 1)


def soccernet_checkpoint(inputs=9, size=6, num_clusters=2, num_classes=3, seed=0):
    """NetVLAD++ of SoccerNet with a linear layer before it, by the names of its state_dict."""
    tensors = {"feature_extractor.weight": draw(size, inputs, seed=seed), "feature_extractor.bias": draw(size, seed=1)}
    for number, name in enumerate(("pool_layer_before", "pool_layer_after")):
        tensors[f"{name}.clusters"] = draw(size, num_clusters, seed=seed + 2 + number)
        tensors[f"{name}.clusters2"] = draw(1, size, num_clusters, seed=seed + 4 + number, scale=0.4)
    tensors["fc.weight"] = draw(num_classes + 1, 2 * num_clusters * size, seed=seed + 6)
    return {**tensors, "fc.bias": draw(num_classes + 1, seed=seed + 7)}
