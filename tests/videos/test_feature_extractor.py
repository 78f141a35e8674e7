"""The backbone: batches of a video, black frames that fill a batch, and arguments that make no model."""

import h5py
import numpy as np
import pytest
from make_videos import grey, write_video

from keras_netvlad.videos.feature_extractor import BackboneError, FeatureExtractor


@pytest.fixture(scope="module")
def extractor():
    return FeatureExtractor("MobileNet", None, 32, "avg", fps=10, batch_size=8)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "grey.mkv", [grey(10 * i) for i in range(20)])


def test_frames_come_in_batches(extractor, video):
    batches = list(extractor.read_batches(video))
    assert [batch.shape for batch in batches] == [(8, 32, 32, 3), (8, 32, 32, 3), (4, 32, 32, 3)]
    assert extractor.extract(video).shape == (20, 1024)


def test_the_frames_that_fill_a_batch_change_nothing(extractor):
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), "uint8")
    together = extractor.encode(frames)
    alone = np.concatenate([extractor.encode(frame[None]) for frame in frames])
    assert together.shape == (5, 1024)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6 * np.abs(alone).max())


def test_few_shapes_are_computed(extractor, monkeypatch):
    shapes = set()
    compute = extractor.model.predict_on_batch
    monkeypatch.setattr(extractor.model, "predict_on_batch", lambda x: shapes.add(x.shape[1]) or compute(x))
    for length in range(1, 9):
        extractor.encode(np.zeros((length, 32, 32, 3), "uint8"))
    assert shapes == {1, 2, 4, 8}


def test_arguments_that_make_no_model_are_one_sentence():
    with pytest.raises(BackboneError, match=r"must make a model\. Received: .*MobileNet.*size=4.* Reason: "):
        FeatureExtractor("MobileNet", "no.weights.h5", 4, "avg", 1, 8)


def test_a_file_that_declares_more_weights_than_it_holds_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "declares.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("conv1/kernel", (10**9,), "float32", chunks=True)  # no values are stored
    with pytest.raises(BackboneError, match=r"weights=.*declares\.h5.* declares weights of 4,000,000,000 bytes"):
        FeatureExtractor("MobileNet", path, 32, "avg", 1, 8)
