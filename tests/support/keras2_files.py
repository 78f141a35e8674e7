"""Writes `.h5` files in the layout of Keras 2, and the models of its NetVLAD ports in that layout."""

import base64
import json

import h5py
import numpy as np
from published_networks import SMALL_VGG16, convolution, draw, pooling, random_vgg16, softmax, unit, vgg16_maps

NUM_CLUSTERS = 3
# `lambda a: l2_normalize(a, axis=-1)` as Python 3.6 to 3.10 compile it: the bytecode, the constants and the names.
L2_NORMALIZE = (
    b"\xe3\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00C\x00\x00\x00s\x0c\x00\x00\x00"
    b"t\x00|\x00d\x01d\x02\x8d\x02S\x00)\x03N\xe9\xff\xff\xff\xff)\x01Z\x04axis)\x01\xda\x0cl2_normalize"
)


def write_keras2(path, weights, config=None):
    """Writes a file of weights; with a configuration, of a whole model.

    Args:
        path: Path of the file.
        weights: Dict of layer names to dicts of weight names, without `:0`, to arrays. Layers without weights have an
            empty dict.
        config: Configuration of the model, or `None`.
    """
    with h5py.File(path, "w") as file:
        root = file if config is None else file.create_group("model_weights")
        root.attrs["layer_names"] = [name.encode() for name in weights]
        root.attrs["backend"], root.attrs["keras_version"] = b"tensorflow", b"2.2.4"
        for name, values in weights.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [f"{weight}:0".encode() for weight in values]
            for weight, value in values.items():
                group[f"{weight}:0"] = value
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
            file.attrs["training_config"] = json.dumps({"loss": "mse"}).encode()
    return path


def layer(class_name, name, *sources, **options):
    """The configuration of a layer, with its connections in a functional model."""
    config = {"name": name, "trainable": True, **options}
    nodes = [[[source, 0, 0, {}] for source in sources]] if sources else []
    return {"class_name": class_name, "name": name, "config": config, "inbound_nodes": nodes}


def input_layer(name, *shape):
    return layer("InputLayer", name, batch_input_shape=[None, *shape], dtype="float32", sparse=False)


def conv(name, source, filters, size=3, **options):
    initializer = {"class_name": "VarianceScaling", "config": {"scale": 1.0, "distribution": "normal", "seed": None}}
    config = {"filters": filters, "kernel_size": [size, size], "strides": [1, 1], "padding": "same"}
    config |= {"data_format": "channels_last", "dilation_rate": [1, 1], "activation": "linear", "use_bias": True}
    config |= {"kernel_initializer": initializer, "kernel_regularizer": None, "kernel_constraint": None}
    return layer("Conv2D", name, source, **{**config, **options})


def dense(name, units, **options):
    return layer("Dense", name, units=units, activation="linear", use_bias=True, **options)


def normalization(name, source, epsilon=1e-3):
    return layer("BatchNormalization", name, source, axis=[3], momentum=0.99, epsilon=epsilon, center=True, scale=True)


def l2_normalization(name="lambda_1", code=L2_NORMALIZE):
    function = [base64.encodebytes(code).decode(), None, None]
    return layer("Lambda", name, function=function, function_type="lambda", output_shape=None, arguments={})


def functional(name, layers, outputs):
    nodes = [[output, 0, 0] for output in outputs]
    inputs = [[part["name"], 0, 0] for part in layers if part["class_name"] == "InputLayer"]
    config = {"name": name, "layers": layers, "input_layers": inputs, "output_layers": nodes}
    return {"class_name": "Model", "config": config}


def sequential(layers, name="sequential_1"):
    parts = [{key: value for key, value in part.items() if key in ("class_name", "config")} for part in layers]
    return {"class_name": "Sequential", "config": {"name": name, "layers": parts}}


def port_weights(size, bias=(NUM_CLUSTERS,), num_clusters=NUM_CLUSTERS):
    """Weights of a port by name, centroids first as in `NetVLAD` of crlz182 and NHGJem."""
    weights = {"cluster_centers": draw(1, 1, 1, size, num_clusters, seed=60, scale=0.4)}
    weights["kernel"] = draw(1, 1, size, num_clusters, seed=61)
    return weights | ({} if bias is None else {"bias": draw(*bias, seed=62)})


def port_residuals(x, weights):
    """Sums of `x + C` by cluster `(B, K, D)`, for maps `(B, H, W, D)`."""
    x = x.reshape(len(x), -1, x.shape[-1])
    bias = weights.get("bias", np.zeros(1)).reshape(-1)
    a = softmax(x @ weights["kernel"][0, 0].astype("float64") + bias)  # (B, N, K)
    added = weights["cluster_centers"][0, 0, 0].T  # (K, D)
    return np.einsum("bnk,bnkd->bkd", a, x[:, :, None] + added)


# NHGJem: a backbone as a model in the model, NetVLAD, Dense and a Lambda.
UNITS = 4


def nhgjem(head="dense", skip_postnorm=False):
    """Configuration and weights of a Sequential with a frozen convolution in its backbone."""
    backbone = functional(
        "vgg16",
        [
            input_layer("input_1", 16, 20, 3),
            conv("block1_conv1", "input_1", 4, activation="relu", trainable=False),
            layer("MaxPooling2D", "block1_pool", "block1_conv1", pool_size=[2, 2], strides=[2, 2], padding="valid"),
            conv("block2_conv1", "block1_pool", 5, activation="relu"),
        ],
        ["block2_conv1"],
    )
    parts = [backbone, layer("NetVLAD", "net_vlad", K=NUM_CLUSTERS, skip_postnorm=skip_postnorm, outdim=32768)]
    weights = {
        # The trained weights come first.
        "vgg16": {
            "block2_conv1/kernel": draw(3, 3, 4, 5, seed=2, scale=0.3),
            "block2_conv1/bias": draw(5, seed=3, scale=0.3),
            "block1_conv1/kernel": draw(3, 3, 3, 4, seed=0, scale=0.3),
            "block1_conv1/bias": draw(4, seed=1, scale=0.3),
        },
        "net_vlad": {f"net_vlad/{name}": value for name, value in port_weights(5).items()},
    }
    if head == "dense":
        inputs = 5 if skip_postnorm else 5 * NUM_CLUSTERS
        weights["dense"] = {"dense/kernel": draw(inputs, UNITS, seed=4), "dense/bias": draw(UNITS, seed=5)}
        parts.append(dense("dense", UNITS))
    if head == "dense" and not skip_postnorm:
        weights["lambda_1"] = {}
        parts.append(l2_normalization())
    return sequential(parts), weights


def nhgjem_descriptor(weights, x, skip_postnorm=False):
    base = {name: value.astype("float64") for name, value in weights["vgg16"].items()}
    x = np.maximum(convolution(x, base["block1_conv1/kernel"], base["block1_conv1/bias"]), 0)
    x = np.maximum(convolution(pooling(x), base["block2_conv1/kernel"], base["block2_conv1/bias"]), 0)
    y = port_residuals(x, {name.split("/")[-1]: value for name, value in weights["net_vlad"].items()})
    if not skip_postnorm:
        y = unit(y, 2).transpose(0, 2, 1)
        y = unit(y.reshape(len(y), -1), 1)
    if "dense" in weights:
        y = y @ weights["dense"]["dense/kernel"].astype("float64") + weights["dense"]["dense/bias"]
    return unit(y, 1) if "lambda_1" in weights else y


# cartwheel: a part of a MobileNet and a branch, then NetVLADLayer or GhostVLADLayer.
def cartwheel(num_ghosts=0):
    num_scores = NUM_CLUSTERS + num_ghosts
    penalty = {"class_name": "L1L2", "config": {"l1": 0.0, "l2": {"type": "ndarray", "value": 0.001}}}
    relu = {"max_value": {"type": "ndarray", "value": 6.0}, "negative_slope": 0.0, "threshold": 0.0}
    depthwise = {"kernel_size": [3, 3], "strides": [1, 1], "padding": "same", "depth_multiplier": 1, "groups": 1}
    pooled = {"num_clusters": NUM_CLUSTERS} | ({"num_ghost_clusters": num_ghosts} if num_ghosts else {})
    layers = [
        layer("InputLayer", "input_1", batch_input_shape=[1, 12, 16, 3], dtype="float32", sparse=False),
        layer("ZeroPadding2D", "conv1_pad", "input_1", padding=[[0, 1], [0, 1]], data_format="channels_last"),
        conv("conv1", "conv1_pad", 4, strides=[2, 2], padding="valid", use_bias=False, kernel_regularizer=penalty),
        normalization("conv1_bn", "conv1"),
        layer("ReLU", "conv1_relu", "conv1_bn", **relu),
        layer("DepthwiseConv2D", "conv_dw_1", "conv1_relu", activation="linear", use_bias=False, **depthwise),
        normalization("conv_dw_1_bn", "conv_dw_1", epsilon=0.1),
        layer("Activation", "conv_dw_1_relu", "conv_dw_1_bn", activation="relu6"),
        layer("Add", "add_1", "conv_dw_1_relu", "conv1_relu"),
        layer("GhostVLADLayer" if num_ghosts else "NetVLADLayer", "net_vlad_layer_1", "add_1", **pooled),
    ]
    weights = {part["name"]: {} for part in layers}
    weights["conv1"] = {"conv1/kernel": draw(3, 3, 3, 4, seed=10)}
    weights["conv_dw_1"] = {"conv_dw_1/depthwise_kernel": draw(3, 3, 4, 1, seed=11)}
    for number, name in enumerate(("conv1_bn", "conv_dw_1_bn")):
        values = {part: draw(4, seed=12 + number + i) for i, part in enumerate(("gamma", "beta", "moving_mean"))}
        values["moving_variance"] = np.abs(draw(4, seed=20 + number)) + 1
        weights[name] = {f"{name}/{part}": value for part, value in values.items()}
    named = port_weights(4, (1, 1, num_scores), num_scores)
    order = ("kernel", "bias", "cluster_centers")
    weights["net_vlad_layer_1"] = {f"net_vlad_layer_1/{name}": named[name] for name in order}
    return functional("model_1", layers, ["net_vlad_layer_1"]), weights


def cartwheel_descriptor(weights, x):
    def normalized(x, name, epsilon):
        gamma, beta, mean, variance = weights[name].values()
        return np.clip((x - mean) / np.sqrt(variance.astype("float64") + epsilon) * gamma + beta, 0, 6)

    x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    height, width = (x.shape[1] - 1) // 2, (x.shape[2] - 1) // 2
    kernel = weights["conv1"]["conv1/kernel"].astype("float64")
    x = sum(x[:, i : i + 2 * height : 2, j : j + 2 * width : 2] @ kernel[i, j] for i in range(3) for j in range(3))
    shortcut = normalized(x, "conv1_bn", 1e-3)
    kernel = weights["conv_dw_1"]["conv_dw_1/depthwise_kernel"]
    full = np.zeros((3, 3, 4, 4))
    full[:, :, range(4), range(4)] = kernel[..., 0]
    x = normalized(convolution(shortcut, full, 0.0), "conv_dw_1_bn", 0.1) + shortcut
    port = {name.split("/")[-1]: value for name, value in weights["net_vlad_layer_1"].items()}
    v = unit(port_residuals(x, port)[:, :NUM_CLUSTERS], 2)
    return unit(v.reshape(len(v), -1), 1)


# crlz182: VGG16, NetVLAD and whitening in one Sequential, of which the file has the weights alone.
def crlz182():
    convolutions, size = random_vgg16(), SMALL_VGG16[-1]
    weights = {"substract_average_1": {"substract_average_1/average_rgb": np.array([123.0, 117.0, 104.0], "float32")}}
    for number, (kernel, bias) in enumerate(convolutions, 1):
        name = f"conv2d_{number}"
        weights[name] = {f"{name}/kernel": kernel, f"{name}/bias": bias}
        weights[f"activation_{number}"] = {}
    weights["net_vlad_1"] = {f"net_vlad_1/{name}": value for name, value in port_weights(size, None).items()}
    projection = draw(1, 1, size * NUM_CLUSTERS, UNITS, seed=63)
    weights["conv2d_14"] = {"conv2d_14/kernel": projection, "conv2d_14/bias": draw(UNITS, seed=64)}
    return weights


def crlz182_descriptor(weights, x):
    mean = next(iter(weights["substract_average_1"].values()))
    convolutions = [tuple(weights[f"conv2d_{number}"].values()) for number in range(1, 14)]
    x = unit(vgg16_maps(convolutions, x - mean), 3)
    v = unit(port_residuals(x, {name.split("/")[-1]: value for name, value in weights["net_vlad_1"].items()}), 2)
    v = unit(v.transpose(0, 2, 1).reshape(len(v), -1), 1)
    kernel, bias = weights["conv2d_14"].values()
    return unit(v @ kernel[0, 0].astype("float64") + bias, 1)


# TensorFlow Addons: frames to scores.
def tensorflow_addons():
    parts = [
        dense("dense_1", 4, batch_input_shape=[None, 7, 6]),
        layer("Addons>NetVLAD", "net_vlad", num_clusters=NUM_CLUSTERS),
        dense("scores", UNITS),
    ]
    weights = {
        "dense_1": {"dense_1/kernel": draw(6, 4, seed=70), "dense_1/bias": draw(4, seed=71)},
        "net_vlad": {
            "net_vlad/dense/kernel": draw(4, NUM_CLUSTERS, seed=72),
            "net_vlad/dense/bias": draw(NUM_CLUSTERS, seed=73),
            "net_vlad/cluster_centers": draw(1, 4, NUM_CLUSTERS, seed=74),
        },
        "scores": {
            "scores/kernel": draw(4 * NUM_CLUSTERS, UNITS, seed=75),
            "scores/bias": draw(UNITS, seed=76),
        },
    }
    return {"class_name": "Sequential", "config": parts}, weights  # a list, as before Keras 2.2.3


def tensorflow_addons_scores(weights, x):
    values = {name: value.astype("float64") for part in weights.values() for name, value in part.items()}
    x = x @ values["dense_1/kernel"] + values["dense_1/bias"]
    a = softmax(x @ values["net_vlad/dense/kernel"] + values["net_vlad/dense/bias"])
    v = np.einsum("bnk,bndk->bdk", a, x[..., None] - values["net_vlad/cluster_centers"])
    v = unit(v, 1).reshape(len(v), -1)
    return unit(v, 1) @ values["scores/kernel"] + values["scores/bias"]
