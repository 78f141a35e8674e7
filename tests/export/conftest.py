"""A small model and its artifacts, exported once for all tests of this folder."""

import pytest
from small_classifier import make_classifier

from keras_netvlad.export import export_model


@pytest.fixture(scope="session")
def model():
    return make_classifier()


@pytest.fixture(scope="session")
def artefacts(model, tmp_path_factory):
    """The directory of the artifacts, and their reports. Tests do not change them."""
    directory = tmp_path_factory.mktemp("artefacts") / "out"
    return directory, export_model(model, directory)
