"""A small model and its artifacts, exported once for all tests of this folder."""

import keras
import pytest
from small_classifier import make_classifier

from keras_netvlad.export import export_model
from keras_netvlad.layers import FrameMask, NetVLAD


@pytest.fixture(scope="session")
def model():
    return make_classifier()


@pytest.fixture(scope="session")
def artefacts(model, tmp_path_factory):
    """The directory of the artifacts, and their reports. Tests do not change them."""
    directory = tmp_path_factory.mktemp("artefacts") / "out"
    return directory, export_model(model, directory)


@pytest.fixture
def halves():
    """A model with a pooling for each half of a video (NetVLAD++), so that the mask depends on the video's length."""
    frames, num_frames = keras.Input((None, 6), name="frames"), keras.Input((), dtype="int32", name="num_frames")
    real, first = FrameMask()(num_frames, frames), FrameMask()(num_frames // 2, frames)
    second = keras.ops.logical_and(real, keras.ops.logical_not(first))
    both = keras.layers.Concatenate()([NetVLAD(2)(frames, mask=first), NetVLAD(2)(frames, mask=second)])
    return keras.Model({"frames": frames, "num_frames": num_frames}, {"scores": keras.layers.Dense(3)(both)})
