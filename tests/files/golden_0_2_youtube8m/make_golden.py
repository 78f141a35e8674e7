"""Writes the files of this directory: models of YouTube-8M that release 0.2.0 adds, with inputs and outputs.

Once release 0.2.0 is out, the files must stay as that release wrote them.

    python make_golden.py DIRECTORY
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_netvlad import VideoClassifier

SIZES = {"rgb": 4, "audio": 3}
MODELS = {
    "preset_youtube8m_moe": lambda: VideoClassifier.from_preset("youtube8m_moe", 3, feature_sizes=SIZES),
    "preset_soft_dbow": lambda: VideoClassifier.from_preset(
        "soft_dbow", 3, feature_sizes=SIZES, num_clusters={"rgb": 3, "audio": 2}, hidden_units=8
    ),
    "classifier_streams": lambda: VideoClassifier(SIZES, 3, 2, 8, num_frames_per_stream=True, name="streams"),
}


def main(directory):
    """Writes one `.keras` file a model and `golden.npz`."""
    arrays = {"canary": canary()}
    for name, make in MODELS.items():
        keras.backend.clear_session()
        rng = np.random.default_rng(0)
        model = make()
        for weight in model.weights:
            noise = rng.normal(0, 0.3, weight.shape)
            weight.assign(1.0 + np.abs(noise) if "variance" in weight.path else noise)
        inputs = {stream: rng.normal(size=(3, 6, size)).astype("float32") for stream, size in SIZES.items()}
        counts = sorted(set(model.input) - set(SIZES))
        inputs.update((count, np.array([6 - place, 2, 0], "int32")) for place, count in enumerate(counts))
        model.save(Path(directory, f"{name}.keras"))
        for kind, values in (("inputs", inputs), ("outputs", model(inputs, training=False))):
            arrays.update({f"{name}/{kind}/{key}": ops.convert_to_numpy(value) for key, value in values.items()})
    np.savez_compressed(Path(directory, "golden.npz"), **arrays)


def canary():
    """Returns a product, a softmax and an inverse root: equal only if the processor rounds as the one that wrote it."""
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(2, 50, 50)).astype("float32"))
    return ops.convert_to_numpy(ops.rsqrt(ops.sum(ops.square(ops.softmax(x @ x, axis=-1) @ x), axis=-1)))


if __name__ == "__main__":
    main(sys.argv[1])
