"""Pooling with given scores or assignments: the layers that it generalizes, GhostVLAD, masks, streams, exports."""

import keras
import numpy as np
import pytest
import reference
from layer_contract import BACKEND, check_layer, loss_and_gradients, randomize_weights, to_numpy

from keras_netvlad import NetVLAD, NetVLADStream, VideoEncoder
from keras_netvlad.layers import VLAD, FrameMask, NetRVLAD, ScoredVLAD

pytestmark = pytest.mark.backends

# Float32 next to float64, relative to the largest value: 3e-7 measured at worst, headroom 10.
TOLERANCE = 3e-6
SIZE, CLUSTERS, GHOSTS = 6, 3, 2
FRAMES, IMAGES, VIDEOS = (2, 7, SIZE), (2, 3, 4, SIZE), (2, 3, 2, 4, SIZE)


def random_array(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def masks_of(shape):
    """A mask of booleans and one of weights, with padding in each row."""
    mask = np.random.default_rng(1).random(shape[:-1]) < 0.6
    mask.reshape(2, -1)[:, :2] = [True, False]
    return mask, mask * np.random.default_rng(2).uniform(0.5, 2, mask.shape).astype("float32")


def built(layer, shape=FRAMES):
    layer.build(shape)
    randomize_weights(layer)
    return layer


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def expected_descriptor(x, a, mask=None, centroids=None, **norms):
    """The equations in float64: `x` `(B, ..., D)` and the assignments `a` `(B, ..., K)` of the clusters that stay."""
    x, weights = reference.flatten(x, mask)
    a = np.asarray(a, "float64").reshape(*x.shape[:2], -1)
    x, a = np.where(weights[..., None] > 0, x, 0.0), np.where(weights[..., None] > 0, a * weights[..., None], 0.0)
    first = np.einsum("bnk,bnd->bkd", a, x)
    centroids = np.zeros(first.shape[1:]) if centroids is None else to_numpy(centroids)
    return reference.describe(first, a.sum(axis=1), centroids, **norms)


def assert_close(received, expected):
    received = to_numpy(received)
    assert received.shape == expected.shape
    np.testing.assert_allclose(received, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("shape", [FRAMES, IMAGES, VIDEOS])
def test_the_scores_of_a_netvlad_give_its_descriptor_exactly(shape):
    netvlad = built(NetVLAD(CLUSTERS, num_ghost_clusters=GHOSTS), shape)
    layer = built(ScoredVLAD(CLUSTERS, num_ghost_clusters=GHOSTS), shape)
    layer.centroids.assign(netvlad.centroids)
    x = random_array(shape)
    flat = keras.ops.convert_to_tensor(x.reshape(2, -1, SIZE))
    scores = to_numpy(flat @ netvlad.kernel.value + netvlad.bias.value).reshape(*shape[:-1], CLUSTERS + GHOSTS)
    for mask in (None, *masks_of(shape)):
        given = {"mask": mask, "scores": scores}
        np.testing.assert_array_equal(to_numpy(layer(x, **given)), to_numpy(netvlad(x, mask=mask)))
        np.testing.assert_array_equal(to_numpy(layer.assign(x, **given)), to_numpy(netvlad.assign(x, mask=mask)))
        for received, expected in zip(layer.aggregate(x, **given), netvlad.aggregate(x, mask=mask), strict=True):
            np.testing.assert_array_equal(to_numpy(received), to_numpy(expected))


def test_a_score_layer_computes_the_scores_that_could_be_given():
    layer = built(ScoredVLAD(CLUSTERS, score_layer=keras.layers.Conv1D(CLUSTERS, 3, padding="same")))
    x, mask = random_array(FRAMES), np.arange(7) < [[7], [4]]
    # The layer sees zeros for padding, as a convolution has them at the end of a video.
    scores = to_numpy(layer.score_layer(np.where(mask[..., None], x, 0.0)))
    np.testing.assert_array_equal(to_numpy(layer(x, mask=mask)), to_numpy(layer(x, mask=mask, scores=scores)))
    short = layer(x[1:, :4])
    # Measured 0 on TensorFlow.
    np.testing.assert_allclose(to_numpy(layer(x, mask=mask))[1:], to_numpy(short), rtol=0, atol=TOLERANCE)


def test_a_score_layer_of_maps_sees_maps():
    layer = built(ScoredVLAD(CLUSTERS, score_layer=keras.layers.Conv2D(CLUSTERS, (3, 1), padding="same")), IMAGES)
    x = random_array(IMAGES)
    expected = expected_descriptor(x, softmax(to_numpy(layer.score_layer(x))), centroids=layer.centroids)
    assert_close(layer(x), expected)


def test_ghostvlad_is_the_published_one():
    """Features and scores are convolutions of the same maps; the descriptor keeps the lengths of its clusters."""
    maps = random_array((2, 9, 5, 8))
    features = to_numpy(keras.layers.Conv2D(SIZE, (7, 1), activation="relu")(maps))
    scores = to_numpy(keras.layers.Conv2D(CLUSTERS + GHOSTS, (7, 1))(maps))
    layer = built(ScoredVLAD(CLUSTERS, num_ghost_clusters=GHOSTS, output_normalization=False), features.shape)
    expected = expected_descriptor(
        features, softmax(scores)[..., :CLUSTERS], centroids=layer.centroids, output_normalization=False
    )
    assert_close(layer(features, scores=scores), expected)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), np.sqrt(CLUSTERS), rtol=1e-6)


@pytest.mark.parametrize("softmaxed", [True, False])
@pytest.mark.parametrize("shape", [FRAMES, VIDEOS])
def test_values_are_those_of_the_equations(softmaxed, shape):
    layer = built(ScoredVLAD(CLUSTERS, num_ghost_clusters=1, softmax=softmaxed, intra_normalization=False), shape)
    x = random_array(shape)
    scores = np.abs(random_array((*shape[:-1], CLUSTERS + 1), seed=4))
    a = (softmax(scores) if softmaxed else scores)[..., :CLUSTERS]
    for mask in (None, *masks_of(shape)):
        expected = expected_descriptor(x, a, mask, layer.centroids, intra_normalization=False)
        assert_close(layer(x, mask=mask, scores=scores), expected)


def test_hard_assignments_are_vlad_and_no_centroids_are_netrvlad():
    x = random_array(FRAMES)
    vlad = built(VLAD(CLUSTERS))
    layer = built(ScoredVLAD(CLUSTERS, softmax=False))
    layer.centroids.assign(vlad.centroids)
    np.testing.assert_array_equal(to_numpy(layer(x, scores=to_numpy(vlad.assign(x)))), to_numpy(vlad(x)))
    netrvlad = built(NetRVLAD(CLUSTERS))
    without = built(ScoredVLAD(CLUSTERS, softmax=False, use_centroids=False))
    assert without.weights == []
    np.testing.assert_array_equal(to_numpy(without(x, scores=to_numpy(netrvlad.assign(x)))), to_numpy(netrvlad(x)))


@pytest.mark.parametrize("softmaxed", [True, False])
def test_padding_of_scores_changes_nothing_and_passes_no_gradient(softmaxed):
    x, scores = random_array(FRAMES), np.abs(random_array((*FRAMES[:-1], CLUSTERS), seed=5))
    mask = np.array([[True] * 5 + [False] * 2, [False] * 7])
    layer = built(ScoredVLAD(CLUSTERS, softmax=softmaxed))
    expected = to_numpy(layer(x, mask=mask, scores=scores))
    assert not expected[1].any()
    for padding in (np.nan, np.inf, -1e30):
        padded = [np.where(mask[..., None], values, np.float32(padding)) for values in (x, scores)]
        np.testing.assert_array_equal(to_numpy(layer(padded[0], mask=mask, scores=padded[1])), expected)

    class Joined(keras.Layer):
        """Features and scores as one tensor, to take the gradient by both."""

        def __init__(self):
            super().__init__()
            self.pooling = layer

        def call(self, inputs, mask=None):
            return self.pooling(inputs[..., :SIZE], mask=mask, scores=inputs[..., SIZE:])

        def compute_output_shape(self, input_shape):
            return input_shape[0], CLUSTERS * SIZE

    joined = Joined()
    joined.build((*FRAMES[:-1], SIZE + CLUSTERS))
    _, gradient, by_weights = loss_and_gradients(joined, np.concatenate(padded, axis=2), mask)
    assert all(np.isfinite(values).all() for values in (gradient, *by_weights))
    assert not gradient[~mask].any()
    assert gradient[0, :5, :SIZE].any()
    assert gradient[0, :5, SIZE:].any()


def test_the_contract_of_layers(tmp_path):
    mask = np.array([[True] * 5 + [False] * 2, [False] + [True] * 4 + [False] * 2])

    def make(dtype=None, **arguments):
        # A layer has its own policy; under mixed precision, whose scores are rounded, this one stays float32.
        dense = keras.layers.Dense(CLUSTERS + 1, dtype="float64" if dtype == "float64" else "float32")
        return ScoredVLAD(CLUSTERS, num_ghost_clusters=1, score_layer=dense, dtype=dtype, **arguments)

    check_layer(make, FRAMES, tmp_path, mask=mask)


def test_score_layers_in_mixed_precision_and_in_training():
    scoring = keras.Sequential(
        [keras.layers.Dense(4, "relu"), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    )
    layer = ScoredVLAD(CLUSTERS, score_layer=scoring, dtype="mixed_float16")
    x, mask = 300 * random_array(FRAMES), np.arange(7) < [[7], [3]]
    y = layer(np.where(mask[..., None], x, np.nan), mask=mask, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    assert np.isfinite(to_numpy(y)).all()
    # The statistics are those of real frames: the mask reaches the batch normalization.
    normalization = scoring.layers[1]
    hidden = to_numpy(scoring.layers[0](x))[mask]
    np.testing.assert_allclose(normalization.moving_mean.numpy(), 0.01 * hidden.mean(axis=0), rtol=1e-3)


@pytest.mark.parametrize("softmaxed", [True, False])
def test_a_stream_takes_scores_with_its_chunks(softmaxed):
    layer = built(ScoredVLAD(CLUSTERS, softmax=softmaxed))
    x, scores = random_array((2, 9, SIZE)), np.abs(random_array((2, 9, CLUSTERS), seed=6))
    mask = np.arange(9) < [[9], [5]]
    stream = NetVLADStream(layer)
    for part in (slice(0, 2), slice(2, 8), slice(8, 9)):
        stream.update(x[:, part], mask=mask[:, part], scores=scores[:, part])
    assert_close(stream.descriptor(), to_numpy(layer(x, mask=mask, scores=scores)))


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (lambda: ScoredVLAD(3, name="s"), {}, ValueError, "`s` needs `scores`, 3 for each feature, or a `score_layer`"),
        (
            lambda: ScoredVLAD(3, 1, name="s"),
            {"scores": random_array((2, 7, 3))},
            ValueError,
            r"The scores of `s` must have the shape \(2, 7, 4\).*Received: shape \(2, 7, 3\)",
        ),
        (
            lambda: ScoredVLAD(3),
            {"scores": random_array((2, 6, 3))},
            ValueError,
            r"must have the shape \(2, 7, 3\).*Received: shape \(2, 6, 3\)",
        ),
        (lambda: ScoredVLAD(3), {"scores": random_array((2, 3))}, ValueError, r"Received: shape \(2, 3\)"),
        (lambda: ScoredVLAD(3, score_layer=keras.layers.Dense(4)), {}, ValueError, r"Received: shape \(2, 7, 4\)"),
        (lambda: ScoredVLAD(3, score_layer="dense"), {}, TypeError, "must be a Keras layer or None. Received: .*dense"),
        (lambda: ScoredVLAD(3, softmax=1), {}, ValueError, "`softmax` must be True or False"),
        (lambda: ScoredVLAD(3, num_ghost_clusters=-1), {}, ValueError, "must be an integer of 0 or more"),
    ],
)
def test_wrong_arguments_and_scores_are_refused(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make()(random_array(FRAMES), **arguments)


def test_a_model_refuses_missing_scores_when_it_is_made():
    with pytest.raises(ValueError, match="or a `score_layer` that computes them"):
        VideoEncoder({"frames": SIZE}, pooling=ScoredVLAD(CLUSTERS))


def test_an_encoder_survives_its_file_and_configuration(tmp_path):
    scoring = keras.layers.Conv1D(CLUSTERS + 1, 3, padding="same", activation="tanh")
    encoder = VideoEncoder(
        {"rgb": SIZE, "audio": 4}, pooling=ScoredVLAD(CLUSTERS, num_ghost_clusters=1, score_layer=scoring)
    )
    assert len({id(layer.score_layer) for layer in encoder.pooling_layers.values()}) == 2
    videos = {"rgb": random_array((2, 7, SIZE)), "audio": random_array((2, 7, 4)), "num_frames": np.array([7, 3])}
    expected = to_numpy(encoder(videos)["descriptor"])
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(to_numpy(loaded(videos)["descriptor"]), expected)
    assert loaded.get_config() == encoder.get_config()
    padded = {**videos, "rgb": np.pad(videos["rgb"], ((0, 0), (0, 3), (0, 0))), "audio": videos["audio"]}
    padded["audio"] = np.pad(videos["audio"], ((0, 0), (0, 3), (0, 0)), constant_values=np.nan)
    assert_close(loaded(padded)["descriptor"], expected)


needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")


def ghostvlad(score):
    """A model of frames whose scores are computed from another tensor than the features."""
    frames, num_frames = keras.Input((None, SIZE), name="frames"), keras.Input((), dtype="int32", name="num_frames")
    mask = FrameMask()(num_frames, frames)
    features = keras.layers.Dense(5, "relu")(frames)
    layer = ScoredVLAD(CLUSTERS, num_ghost_clusters=1, output_normalization=False)
    outputs = {"descriptor": layer(features, scores=score(frames, mask), mask=mask)}
    return keras.Model({"frames": frames, "num_frames": num_frames}, outputs, name="ghostvlad")


SCORES = {
    "frame by frame": (lambda frames, mask: keras.layers.Dense(CLUSTERS + 1)(frames), True),
    "convolution": (
        lambda frames, mask: keras.layers.Conv1D(CLUSTERS + 1, 3, padding="same")(
            keras.ops.where(keras.ops.expand_dims(mask, 2), frames, 0.0)
        ),
        False,
    ),
}


@needs_tensorflow
@pytest.mark.parametrize("name", SCORES)
def test_a_live_stream_is_offered_where_scores_are_frame_by_frame(name):
    from keras_netvlad.export.serving_signatures import serving_signatures

    score, is_offered = SCORES[name]
    assert ("accumulate" in serving_signatures(ghostvlad(score))) is is_offered


@needs_tensorflow
@pytest.mark.parametrize(
    ("scoring", "is_offered"),
    [
        (lambda: keras.layers.Dense(CLUSTERS), True),
        (lambda: keras.Sequential([keras.layers.Dense(4, "relu"), keras.layers.Dense(CLUSTERS)]), True),
        (lambda: keras.layers.Conv1D(CLUSTERS, 3, padding="same"), False),
        (lambda: keras.layers.LSTM(CLUSTERS, return_sequences=True), False),
    ],
)
def test_a_live_stream_of_an_encoder_depends_on_its_score_layer(scoring, is_offered):
    from keras_netvlad.export.serving_signatures import live_stream_obstacle, serving_signatures

    layer = ScoredVLAD(CLUSTERS, score_layer=scoring())
    encoder = VideoEncoder({"frames": SIZE}, pooling=layer)
    signatures = serving_signatures(encoder)
    assert ("accumulate" in signatures) is is_offered
    obstacle = live_stream_obstacle(encoder, signatures["serving_default"])
    assert (obstacle is None) is is_offered
    if not is_offered:
        assert "may combine frames before the pooling" in obstacle
    assert len(layer.score_layer._inbound_nodes) == 0


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("name", [*SCORES, "encoder"])
def test_both_formats_are_the_model(name, tmp_path):
    from keras_netvlad.export import export_model

    if name == "encoder":
        scoring = keras.layers.Dense(CLUSTERS + 1)
        pooling = ScoredVLAD(CLUSTERS, num_ghost_clusters=1, score_layer=scoring)
        model, streams = VideoEncoder({"frames": SIZE}, pooling=pooling, name="encoder"), True
    else:
        score, streams = SCORES[name]
        model = ghostvlad(score)
    reports = export_model(model, tmp_path / "out", onnx_signatures="all")
    assert all(report.ok for report in reports)
    assert any("accumulate" in str(report) for report in reports) is streams
