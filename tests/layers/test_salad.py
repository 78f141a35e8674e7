"""SALAD: the transport and its marginals, few features, weights, the global token, extreme scores, exports."""

import itertools

import keras
import numpy as np
import pytest
import reference
from layer_contract import BACKEND, check_layer, loss_and_gradients, randomize_weights, to_numpy

from keras_netvlad import NetVLADStream, VideoEncoder
from keras_netvlad.layers import SALAD, FrameMask, NetRVLAD
from keras_netvlad.layers.optimal_transport import transported_assignments

pytestmark = pytest.mark.backends

# Float32 next to float64, relative to the largest value: 4e-7 measured at worst, headroom 8.
TOLERANCE = 3e-6
SIZE, CLUSTERS = 6, 3


def random_array(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make(**options):
    layer = SALAD(**{"num_clusters": CLUSTERS, "cluster_size": 4, "hidden_units": 5, **options})
    layer.build((None, None, SIZE))
    randomize_weights(layer)
    return layer


def weights_of(layer):
    return {weight.name: to_numpy(weight).astype("float64") for weight in layer.weights}


def assert_close(received, expected):
    np.testing.assert_allclose(to_numpy(received), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def transported(scores, weights=None, iterations=3):
    tensor = keras.ops.convert_to_tensor
    weights = np.ones((*scores.shape[:2], 1), "float32") if weights is None else weights
    present = weights[..., 0] > 0
    return to_numpy(transported_assignments(tensor(scores), tensor(weights), tensor(present), iterations))


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 9])
def test_every_cluster_gets_its_share_of_many_and_of_few_features(number):
    scores = random_array((2, number, CLUSTERS))
    a = transported(scores, iterations=200)
    share = 1.0 if number > CLUSTERS else number / (CLUSTERS + 1)
    # Measured 1e-6.
    np.testing.assert_allclose(a.sum(axis=1), np.full((2, CLUSTERS), share), rtol=1e-5)
    assert (a > 0).all()
    # The dustbin has its share of every feature.
    assert (a.sum(axis=2) < 1).all()
    np.testing.assert_allclose((1 - a.sum(axis=2)).sum(axis=1), number - CLUSTERS * share, rtol=1e-4)


def test_transport_changes_continuously_with_the_weight_of_the_features():
    scores = random_array((1, 6, CLUSTERS))
    totals = np.linspace(CLUSTERS - 1, CLUSTERS + 2, 31)
    plans = [transported(scores, weights=np.full((1, 6, 1), total / 6, "float32")) for total in totals]
    # The total changes by 0.1 a step.
    assert max(np.abs(after - before).max() for before, after in itertools.pairwise(plans)) < 0.1


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0, 1e4])
def test_scores_of_any_scale_give_finite_assignments(scale):
    scores = scale * random_array((2, 9, CLUSTERS))
    a = transported(scores)
    assert np.isfinite(a).all()
    assert (a >= 0).all()
    # Measured 1 + 2e-7.
    assert (a.sum(axis=2) <= 1 + 1e-6).all()


def test_a_score_that_all_features_share_cancels():
    """Why the layer learns neither a bias of the scores nor a score of the dustbin, as the published code does."""
    scores = random_array((2, 9, CLUSTERS))
    for iterations in (1, 3):
        shifted = transported(scores + np.float32([5.0, -3.0, 1.0]), iterations=iterations)
        # Measured 5e-7.
        np.testing.assert_allclose(shifted, transported(scores, iterations=iterations), rtol=0, atol=5e-6)


@pytest.mark.parametrize("number", [2, 9])
def test_a_feature_of_weight_two_counts_like_two(number):
    layer, x = make(), random_array((2, number, SIZE))
    weights = np.ones((2, number), "float32")
    weights[:, 1] = 2.0
    doubled = np.concatenate([x, x[:, 1:2]], axis=1)
    assert_close(layer(x, mask=weights), to_numpy(layer(doubled)))
    assert_close(layer(x, mask=weights), reference.salad(x, weights_of(layer), 3, weights))


@pytest.mark.parametrize("number", [1, CLUSTERS, CLUSTERS + 1, 12])
@pytest.mark.parametrize("normalized", [True, False])
def test_a_global_token_comes_first(number, normalized):
    layer = make(token_size=7, output_normalization=normalized)
    x, token = random_array((2, number, SIZE)), random_array((2, SIZE), seed=1)
    mask = np.arange(number) < [[number], [(number + 1) // 2]]
    y = layer(x, mask=mask, token=token)
    expected = reference.salad(x, weights_of(layer), 3, mask, normalized, token.astype("float64"))
    assert_close(y, expected)
    nothing = to_numpy(layer(x, mask=np.zeros_like(mask), token=token))
    np.testing.assert_allclose(np.linalg.norm(nothing[:, :7], axis=1), 1.0, rtol=1e-6)
    assert not nothing[:, 7:].any()


def test_dropout_is_for_training():
    x = random_array((2, 9, SIZE))
    layer = make(dropout=0.5)
    np.testing.assert_array_equal(to_numpy(layer(x)), to_numpy(layer(x, training=False)))
    assert np.abs(to_numpy(layer(x)) - to_numpy(layer(x, training=True))).max() > 1e-3
    np.testing.assert_array_equal(to_numpy(make(dropout=0.0)(x, training=True)), to_numpy(layer(x)))


@pytest.mark.parametrize("number", [2, 9])
def test_gradients_are_those_of_finite_differences(number):
    """In float64, through all iterations; also with fewer features than clusters."""
    if BACKEND == "jax":
        pytest.skip("JAX has float64 in a context only; TensorFlow and torch check the same code")
    layer = make(dtype="float64", dropout=0.0)
    x = random_array((1, number, SIZE)).astype("float64")
    loss, gradient, _ = loss_and_gradients(layer, x)
    for place in ((0, 0, 0), (0, 1, 3), (0, number - 1, 5)):
        moved = x.copy()
        moved[place] += 1e-6
        difference = (loss_and_gradients(layer, moved)[0] - loss) / 1e-6
        assert abs(gradient[place] - difference) < 1e-4 * max(1.0, abs(difference))


@pytest.mark.slow
def test_few_features_pass_the_contract_of_layers(tmp_path):
    mask = np.array([[True] * 2 + [False] * 2, [False, True, False, False]])

    def few(**arguments):
        # More clusters than features.
        return SALAD(num_clusters=6, cluster_size=4, hidden_units=5, **arguments)

    check_layer(few, (2, 4, SIZE), tmp_path, mask=mask)


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_float16_holds_large_features(dtype):
    layer = SALAD(CLUSTERS, cluster_size=4, hidden_units=16, dtype=dtype)
    y = to_numpy(layer((1e4 * random_array((2, 9, SIZE))).astype("float16")))
    assert np.isfinite(y).all()
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1.0, rtol=2e-3)


def test_no_stream_takes_it():
    with pytest.raises(TypeError, match="or another pooling with `aggregate`"):
        NetVLADStream(make())


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: make(iterations=0), "`iterations` must be a positive integer. Received: iterations=0"),
        (lambda: make(dropout=1.0), "`dropout` must be a number from 0 to below 1"),
        (lambda: make(token_size=0), "`token_size` must be a positive integer"),
        (lambda: make(cluster_size=0), "`cluster_size` must be a positive integer"),
        (
            lambda: make(name="s")(random_array((2, 9, SIZE)), token=random_array((2, SIZE))),
            "`s` takes a `token` if it has a `token_size`, and only then. Received: token_size=None and a token",
        ),
        (lambda: make(token_size=3)(random_array((2, 9, SIZE))), "Received: token_size=3 and no token"),
        (
            lambda: make(token_size=3)(random_array((2, 9, SIZE)), token=random_array((2, 5))),
            r"must have the shape \(2, 6\), one for each video or image. Received: shape \(2, 5\)",
        ),
        (
            lambda: make(token_size=3)(random_array((2, 9, SIZE)), token=random_array((1, SIZE))),
            r"Received: shape \(1, 6\)",
        ),
        (lambda: VideoEncoder({"frames": 4}, "salad", pooling_options={"token_size": 3}), "and no token"),
    ],
)
def test_wrong_arguments_are_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.slow
@pytest.mark.parametrize("with_token", [True, False])
def test_both_formats_are_the_model_for_few_and_many_frames(with_token, tmp_path):
    from keras_netvlad.export import export_model
    from keras_netvlad.export.serving_signatures import serving_signatures

    frames, num_frames = keras.Input((None, SIZE), name="frames"), keras.Input((), dtype="int32", name="num_frames")
    token = keras.Input((SIZE,), name="token")
    layer = make(token_size=4 if with_token else None)
    mask = FrameMask()(num_frames, frames)
    inputs = {"frames": frames, "num_frames": num_frames, **({"token": token} if with_token else {})}
    descriptor = layer(frames, mask=mask, **({"token": token} if with_token else {}))
    model = keras.Model(inputs, {"descriptor": descriptor}, name="salad")
    assert "accumulate" not in serving_signatures(model)
    # The verification runs videos of 0 to 40 frames, fewer and more than clusters.
    assert all(report.ok for report in export_model(model, tmp_path / "out"))


def test_supervlad_is_netrvlad_with_four_clusters_and_a_ghost():
    """Lu et al. 2024: sums of the tokens, without centroids, of four clusters; the ghost is dropped."""
    encoder = VideoEncoder({"frames": SIZE}, pooling=NetRVLAD.supervlad(name="places"))
    layer = encoder.pooling_layers["frames"]
    assert (layer.name, layer.num_clusters, layer.num_ghost_clusters) == ("places", 4, 1)
    randomize_weights(layer)
    x = random_array((1, 9, SIZE))
    logits = x[0].astype("float64") @ to_numpy(layer.kernel) + to_numpy(layer.bias)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = [reference.normalized(shares[:, k] @ x[0]) for k in range(4)]
    expected = reference.normalized(np.concatenate(rows))
    received = encoder({"frames": x, "num_frames": np.array([9])})["descriptor"]
    assert_close(received, expected[None])
