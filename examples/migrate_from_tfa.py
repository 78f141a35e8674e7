"""Converts a TensorFlow Addons model to one that Keras 3 saves, serves and exports, with the same scores.

python examples/migrate_from_tfa.py [--weights weights.h5]

Without a weights file, it writes one in the format of Keras 2, for a model with NetVLAD and Dense.
"""

import argparse
import tempfile
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_netvlad.convert import from_tfa, reorder_rows

POOLING, DENSE = "net_vlad", "scores"


def write_weights(path, feature_size=16, num_clusters=8, num_classes=5):
    """Writes random weights to a file in the form of `model.save_weights(path)` of Keras 2."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file[f"{POOLING}/{POOLING}/cluster_centers:0"] = rng.normal(size=(1, feature_size, num_clusters))
        file[f"{POOLING}/{POOLING}/dense/kernel:0"] = rng.normal(size=(feature_size, num_clusters))
        file[f"{POOLING}/{POOLING}/dense/bias:0"] = rng.normal(size=num_clusters)
        file[f"{DENSE}/{DENSE}/kernel:0"] = rng.normal(size=(feature_size * num_clusters, num_classes))
        file[f"{DENSE}/{DENSE}/bias:0"] = rng.normal(size=num_classes)


def read_dense(path):
    """Returns kernel and bias of the Dense layer behind the pooling, as they are in the file."""
    with h5py.File(path, "r") as file:
        return file[f"{DENSE}/{DENSE}/kernel:0"][()], file[f"{DENSE}/{DENSE}/bias:0"][()]


def migrate(path):
    """Returns the Keras 3 model: NetVLAD from the file, and the Dense with its rows in the new order."""
    pooling = from_tfa(path, name=POOLING)
    kernel, bias = read_dense(path)
    frames = keras.Input((None, pooling.feature_size), name="frames")
    scores = keras.layers.Dense(len(bias), name=DENSE)
    model = keras.Model(frames, scores(pooling(frames)))
    scores.set_weights([reorder_rows(kernel, pooling.num_clusters, pooling.feature_size), bias])
    return model


def scores_before(path, frames):
    """Computes the old model's scores in float64, with the descriptor in TensorFlow Addons' order, feature-major."""
    with h5py.File(path, "r") as file:
        group = file[f"{POOLING}/{POOLING}"]
        centers, kernel, bias = (group[name][()] for name in ("cluster_centers:0", "dense/kernel:0", "dense/bias:0"))
    assignment = np.exp(frames @ kernel + bias)
    assignment /= assignment.sum(axis=2, keepdims=True)
    vlad = np.einsum("bnk,bnd->bdk", assignment, frames) - assignment.sum(axis=1)[:, None] * centers  # (B, D, K)
    vlad /= np.linalg.norm(vlad, axis=1, keepdims=True)
    descriptor = vlad.reshape(len(frames), -1)
    descriptor /= np.linalg.norm(descriptor, axis=1, keepdims=True)
    kernel, bias = read_dense(path)
    return descriptor @ kernel + bias


def main():
    """Converts the model, compares the scores and saves the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help=f"Keras 2 .h5 weights with layers {POOLING} and {DENSE}")
    parser.add_argument("--output", default="migrated.keras", help="file to write (default: %(default)s)")
    options = parser.parse_args()
    if options.weights is not None and not Path(options.weights).is_file():
        parser.error(f"--weights must be a file. Received: {options.weights}")
    if not Path(options.output).parent.is_dir() or not options.output.endswith(".keras"):
        parser.error(f"--output must be a .keras file in an existing folder. Received: {options.output}")

    with tempfile.TemporaryDirectory() as directory:
        path = options.weights or Path(directory) / "weights.h5"
        if options.weights is None:
            write_weights(path)
        model = migrate(path)
        frames = np.random.default_rng(1).normal(size=(4, 30, model.input_shape[-1]))
        before = scores_before(path, frames)
    after = model.predict(frames, verbose=0)
    print(f"Scores {after.shape}, largest difference to the old model's: {np.abs(after - before).max():.1e}")
    model.save(options.output)
    print(f"Saved {options.output}, {model.count_params()} parameters")


if __name__ == "__main__":
    main()
