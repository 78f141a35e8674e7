"""`NetVLADStream`: any split, any order, any number of processes, the same descriptor."""

import importlib.util
import multiprocessing
import pickle

import keras
import numpy as np
import pytest
from layer_contract import to_numpy
from paths import EXAMPLES

from keras_netvlad import NetVLAD
from keras_netvlad.layers.vlad import VLAD
from keras_netvlad.stream import NetVLADStream

pytestmark = pytest.mark.backends

# In chunks beside at once, values of at most 1: measured 1.0e-7 at worst over splits, orders and backends, headroom 9.
TOLERANCE = 1e-6

BATCH, LENGTH, SIZE, CLUSTERS = 2, 240, 16, 8


def video(seed=0, shape=(BATCH, LENGTH, SIZE)):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def netvlad(**options):
    keras.utils.set_random_seed(1)
    layer = NetVLAD(CLUSTERS, **options)
    layer.build((None, None, SIZE))
    layer.kernel.assign(4 * layer.kernel.numpy())  # assignments that are neither even nor hard
    return layer


def chunks_of(frames, mask, rng, num_chunks=6):
    """Chunks of random lengths, some of them empty, in random order."""
    # Multiples of 40: JAX compiles for each length.
    cuts = np.sort(40 * rng.integers(0, LENGTH // 40 + 1, size=num_chunks - 1))
    parts = list(zip(np.split(frames, cuts, axis=1), np.split(mask, cuts, axis=1), strict=True))
    return [parts[i] for i in rng.permutation(num_chunks)]


@pytest.mark.parametrize(
    "make_layer",
    [
        netvlad,
        lambda: netvlad(num_ghost_clusters=2, normalize_input=True),
        lambda: netvlad(assignment_batch_normalization=True),
        lambda: netvlad(intra_normalization=False),
        lambda: VLAD(CLUSTERS),
    ],
    ids=["plain", "ghosts", "batch_normalization", "no_intra_normalization", "vlad"],
)
def test_any_split_in_any_order(make_layer):
    layer, frames = make_layer(), video()
    mask = np.random.default_rng(1).random((BATCH, LENGTH)) < [[0.9], [0.4]]
    expected = to_numpy(layer(frames, mask=mask))
    for seed in range(3):
        stream = NetVLADStream(layer)
        for chunk, chunk_mask in chunks_of(frames, mask, np.random.default_rng(seed)):
            assert stream.update(np.where(chunk_mask[:, :, None], chunk, np.nan), mask=chunk_mask) is None
        np.testing.assert_allclose(stream.descriptor(), expected, rtol=0, atol=TOLERANCE)
        assert stream.first_sum.dtype == stream.second_sum.dtype == np.float64
        assert (stream.first_sum.shape, stream.second_sum.shape) == ((BATCH, CLUSTERS, SIZE), (BATCH, CLUSTERS))


def test_descriptor_at_any_moment():
    layer, frames = netvlad(), video()
    stream = NetVLADStream(layer)
    for stop in range(60, LENGTH + 1, 60):
        stream.update(frames[:, stop - 60 : stop])
        np.testing.assert_allclose(stream.descriptor(), to_numpy(layer(frames[:, :stop])), rtol=0, atol=TOLERANCE)
    first_sum = stream.first_sum
    before = first_sum.copy()
    stream.update(frames[:, :60])
    np.testing.assert_array_equal(first_sum, before)  # what was handed out keeps its values


def test_video_maps():
    layer = netvlad()
    maps = video(shape=(2, 6, 2, 3, SIZE))
    mask = np.arange(6) < np.array([[6], [4]])
    stream = NetVLADStream(layer)
    for part in (slice(3, 6), slice(0, 3)):
        stream.update(maps[:, part], mask=mask[:, part])
    np.testing.assert_allclose(stream.descriptor(), to_numpy(layer(maps, mask=mask)), rtol=0, atol=TOLERANCE)


def test_long_streams_gain_no_rounding():
    """The same chunk a thousand times over has the descriptor of the chunk; float32 sums would drift."""
    layer, frames = netvlad(), video()
    stream = NetVLADStream(layer)
    stream.update(frames)
    expected, once = stream.descriptor(), (stream.first_sum, stream.second_sum)
    for _ in range(1000):
        stream.merge(once)
    # Measured 3e-8, the rounding of the output, headroom 6; with float32 sums 2.1e-6 to 2.7e-6.
    np.testing.assert_allclose(stream.descriptor(), expected, rtol=0, atol=2e-7)


def test_mixed_precision_descriptor_has_the_layers_dtype():
    keras.utils.set_random_seed(1)
    layer = NetVLAD(CLUSTERS, dtype="mixed_float16")
    stream = NetVLADStream(layer)
    stream.update(video())
    assert stream.descriptor().dtype == np.float16
    assert stream.first_sum.dtype == np.float64


def test_merge_streams_and_pairs():
    layer, frames = netvlad(), video()
    parts = [NetVLADStream(layer) for _ in range(3)]
    for part, chunk in zip(parts, np.split(frames, 3, axis=1), strict=True):
        part.update(chunk)
    merged = NetVLADStream(layer)
    merged.merge(NetVLADStream(layer))
    merged.merge((None, None))
    assert merged.first_sum is None
    merged.merge(parts[2])
    merged.merge((parts[0].first_sum, parts[0].second_sum))
    merged.merge(pickle.loads(pickle.dumps(parts[1])))
    np.testing.assert_allclose(merged.descriptor(), to_numpy(layer(frames)), rtol=0, atol=TOLERANCE)
    merged.first_sum[:] = 0
    assert parts[2].first_sum.any()


def pool_part(path, weights, num_part):
    """Runs in a process of its own: sums a part of the video."""
    layer = netvlad()
    layer.set_weights(weights)
    stream = NetVLADStream(layer)
    stream.update(np.load(path)[:, num_part::2])
    return stream.first_sum, stream.second_sum


@pytest.mark.slow
def test_merge_from_other_processes(tmp_path):
    layer, frames = netvlad(), video()
    np.save(tmp_path / "video.npy", frames)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        arguments = [(tmp_path / "video.npy", layer.get_weights(), part) for part in range(2)]
        sums = pool.starmap(pool_part, arguments, chunksize=1)
    stream = NetVLADStream(layer)
    for pair in sums:
        stream.merge(pair)
    np.testing.assert_allclose(stream.descriptor(), to_numpy(layer(frames)), rtol=0, atol=TOLERANCE)


def test_reset():
    layer = netvlad()
    stream = NetVLADStream(layer)
    stream.update(video())
    stream.reset()
    with pytest.raises(ValueError, match="no frames yet"):
        stream.descriptor()
    frames = video(shape=(1, 60, SIZE))
    stream.update(frames)
    np.testing.assert_allclose(stream.descriptor(), to_numpy(layer(frames)), rtol=0, atol=TOLERANCE)


def test_masked_chunks_count_for_nothing():
    stream = NetVLADStream(netvlad())
    stream.update(video(), mask=np.zeros((BATCH, LENGTH), bool))
    assert not stream.descriptor().any()


def nan_frames():
    frames = video()
    frames[0, 5, 3] = np.nan
    return frames


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda s: s.update(video(shape=(3, 12, SIZE))), ValueError, r"holds 2 videos.*shape \(3, 12, 16\)"),
        (lambda s: s.update(video(shape=(2, 12, 5))), ValueError, r"size 16.*Received: shape \(2, 12, 5\)"),
        (lambda s: s.update(video(shape=(2, SIZE))), ValueError, r"Received: shape \(2, 16\)"),
        (lambda s: s.update(np.float32(1.0)), ValueError, r"Received: (frames of )?shape \(\)"),
        (lambda s: s.update(video(), mask=np.ones((2, 3), bool)), ValueError, r"mask of shape \(2, 3\)"),
        (lambda s: s.update(nan_frames()), ValueError, "mask out frames that hold NaN"),
        (lambda s: s.merge((np.ones((2, 8, 5)), np.ones((2, 8)))), ValueError, r"\(2, 8, 16\).*Received.*\(2, 8, 5\)"),
        (lambda s: s.merge((np.ones((1, 8, 16)), np.ones((1, 8)))), ValueError, r"Received: shapes \(1, 8, 16\)"),
        (lambda s: s.merge((np.ones((2, 8, 16)), np.ones(8))), ValueError, r"and \(8,\)"),
        (lambda s: s.merge((np.full((2, 8, 16), np.nan), np.ones((2, 8)))), ValueError, "not finite"),
        (lambda s: s.merge(np.ones((2, 8, 16))), TypeError, "Received: a ndarray"),
        (lambda s: s.merge(s.layer), TypeError, "Received: a NetVLAD"),
    ],
)
def test_refusals_add_nothing(act, error, message):
    stream = NetVLADStream(netvlad())
    stream.update(video())
    sums = stream.first_sum.copy(), stream.second_sum.copy()
    with pytest.raises(error, match=message):
        act(stream)
    np.testing.assert_array_equal(stream.first_sum, sums[0])
    np.testing.assert_array_equal(stream.second_sum, sums[1])


def test_first_update_with_broken_frames_leaves_the_stream_empty():
    stream = NetVLADStream(netvlad())
    with pytest.raises(ValueError, match="not finite"):
        stream.update(nan_frames())
    assert stream.first_sum is None


def test_streams_of_other_weights_do_not_merge():
    other = netvlad()
    other.centroids.assign(other.centroids.numpy() + 1)
    streams = NetVLADStream(netvlad()), NetVLADStream(other)
    for stream in streams:
        stream.update(video())
    with pytest.raises(ValueError, match="same weights"):
        streams[0].merge(streams[1])


@pytest.mark.parametrize("layer", [keras.layers.Dense(3), None, "NetVLAD"])
def test_other_layers(layer):
    with pytest.raises(TypeError, match=r"must be a NetVLAD or another pooling.*Received: a"):
        NetVLADStream(layer)


def test_the_example_runs(capsys):
    path = EXAMPLES / "long_video.py"
    spec = importlib.util.spec_from_file_location("long_video", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    options = ["--minutes", "0.4", "--features", "32", "--clusters", "8", "--chunk", "100"]
    # Relative to the largest value; 6.6e-7 measured, headroom 6.
    assert example.main(options) < 4e-6
    printed = capsys.readouterr().out
    assert "600 frames" in printed
    assert "peak memory grew by" in printed
