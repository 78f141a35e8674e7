"""Writes the files of this directory: layers that release 0.2.0 adds, with inputs and outputs.

`tests/test_golden_files.py` loads the models with the present code and compares the outputs. Once release 0.2.0 is out,
the files must stay as that release wrote them. Until then, run this script again only for layers that changed:

    python make_golden.py DIRECTORY
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_netvlad.layers import SALAD, GeMPooling, NetVLAD, ScoredVLAD, TemporalPooling

FRAMES, IMAGES = (6, 4), (3, 2, 4)
POOLINGS = {
    "temporal_pooling": (lambda: TemporalPooling(NetVLAD(3), GeMPooling()), FRAMES),
    "salad": (lambda: SALAD(3, 4, hidden_units=5), FRAMES),
    "salad_options": (lambda: SALAD(8, 2, None, 5, 0.0, 1, normalize_input=True, output_normalization=False), IMAGES),
    "gem": (GeMPooling, FRAMES),
    "gem_options": (lambda: GeMPooling(2.5, 0.01, normalize_input=True), IMAGES),
    "scored_vlad": (lambda: ScoredVLAD(3, 1, score_layer=keras.layers.Dense(4)), FRAMES),
    "scored_vlad_options": (
        lambda: ScoredVLAD(
            3,
            softmax=False,
            score_layer=keras.layers.Conv2D(3, (3, 1), padding="same", activation="relu"),
            use_centroids=False,
            normalize_input=True,
            intra_normalization=False,
        ),
        IMAGES,
    ),
}


def main(directory):
    """Writes one `.keras` file a model and `golden.npz`."""
    arrays = {"canary": canary()}
    for name, (make, shape) in POOLINGS.items():
        # Names and weights of a file do not depend on the other files.
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        rng = np.random.default_rng(0)
        layer = make()
        frames, mask = keras.Input(shape, name="frames"), keras.Input(shape[:-1], name="mask", dtype="bool")
        model = keras.Model({"frames": frames, "mask": mask}, layer(frames, mask=mask), name=name)
        for weight in layer.weights:
            noise = rng.normal(0, 0.3, weight.shape)
            weight.assign(1.0 + np.abs(noise) if weight.name == "exponent" else noise)
        present = rng.integers(0, 2, (3, *shape[:-1])).astype(bool)
        present[2] = False
        inputs = {"frames": rng.normal(size=(3, *shape)).astype("float32"), "mask": present}
        weights = present * rng.uniform(0.5, 2, present.shape).astype("float32")
        outputs = {"output": model(inputs, training=False), "unmasked": layer(inputs["frames"])}
        outputs["weighted"] = layer(inputs["frames"], mask=weights)
        if hasattr(layer, "assign"):
            outputs["assign"] = layer.assign(inputs["frames"], mask=present)
        if hasattr(layer, "aggregate"):
            sums = layer.aggregate(inputs["frames"], mask=present)
            outputs.update(first_sum=sums[0], second_sum=sums[1], describe=layer.describe(*sums))
        model.save(Path(directory, f"{name}.keras"))
        for kind, values in (("inputs", {**inputs, "weights": weights}), ("outputs", outputs)):
            arrays.update({f"{name}/{kind}/{key}": ops.convert_to_numpy(value) for key, value in values.items()})
    np.savez_compressed(Path(directory, "golden.npz"), **arrays)


def canary():
    """Returns a product, a softmax and an inverse root: equal only if the processor rounds as the one that wrote it."""
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(2, 50, 50)).astype("float32"))
    return ops.convert_to_numpy(ops.rsqrt(ops.sum(ops.square(ops.softmax(x @ x, axis=-1) @ x), axis=-1)))


if __name__ == "__main__":
    main(sys.argv[1])
