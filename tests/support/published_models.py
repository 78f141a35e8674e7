"""Stored results of the published code of the presets, and its weights, which are drawn from a seed.

The published code names its variables, such as `tower/video_VLAD/cluster_weights`. The value of a variable is drawn
from its name and shape, so that names and shapes are enough to repeat the comparison.

A script ran the published code on 3 videos of 6 frames, with few clusters, 8 hidden units and 5 classes. In place of
frames drawn at random, the code got all frames in order, with fused normalization. The script stored the scores in
inference and in training, without dropout, and the sum of the penalties. `MoeModel` got the means of the frames.
"""

import functools
import json
import zlib

import numpy as np
from paths import FILES

# Presets whose code ran, and the form of their checkpoints.
PUBLISHED = {
    **dict.fromkeys(("gated_netvlad", "gated_netrvlad", "gated_netfv", "gated_soft_dbow", "soft_dbow"), "willow"),
    "nextvlad": "nextvlad",
    "youtube8m_moe": "youtube8m",
}


@functools.cache
def stored():
    """Returns the file of the script."""
    with np.load(FILES / "published_presets.npz") as file:
        return dict(file)


def published_inputs():
    """Returns the inputs, in bytes."""
    return {"rgb": stored()["rgb"], "audio": stored()["audio"], "num_frames": np.full(3, 6, "int32")}


def published_output(preset, name):
    """Returns `scores`, `training_scores` or `penalty`."""
    return stored()[f"{preset}/{name}"]


def published_checkpoint(preset):
    """Returns the weights that the code had, float32, by the names of its variables."""
    shapes = json.loads(str(stored()[f"{preset}/shapes"]))
    return {name: _drawn(name, shape) for name, shape in shapes.items()}


def _drawn(name, shape):
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype("float32")
    leaf = name.split("/")[-1]
    if leaf in ("gamma", "moving_variance"):
        return np.abs(draw) * np.float32(0.2) + np.float32(0.8)
    if leaf in ("beta", "biases", "hidden1_biases", "moving_mean"):
        return draw * np.float32(0.1)
    if leaf == "covar_weights":
        return 1 + draw / np.sqrt(np.float32(shape[0]))
    return draw / np.sqrt(np.float32(shape[-2]))
