"""A model of TensorFlow Addons' NetVLAD, run by that package (tests/files/make_tfa_netvlad.py), rebuilt here."""

import h5py
import keras
import numpy as np
import pytest
from paths import FILES

from keras_netvlad.convert import from_tfa, reorder_rows


@pytest.fixture(scope="module")
def theirs():
    with np.load(FILES / "tfa_netvlad.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_the_descriptor_is_theirs_but_for_the_order(theirs):
    layer = from_tfa(FILES / "tfa_netvlad.h5")
    size, clusters = layer.feature_size, layer.num_clusters
    ours = (
        np.asarray(layer(theirs["inputs"]))
        .reshape(-1, clusters, size)
        .swapaxes(1, 2)
        .reshape(len(theirs["inputs"]), -1)
    )
    # Measured 6e-8, float32 rounding.
    np.testing.assert_allclose(ours, theirs["descriptor"], atol=1e-6)


def test_a_rebuilt_model_gives_the_same_scores(theirs):
    layer = from_tfa(FILES / "tfa_netvlad.h5")
    with h5py.File(FILES / "tfa_netvlad.h5") as file:
        kernel, bias = (file[f"scores/scores/{name}:0"][()] for name in ("kernel", "bias"))
    frames = keras.Input((None, layer.feature_size), name="frames")
    dense = keras.layers.Dense(len(bias), activation="softmax", name="scores")
    model = keras.Model(frames, dense(layer(frames)))
    dense.set_weights([reorder_rows(kernel, layer.num_clusters, layer.feature_size), bias])
    # Measured 6e-8, float32 rounding.
    np.testing.assert_allclose(model.predict(theirs["inputs"], verbose=0), theirs["scores"], atol=1e-6)
    dense.set_weights([kernel, bias])  # the rows as they were: the order matters
    assert np.abs(model.predict(theirs["inputs"], verbose=0) - theirs["scores"]).max() > 1e-2
