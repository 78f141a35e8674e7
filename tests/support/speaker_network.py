"""The speaker recognition of VGG in TensorFlow's operators and float64, with random weights by the published names."""

import numpy as np
import tensorflow as tf
from published_networks import draw, softmax, unit

NUM_CLUSTERS, SIZE, BLOCK = 3, 6, (3, 4, 5)
BLOCKS = {"resnet34s": (2, 3, 3, 3), "resnet34l": (3, 3, 3, 3)}
STRIDES = {"resnet34s": (1, 1, 2, 2, 2), "resnet34l": (2, 1, 2, 1, 2)}
PARTS = (("1x1_reduce", 1, 0), ("3x3", 3, 1), ("1x1_increase", 1, 2))


def speaker_weights(network="resnet34s", num_ghosts=2, classifier=True):
    """Weights by layer and name, as Keras 2 stores them."""
    weights, kind = {}, "gvlad" if num_ghosts else "vlad"

    def add(name, *shape, bias=True, gain=1.0):
        seed = len(weights)
        weights[name] = {f"{name}/kernel": draw(*shape, seed=seed, scale=gain * (2 / np.prod(shape[:-1])) ** 0.5)}
        if bias:
            weights[name][f"{name}/bias"] = draw(shape[-1], seed=seed, scale=0.3)

    def add_normalized(name, *shape):
        add(name, *shape, bias=False)
        values = {part: draw(shape[-1], seed=len(weights) + i, scale=0.2) for i, part in enumerate(("beta", "mean"))}
        variance = np.abs(draw(shape[-1], seed=len(weights) + 2, scale=0.5)) + 0.7
        parts = {"gamma": values["mean"] + 1.2, "beta": values["beta"]}
        parts |= {"moving_mean": values["mean"], "moving_variance": variance}
        weights[f"{name}/bn"] = {f"{name}/bn/{part}": value for part, value in parts.items()}

    weights["input"] = {}
    add_normalized("conv1_1/3x3_s1", 7, 7, 1, 4)
    inputs = 4
    for stage, number in zip((2, 3, 4, 5), BLOCKS[network], strict=True):
        for block in "abc"[:number]:
            sizes = (inputs, *BLOCK)
            for part, size, place in PARTS:
                add_normalized(f"conv{stage}_{block}_{part}", size, size, sizes[place], sizes[place + 1])
            if block == "a":
                add_normalized(f"conv{stage}_a_1x1_proj", 1, 1, inputs, BLOCK[-1])
            inputs = BLOCK[-1]
    add("x_fc", 7, 1, inputs, SIZE)
    # The maps of random weights are in the hundreds. The softmax of such scores would amplify rounding to 0.1.
    add(f"{kind}_center_assignment", 7, 1, inputs, NUM_CLUSTERS + num_ghosts, gain=0.01)
    weights[f"{kind}_pool"] = {f"{kind}_pool/centers": draw(NUM_CLUSTERS + num_ghosts, SIZE, seed=90)}
    add("fc6", NUM_CLUSTERS * SIZE, SIZE)
    if classifier:
        add("prediction", SIZE, 9, bias=False)
    return weights


def speaker_descriptor(layers, x, network="resnet34s"):
    """The descriptors `(B, F)` of spectrograms `(B, 257, T, 1)`."""
    weights = {name: value.astype("float64") for part in layers.values() for name, value in part.items()}
    kind = "gvlad" if "gvlad_pool" in layers else "vlad"

    def convolved(x, name, stride=1, padding="SAME"):
        return tf.nn.conv2d(x, weights[f"{name}/kernel"], stride, padding)

    def normalized(x, name, stride=1):
        x = convolved(x, name, stride)
        gamma, beta, mean, variance = (
            weights[f"{name}/bn/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    first, *strides = STRIDES[network]
    x = tf.nn.relu(normalized(tf.constant(x, "float64"), "conv1_1/3x3_s1", first))
    x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    for stage, number, stride in zip((2, 3, 4, 5), BLOCKS[network], strides, strict=True):
        for block in "abc"[:number]:
            name, step = f"conv{stage}_{block}", stride if block == "a" else 1
            shortcut = normalized(x, f"{name}_1x1_proj", step) if block == "a" else x
            x = tf.nn.relu(normalized(x, f"{name}_1x1_reduce", step))
            x = tf.nn.relu(normalized(x, f"{name}_3x3"))
            x = tf.nn.relu(normalized(x, f"{name}_1x1_increase") + shortcut)
    x = tf.nn.max_pool2d(x, (3, 1), (2, 1), "VALID")
    features = np.maximum(convolved(x, "x_fc", padding="VALID") + weights["x_fc/bias"], 0)[:, 0]  # (B, T, D)
    assignment = f"{kind}_center_assignment"
    a = softmax((convolved(x, assignment, padding="VALID") + weights[f"{assignment}/bias"]).numpy()[:, 0])
    residuals = features[:, :, None] - weights[f"{kind}_pool/centers"]  # (B, T, K + G, D)
    v = unit(np.einsum("btk,btkd->bkd", a, residuals)[:, :NUM_CLUSTERS], 2).reshape(len(a), -1)
    return unit(np.maximum(v @ weights["fc6/kernel"] + weights["fc6/bias"], 0), 1)
