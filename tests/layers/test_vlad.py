"""`VLAD`: values against the oracle, and the limit of NetVLAD."""

import itertools

import keras
import numpy as np
import pytest
import reference
from layer_contract import check_layer, to_numpy
from selection import slow_cases

from keras_netvlad import NetVLAD
from keras_netvlad.layers import VLAD, FrameMask

pytestmark = pytest.mark.backends

# Float32 beside the float64 oracle, relative to the largest value: 2.0e-7 measured at worst, headroom 10.
TOLERANCE = 2e-6

FRAMES, IMAGES, VIDEOS = (2, 7, 5), (2, 3, 4, 5), (2, 3, 2, 4, 5)


def inputs_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def vlad(inputs, centroids, mask=None, normalize_input=False, channels_first=False, **normalizations):
    """The definition in float64 loops."""
    x, weights = reference.flatten(inputs, mask, channels_first)
    first, second = np.zeros((len(x), *centroids.shape)), np.zeros((len(x), len(centroids)))
    for b in range(x.shape[0]):
        for n in range(x.shape[1]):
            if weights[b, n] == 0:
                continue
            feature = reference.normalized(x[b, n]) if normalize_input else x[b, n]
            nearest = np.argmin([np.sum((feature - c) ** 2) for c in centroids])
            first[b, nearest] += weights[b, n] * feature
            second[b, nearest] += weights[b, n]
    return reference.describe(first, second, centroids, **normalizations)


def assert_matches(layer, inputs, mask=None):
    actual = to_numpy(layer(inputs, mask=mask))
    expected = vlad(
        inputs,
        layer.centroids.numpy().astype("float64"),
        mask,
        normalize_input=layer.normalize_input,
        channels_first=layer.data_format == "channels_first",
        intra_normalization=layer.intra_normalization,
        output_normalization=layer.output_normalization,
    )
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("shape", [FRAMES, IMAGES, VIDEOS])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_input": True},
        {"intra_normalization": False},
        {"output_normalization": False},
        {"intra_normalization": False, "output_normalization": False},
        {"data_format": "channels_first"},
    ],
    ids=str,
)
def test_values(shape, options):
    inputs = inputs_of(shape)
    positions = shape[:-1]
    if options.get("data_format") == "channels_first":
        inputs = np.moveaxis(inputs, -1, -3) if len(shape) > 3 else inputs
    layer = VLAD(4, **options)
    assert_matches(layer, inputs)
    rng = np.random.default_rng(1)
    assert_matches(layer, inputs, mask=rng.random(positions) < 0.6)
    assert_matches(layer, inputs, mask=rng.random(positions).astype("float32"))


@pytest.mark.parametrize(
    ("shape", "mask_shape", "data_format"),
    [(FRAMES, (2, 7), "channels_last"), *slow_cases([(IMAGES, (2, 4, 5), "channels_first")])],
)
def test_contract(shape, mask_shape, data_format, tmp_path):
    mask = np.random.default_rng(4).random(mask_shape) < 0.6
    mask.reshape(2, -1)[:, :2] = [True, False]

    def make_layer(**kwargs):
        # Few and far centroids, so that none is empty and rounding moves no feature to another.
        return VLAD(2, data_format=data_format, centroids_initializer=keras.initializers.Orthogonal(seed=0), **kwargs)

    check_layer(make_layer, shape, tmp_path, mask=mask)


def test_netvlad_becomes_vlad_as_alpha_grows():
    # Fixed centroids. Those of k-means differ between processors, and with them how near a feature is to a tie.
    inputs, centroids = inputs_of((3, 60, 8), seed=2), inputs_of((4, 8), seed=3)
    hard, soft = VLAD(4), NetVLAD(4)
    for layer in (hard, soft):
        layer.build(inputs.shape)
        layer.centroids.assign(centroids)
    expected = to_numpy(hard(inputs))
    errors = []
    for alpha in (0.01, 0.1, 1.0, 10.0, 100.0, 1e4):
        soft.kernel.assign(2 * alpha * centroids.T)
        soft.bias.assign(-alpha * np.sum(centroids**2, axis=1))
        errors.append(np.abs(to_numpy(soft(inputs)) - expected).max())
    # Measured: 0.27, 0.26, 0.064, 0.028, 0.014, 6e-8. Squared distances of the nearest tie differ by 0.0064.
    assert all(later < earlier for earlier, later in itertools.pairwise(errors)), errors
    assert errors[0] > 0.05
    assert errors[-1] < TOLERANCE, errors


def test_assign_is_one_hot_of_the_nearest():
    inputs = inputs_of((1, 9, 3))
    layer = VLAD(3)
    assignments = to_numpy(layer.assign(inputs))[0]
    distances = np.sum((inputs[0][:, None] - layer.centroids.numpy()) ** 2, axis=-1)
    np.testing.assert_array_equal(assignments, np.eye(3)[distances.argmin(axis=1)])


def test_the_cosine_ignores_the_length_of_centroids_and_not_their_residuals():
    layer = VLAD(2, distance="cosine", intra_normalization=False, output_normalization=False)
    layer.build((None, None, 2))
    centroids = np.array([[1.0, 0.0], [8.0, 8.0]])
    layer.centroids.assign(centroids)
    x = np.array([[[2.0, 1.5], [0.5, 0.1]]], "float32")  # the first is nearer to (1, 0), and points to (8, 8)
    assert to_numpy(layer.assign(x)).tolist() == [[[0.0, 1.0], [1.0, 0.0]]]
    expected = np.concatenate([x[0, 1] - centroids[0], x[0, 0] - centroids[1]])
    np.testing.assert_allclose(to_numpy(layer(x))[0], expected, rtol=1e-5)
    assert VLAD.from_config(layer.get_config()).distance == "cosine"


def test_adapt_by_the_cosine_finds_directions_of_any_length():
    rng = np.random.default_rng(0)
    # Clusters of unequal width, whose centroids of unit vectors differ in length.
    noise = rng.normal(size=(300, 3, 5)) * np.array([0.1, 0.2, 0.5])[:, None]
    directions = np.eye(5)[:3] + noise
    features = (directions * 10.0 ** rng.uniform(-1, 1, (300, 3, 1))).reshape(1, 900, 5).astype("float32")
    layer = VLAD(3, normalize_input=True, distance="cosine")
    layer.adapt(features, sample_size=900, seed=0, verbose=0)
    centroids = to_numpy(layer.centroids)
    unit = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    assert np.sort(unit.argmax(axis=1)).tolist() == [0, 1, 2]
    assert unit.max(axis=1).min() > 0.95
    # A fixed point: each centroid is the mean of the unit vectors that are assigned to it.
    a, x = to_numpy(layer.assign(features))[0], features[0] / np.linalg.norm(features[0], axis=1, keepdims=True)
    np.testing.assert_allclose(centroids, (a.T @ x) / a.sum(axis=0)[:, None], atol=1e-5)
    with pytest.raises(ValueError, match="at least 3 distinct features"):
        VLAD(3, distance="cosine").adapt(np.ones((1, 9, 1), "float32") * np.arange(1, 10)[:, None], seed=0, verbose=0)
    with pytest.raises(ValueError, match="`distance` must be"):
        VLAD(3, distance="manhattan")


def test_a_tie_goes_to_the_first():
    layer = VLAD(3)
    layer.build((None, None, 2))
    layer.centroids.assign([[5.0, 5.0], [1.0, 0.0], [-1.0, 0.0]])
    assert to_numpy(layer.assign(np.array([[[0.0, 1.0]]], "float32"))).tolist() == [[[0.0, 1.0, 0.0]]]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.parametrize("opset", [13, 18])
def test_onnx_can_express_it(opset, tmp_path):
    from keras_netvlad.export import export_onnx

    frames, num_frames = keras.Input((None, 5), name="frames"), keras.Input((), dtype="int32", name="num_frames")
    outputs = {"descriptor": VLAD(3)(frames, mask=FrameMask()(num_frames, frames))}
    model = keras.Model({"frames": frames, "num_frames": num_frames}, outputs)
    assert export_onnx(model, tmp_path / "model.onnx", opset=opset).ok


def test_features_at_their_centroids_and_nothing_give_zeros():
    layer = VLAD(2)
    layer.build((None, None, 3))
    at_centroids = np.concatenate([layer.centroids.numpy()] * 2)[None]
    # `A - M c` of two equal features is exact.
    assert not to_numpy(layer(at_centroids)).any()
    assert not to_numpy(layer(at_centroids, mask=np.zeros((1, 4), bool))).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clusters": 0}, "Received: num_clusters=0"),
        ({"num_clusters": 2, "data_format": "first"}, "Received: data_format='first'"),
        ({"num_clusters": 2, "data_format": None}, "Received: data_format=None"),
        ({"num_clusters": 2, "normalize_input": 1}, "Received: normalize_input=1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        VLAD(**arguments)


def test_bad_inputs():
    layer = VLAD(2)
    with pytest.raises(ValueError, match=r"Received: shape \(3, 4\)"):
        layer(np.zeros((3, 4), "float32"))
    with pytest.raises(ValueError, match=r"Received: mask of shape \(1, 2\)"):
        layer(np.zeros((1, 3, 4), "float32"), mask=np.ones((1, 2), bool))
