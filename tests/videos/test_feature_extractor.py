"""Frames of several videos share batches, and each video gets its own features."""

import numpy as np
import pytest
from make_videos import grey, write_video

from keras_netvlad.base.video_decoding import UnreadableVideoError
from keras_netvlad.videos.feature_extractor import FeatureExtractor

LENGTHS = (3, 20, 1, 8, 2)


def mean_color(frames):
    return frames.mean(axis=(1, 2))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Videos of different lengths; frame `i` of video `v` has the grey level `40 * v + i`."""
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_video(folder / f"{v}.mkv", [grey(40 * v + i) for i in range(length)], codec="ffv1")
        for v, length in enumerate(LENGTHS)
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 8, 100])
def test_every_video_gets_its_frames_in_order(videos, batch_size):
    sizes = []

    def encode(frames):
        sizes.append(len(frames))
        return mean_color(frames)

    extractor = FeatureExtractor(encode, 32, fps=10, batch_size=batch_size)
    results = list(extractor.extract(videos))
    assert [number for number, _ in results] == list(range(len(videos)))
    for v, features in results:
        expected = 40.0 * v + np.arange(LENGTHS[v])
        np.testing.assert_allclose(features, np.repeat(expected[:, None], 3, axis=1), atol=2)  # of the color conversion
    # Batches are full, except the last.
    assert set(sizes[:-1]) <= {batch_size}
    assert sum(sizes) == sum(LENGTHS)


def test_a_video_that_can_not_be_read_is_an_error_among_the_others(videos, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    extractor = FeatureExtractor(mean_color, 32, fps=10, batch_size=4)
    results = dict(extractor.extract([videos[0], broken, tmp_path / "absent.mp4", videos[4]]))
    assert isinstance(results[1], UnreadableVideoError)
    assert isinstance(results[2], FileNotFoundError)
    assert (len(results[0]), len(results[3])) == (LENGTHS[0], LENGTHS[4])


def test_an_error_of_the_encoder_ends_the_extraction(videos):
    def fail(frames):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        list(FeatureExtractor(fail, 32, fps=10).extract(videos))


def test_nothing_beyond_the_seconds_asked_for_is_read(videos):
    extractor = FeatureExtractor(mean_color, 32, fps=10, max_seconds=0.5)
    assert [len(features) for _, features in extractor.extract(videos)] == [3, 5, 1, 5, 2]
