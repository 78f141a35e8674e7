"""The sizes that are measured, the numbers that go in, and what has to come out."""

import numpy as np

SIZES = {  # B, N, D, K
    "video256": (32, 300, 1152, 256),
    "video64": (128, 300, 1024, 64),
    "place": (8, 1200, 512, 64),
    "audio": (64, 200, 64, 16),
    "serve1": (1, 300, 1152, 256),
}
TINY = {"tiny": (2, 20, 32, 4)}


def arrays(num_videos, num_frames, feature_size, num_clusters):
    """Inputs, weights and the gradient of the output, float32, always the same for a size."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, "float32")

    lengths = rng.integers(1, num_frames + 1, num_videos)
    return {
        "frames": normal(num_videos, num_frames, feature_size),
        "lengths": lengths.astype("int32"),
        "mask": np.arange(num_frames) < lengths[:, None],
        "kernel": normal(feature_size, num_clusters) / np.float32(np.sqrt(feature_size)),
        "bias": normal(num_clusters),
        "centroids": normal(num_clusters, feature_size) / np.float32(np.sqrt(feature_size)),
        "gradient": normal(num_videos, num_clusters * feature_size),
    }


def descriptor(given, masked=False):
    """The descriptor of the first video, cluster-major, in float64 straight from the equations."""
    frames = given["frames"][0][given["mask"][0]] if masked else given["frames"][0]
    frames, kernel, bias, centroids = (
        values.astype("float64") for values in (frames, given["kernel"], given["bias"], given["centroids"])
    )
    assignments = np.exp(frames @ kernel + bias)
    assignments /= assignments.sum(axis=1, keepdims=True)
    residuals = assignments.T @ frames - assignments.sum(axis=0)[:, None] * centroids
    residuals /= np.linalg.norm(residuals, axis=1, keepdims=True)
    return residuals.reshape(-1) / np.linalg.norm(residuals)


def product_operations(what, num_videos, num_frames, feature_size, num_clusters):
    """Floating-point operations of the matrix products: two forward, and two more for a training step.

    The frames need no gradient, so going back takes one product for that of the assignments and one for the kernel's.
    """
    return (2 if what == "forward" else 4) * 2 * num_videos * num_frames * feature_size * num_clusters


def least_bytes(what, shape, bytes_per_value):
    """Bytes that have to move: every input read once, every result written once."""
    num_videos, num_frames, feature_size, num_clusters = shape
    frames = num_videos * num_frames * feature_size
    output = num_videos * num_clusters * feature_size
    weights = 2 * num_clusters * feature_size
    return bytes_per_value * (frames + weights + output + (output + weights if what != "forward" else 0))
