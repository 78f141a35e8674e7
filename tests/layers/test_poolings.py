"""The poolings besides NetVLAD and VLAD: values against float64 loops, contract, parameters, sums, exports."""

import contextlib

import keras
import numpy as np
import pytest
import reference
from layer_contract import (
    BACKEND,
    check_layer,
    double_precision,
    loss_and_gradients,
    randomize_weights,
    to_numpy,
)
from selection import slow_except

from keras_netvlad.layers import (
    SALAD,
    AttentionPooling,
    FrameMask,
    GeMPooling,
    MaxPooling,
    MeanPooling,
    MeanStdPooling,
    NetFV,
    NetRVLAD,
    NetVLAD,
    NeXtVLAD,
    SoftDBoW,
)
from keras_netvlad.stream import NetVLADStream

pytestmark = pytest.mark.backends

# Float32 beside the float64 oracle, relative to the largest value: 4e-7 measured at worst, headroom 8.
TOLERANCE = 3e-6
FRAMES, IMAGES, VIDEOS = (2, 7, 6), (2, 3, 4, 6), (2, 3, 2, 4, 6)
SIZE = 6

FORMS = {
    "mean": (MeanPooling, {}),
    "mean of directions": (MeanPooling, {"normalize_input": True}),
    "mean_std": (MeanStdPooling, {}),
    "max": (MaxPooling, {}),
    "gem": (GeMPooling, {}),
    "gem of directions": (GeMPooling, {"exponent": 5, "epsilon": 0.1, "normalize_input": True}),
    "attention": (AttentionPooling, {"num_heads": 2}),
    "attention with hidden units": (AttentionPooling, {"num_heads": 2, "hidden_units": 4}),
    "netrvlad": (NetRVLAD, {"num_clusters": 3}),
    "netrvlad with ghosts": (NetRVLAD, {"num_clusters": 3, "num_ghost_clusters": 1, "normalize_input": True}),
    "netrvlad, sums": (NetRVLAD, {"num_clusters": 3, "intra_normalization": False, "output_normalization": False}),
    "netrvlad, batch-normalized": (NetRVLAD, {"num_clusters": 3, "assignment_batch_normalization": True}),
    "netrvlad, intra only": (NetRVLAD, {"num_clusters": 3, "output_normalization": False}),
    "netrvlad, output only": (NetRVLAD, {"num_clusters": 3, "intra_normalization": False}),
    "salad": (SALAD, {"num_clusters": 3, "cluster_size": 4, "hidden_units": 5}),
    "salad, sums": (
        SALAD,
        {
            **{"num_clusters": 8, "cluster_size": 2, "hidden_units": 5, "iterations": 1},
            **{"normalize_input": True, "output_normalization": False},
        },
    ),
    "soft_dbow": (SoftDBoW, {"num_clusters": 3}),
    "soft_dbow, gated": (SoftDBoW, {"num_clusters": 3, "gate_counts": True}),
    "soft_dbow, counts": (SoftDBoW, {"num_clusters": 3, "output_normalization": False, "use_bias": False}),
    "netfv": (NetFV, {"num_clusters": 3}),
    "netfv, output only": (NetFV, {"num_clusters": 3, "intra_normalization": False}),
    "netfv, intra only": (NetFV, {"num_clusters": 3, "output_normalization": False, "assignment": "conv"}),
    "netfv, separate": (NetFV, {"num_clusters": 3, "separate_orders": True}),
    "netfv, separate sums": (NetFV, {"num_clusters": 3, "separate_orders": True, "intra_normalization": False}),
    "nextvlad": (NeXtVLAD, {"num_clusters": 3, "groups": 4}),
    "nextvlad, plain": (NeXtVLAD, {"num_clusters": 3, "groups": 2, "assignment_batch_normalization": False}),
    "nextvlad, intra only": (NeXtVLAD, {"num_clusters": 3, "groups": 2, "output_normalization": False}),
    "nextvlad, output only": (NeXtVLAD, {"num_clusters": 3, "groups": 2, "intra_normalization": False}),
    "nextvlad, no bias": (NeXtVLAD, {"num_clusters": 3, "groups": 3, "expansion": 1, "use_bias": False}),
}
DEFAULT_FORMS = (
    "mean",
    "mean_std",
    "max",
    "gem",
    "attention with hidden units",
    "netrvlad",
    "soft_dbow",
    "netfv",
    "nextvlad",
    "salad",
)
ADDITIVE_FORMS = (
    "gem",
    "netrvlad",
    "netrvlad with ghosts",
    "netfv",
    "netfv, output only",
    "netfv, separate",
    "nextvlad",
    "nextvlad, no bias",
)


def random_array(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make_layer(form, shape=FRAMES, **options):
    layer_class, its_options = FORMS[form]
    layer = layer_class(**its_options, **options)
    layer.build(shape)
    randomize_weights(layer)
    return layer


def assert_close(received, expected):
    received = to_numpy(received)
    assert received.shape == expected.shape
    np.testing.assert_allclose(received, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("form", FORMS)
def test_values_are_the_oracles(form):
    rng = np.random.default_rng(1)
    for shape in (FRAMES, IMAGES, VIDEOS):
        layer, inputs = make_layer(form, shape), random_array(shape)
        assert_close(layer(inputs), reference.pooled(layer, inputs))
        for mask in (rng.random(shape[:-1]) < 0.6, rng.random(shape[:-1]).astype("float32")):
            mask.reshape(2, -1)[:, :2] = [1, 0]
            assert_close(layer(inputs, mask=mask), reference.pooled(layer, inputs, mask))


@pytest.mark.parametrize("form", [*DEFAULT_FORMS, "netvlad"])
def test_float64_is_computed_in_float64(form):
    with double_precision():
        layer_class, options = (NetVLAD, {"num_clusters": 3}) if form == "netvlad" else FORMS[form]
        layer = layer_class(**options, dtype="float64")
        layer.build(FRAMES)
        randomize_weights(layer)
        inputs, mask = np.random.default_rng(1).normal(size=FRAMES), np.arange(7) < [[7], [4]]
        for weights in (None, mask, mask * 0.7):
            expected = reference.pooled(layer, inputs, weights)
            # Measured at most 4e-15 on three backends; float32 anywhere on the way gives 1e-8. Keras 3.15 computes
            # BatchNormalization in float32 on JAX and torch, and the hyperbolic tangent on JAX: 1.5e-7.
            in_float32 = {"jax": ("nextvlad", "attention with hidden units"), "torch": ("nextvlad",)}
            limit = 1e-6 if form in in_float32.get(BACKEND, ()) else 1e-13
            received = to_numpy(layer(inputs, mask=weights))
            np.testing.assert_allclose(received, expected, rtol=0, atol=limit * np.abs(expected).max())


@pytest.mark.parametrize("form", DEFAULT_FORMS)
def test_the_contract_of_layers(form, tmp_path):
    mask = np.array([[True] * 5 + [False] * 2, [False] + [True] * 4 + [False] * 2])

    def make(**arguments):
        layer_class, options = FORMS[form]
        return layer_class(**options, **arguments)

    check_layer(make, FRAMES, tmp_path, mask=mask)


@pytest.mark.parametrize("form", DEFAULT_FORMS)
def test_channels_first_maps_give_the_same_descriptors(form):
    options = {"data_format": "channels_first"}
    if FORMS[form][0] in (NetRVLAD, SoftDBoW, NetFV):
        options["assignment"] = "conv"
    first = make_layer(form, (2, SIZE, 3, 4), **options)
    last = make_layer(form, IMAGES)
    for weight, other in zip(first.weights, last.weights, strict=True):
        weight.assign(np.reshape(other.numpy(), weight.shape))
    maps = random_array(IMAGES)
    assert_close(first(np.moveaxis(maps, -1, 1)), to_numpy(last(maps)))


@pytest.mark.parametrize("form", ADDITIVE_FORMS)
def test_sums_of_chunks_are_the_sums_of_the_video(form):
    layer, video = make_layer(form), random_array((2, 9, SIZE))
    mask = np.arange(9) < [[9], [4]]
    stream = NetVLADStream(layer)
    for start in (0, 2, 3, 8):
        end = {0: 2, 2: 3, 3: 8, 8: 9}[start]
        stream.update(video[:, start:end], mask=mask[:, start:end])
    assert_close(stream.descriptor(), to_numpy(layer(video, mask=mask)))
    sums = [layer.aggregate(video[:, part], mask=mask[:, part]) for part in (slice(0, 5), slice(5, 9))]
    assert_close(layer.describe(*(a + b for a, b in zip(*sums, strict=True))), to_numpy(layer(video, mask=mask)))


@pytest.mark.parametrize("form", DEFAULT_FORMS)
def test_a_video_without_frames_gives_zeros_and_the_order_does_not_matter(form):
    layer, inputs = make_layer(form), random_array(FRAMES)
    assert not np.any(to_numpy(layer(inputs[:, :0])))
    assert_close(layer(inputs[:, ::-1].copy()), to_numpy(layer(inputs)))


def test_batch_statistics_leave_padding_out():
    layer, inputs = make_layer("nextvlad"), random_array((2, 8, SIZE))
    mask = np.arange(8) < [[8], [3]]
    padded = np.where(mask[..., None], inputs, np.float32(np.nan))
    kept = np.concatenate([inputs[0], inputs[1, :3]])[None]
    layer.batch_normalization.momentum = 0.0
    layer(kept, training=True)
    expected = layer.batch_normalization.moving_mean.numpy(), layer.batch_normalization.moving_variance.numpy()
    layer(padded, mask=mask, training=True)
    # Measured 3e-7.
    np.testing.assert_allclose(layer.batch_normalization.moving_mean.numpy(), expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.batch_normalization.moving_variance.numpy(), expected[1], rtol=1e-5)


def test_padding_is_no_maximum_of_negative_features():
    """Padding is set to zero, which is larger than every feature here."""
    layer, inputs = make_layer("max"), -1.0 - np.abs(random_array(FRAMES))
    mask = np.arange(7) < [[5], [3]]
    expected = np.stack([row[:length].max(axis=0) for row, length in zip(inputs, (5, 3), strict=True)])
    np.testing.assert_array_equal(to_numpy(layer(inputs, mask=mask)), expected)


def test_spread_zero_has_the_gradient_zero():
    layer = make_layer("mean_std")
    _, gradient, _ = loss_and_gradients(layer, np.ones(FRAMES, "float32"))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(to_numpy(layer(np.ones(FRAMES, "float32")))[:, SIZE:], 0.0)


@pytest.mark.parametrize(
    ("d", "k", "g", "h", "expansion"),
    [(1024, 128, 8, 16, 2), (12, 5, 4, 7, 3), (96, 10, 6, 33, 4), (8, 3, 2, 1, 1), (30, 2, 3, 64, 2)],
)
def test_parameters_are_those_of_the_papers(d, k, g, h, expansion):
    """Kernels and centroids of a pooling and of the projection of `h` units behind it."""

    def count(pooling):
        projection = keras.layers.Dense(h, use_bias=False)
        keras.Sequential([keras.Input((None, d)), pooling, projection])
        assert projection.kernel.shape[0] == pooling.compute_output_shape((None, None, d))[1]
        return sum(np.prod(weight.shape) for weight in (*pooling.weights, *projection.weights))

    assert count(NetVLAD(k, use_bias=False)) == k * d * (h + 2)
    assert count(NetRVLAD(k, use_bias=False)) == k * d * (h + 1)
    assert count(SoftDBoW(k, use_bias=False)) == k * (d + h)
    assert count(NetFV(k, use_bias=False)) == k * d * (2 * h + 3)  # the deviations, and an output twice as long
    assert count(AttentionPooling(k)) == k * d * (h + 1)
    # Lin et al. 2018, equation 9: lambda D (D + G + K (G + (H + 1) / G)).
    nextvlad = NeXtVLAD(k, groups=g, expansion=expansion, use_bias=False, assignment_batch_normalization=False)
    assert g * count(nextvlad) == expansion * d * (g * (d + g + k * g) + k * (h + 1))


@pytest.mark.parametrize("hidden_units", [None, 4])
def test_padding_and_frames_without_weight_leave_attention_to_the_others(hidden_units):
    rng = np.random.default_rng(3)
    layer = AttentionPooling(num_heads=2, hidden_units=hidden_units)
    layer.build(FRAMES)
    randomize_weights(layer)
    # Logits of the frames that count, from -150 to -600 and one apart from the other: one of 0, which padding's zeros
    # would have, takes all attention, and exponentials that are not relative to the largest are all 0.
    if hidden_units is None:
        layer.kernel.assign(np.full((SIZE, 2), -50.0))
    else:
        layer.hidden_kernel.assign(np.full((SIZE, 4), 100.0))
        layer.kernel.assign(np.full((4, 2), -100.0))
    inputs = rng.uniform(0.5, 2.0, FRAMES).astype("float32")
    inputs[:, 1:] = inputs[:, :1] + 0.01 * rng.random((2, 6, SIZE)).astype("float32")
    present = np.array([[True, True, False, True, False, False, True], [False] * 7])
    expected = reference.pooled(layer, inputs, present)
    assert np.abs(expected[0]).min() > 0.4
    weights = np.where(present, np.float32(0.3), np.float32(0.0))
    for padding in (0.0, 1e30, -1e30, np.nan, np.inf, -np.inf):
        padded = np.where(present[..., None], inputs, np.float32(padding))
        for mask in (present, weights):
            # Measured 2e-7; sums of 600 in float32 come before the exponential.
            np.testing.assert_allclose(to_numpy(layer(padded, mask=mask)), expected, rtol=0, atol=3e-5)
            # The second video has no frame: no attention, zeros, and no gradient.
            _, gradient, by_weights = loss_and_gradients(layer, padded, mask)
            assert all(np.isfinite(values).all() for values in (gradient, *by_weights))
            assert not np.any(gradient[~present])
    # The frame of the largest logit weighs nothing: the others are all there is.
    lonely = inputs.copy()
    lonely[0, 3] = 0.0
    mask = weights.copy()
    mask[0, 3] = 0.0
    np.testing.assert_allclose(
        to_numpy(layer(lonely, mask=mask)), reference.pooled(layer, lonely, mask), rtol=0, atol=3e-5
    )


@pytest.mark.parametrize("pooling", [NetVLAD, NetFV, NeXtVLAD])
def test_seeded_initial_weights_are_those_of_earlier_releases(pooling):
    # An initializer without a seed draws one when it is created. The centroids come first.
    keras.utils.set_random_seed(0)
    first, second = (keras.initializers.RandomNormal().seed for _ in range(2))
    keras.utils.set_random_seed(0)
    layer = pooling(4)
    assert (layer.centroids_initializer.seed, layer.kernel_initializer.seed) == (first, second)


@pytest.mark.parametrize("mean", [0, 10, 100, 1000])
def test_fisher_vectors_keep_their_digits_far_from_zero(mean):
    rng = np.random.default_rng(0)
    layer = NetFV(3, use_bias=False, kernel_initializer="zeros")
    layer.build((None, None, SIZE))
    layer.centroids.assign(rng.normal(mean, 0.1, (3, SIZE)))
    video = rng.normal(mean, 1.0, (2, 50, SIZE)).astype("float32")
    expected = reference.pooled(layer, video)
    stream = NetVLADStream(layer)
    parts = [video[:, :20], video[:, 20:]]
    for part in parts:
        stream.update(part)
    sums = [layer.aggregate(part) for part in parts]
    described = layer.describe(*(a + b for a, b in zip(*sums, strict=True)))
    for received in (layer(video), described, stream.descriptor()):
        # Measured 2e-6; with sums around 0 instead of the mean of the centroids 1e-2 at 100 and 1 at 1000.
        np.testing.assert_allclose(to_numpy(received), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("mean", [0, 100, 1000])
def test_fisher_gradients_keep_their_digits_far_from_zero(mean):
    rng = np.random.default_rng(0)
    centroids, video = rng.normal(mean, 0.1, (3, SIZE)), rng.normal(mean, 1.0, (2, 50, SIZE)).astype("float32")
    mask = np.arange(50) < [[50], [30]]
    gradients = {}
    for dtype in ("float32", "float64"):
        with double_precision() if dtype == "float64" else contextlib.nullcontext():
            layer = NetFV(3, use_bias=False, kernel_initializer="zeros", dtype=dtype)
            layer.build((None, None, SIZE))
            layer.centroids.assign(centroids.astype("float32"))
            _, *received = loss_and_gradients(layer, video.astype(dtype), mask)
            names = ["inputs", *(weight.name for weight in layer.trainable_weights)]
            gradients[dtype] = dict(zip(names, (received[0], *received[1]), strict=True))
    # The gradient of the kernel is left out. It grows with the mean and is rounded like the features.
    for name in ("inputs", "centroids", "deviations"):
        expected = gradients["float64"][name]
        # Measured: 2.7e-6 at worst; NetVLAD is off by 2e-4 at a mean of 100.
        np.testing.assert_allclose(
            gradients["float32"][name], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name
        )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses TensorFlow's tape: `make test`")
def test_the_shift_of_fisher_sums_passes_no_gradient_to_the_centroids():
    import tensorflow as tf

    layer = NetFV(3, use_bias=False)
    layer.build((None, None, SIZE))
    with tf.GradientTape() as tape:
        first, _ = layer.aggregate(np.ones((1, 4, SIZE), "float32"))
    assert tape.gradient(first, layer.centroids.value) is None


def test_a_video_without_frames_has_a_fisher_vector_of_zeros():
    layer = NetFV(3)
    frames = np.full((2, 4, SIZE), np.nan, "float32")
    frames[0] = 100.0
    y = to_numpy(layer(frames, mask=np.array([[True] * 4, [False] * 4])))
    assert np.isfinite(y).all()
    assert y[0].any()
    assert not y[1].any()


def test_adapted_fisher_vectors_start_from_the_spread_of_each_cluster():
    pytest.importorskip("sklearn", reason="`make test` installs scikit-learn")
    rng = np.random.default_rng(0)
    places = np.array([[20.0, 0.0], [-20.0, 5.0], [0.0, -30.0]])
    frames = np.concatenate([rng.normal(place, [0.5, 2.0], size=(500, 2)) for place in places]).astype("float32")
    layer = NetFV(3, intra_normalization=False, output_normalization=False)
    layer.adapt(frames[None], seed=0, verbose=0)
    # Drawn from deviations of 0.5 and 2: measured 0.476 to 0.512 and 1.94 to 2.09.
    np.testing.assert_allclose(layer.deviations.numpy(), np.tile([0.5, 2.0], (3, 1)), rtol=0.1)
    distances = np.linalg.norm(layer.centroids.numpy()[:, None] - places, axis=2)
    assert distances.min(axis=0).max() < 0.3  # measured 0.11
    assert sorted(distances.argmin(axis=1)) == [0, 1, 2]


def test_adapted_fisher_vectors_are_finite_where_nothing_varies():
    """A feature that is constant everywhere, one that is in each cluster, and a cluster with one descriptor."""
    pytest.importorskip("sklearn", reason="`make test` installs scikit-learn")
    rng = np.random.default_rng(0)
    of_two = np.repeat([0.0, 50.0], 100)[:, None]
    frames = np.hstack([rng.normal(size=(200, 1)) + of_two, np.full((200, 1), 0.1), of_two]).astype("float32")
    frames[0] = [-2000.0, 0.1, -2000.0]
    layer = NetFV(3)
    layer.adapt(frames[None], seed=0, verbose=0)
    order = np.argsort(layer.centroids.numpy()[:, 0])  # the lonely one, the one at 0, the one at 50
    deviations = layer.deviations.numpy()[order]
    spread = frames.std(axis=0, dtype="float64")
    spread[1] = (spread[0] + spread[2]) / 3
    np.testing.assert_allclose(deviations[0], spread, rtol=1e-5)
    for part, members in ((1, frames[1:100]), (2, frames[100:])):
        np.testing.assert_allclose(
            deviations[part], np.maximum(members.std(axis=0, dtype="float64"), 0.01 * spread), rtol=1e-5
        )
        np.testing.assert_allclose(deviations[part, 1:], 0.01 * spread[1:], rtol=1e-5)
    # Also where the constant feature is off.
    frames = frames[1:] + np.float32([0.0, 0.5, 0.0])
    _, gradient, by_weights = loss_and_gradients(layer, frames[None])
    assert all(np.isfinite(values).all() for values in (to_numpy(layer(frames[None])), gradient, *by_weights))


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: NeXtVLAD(2, groups=0), FRAMES, "`groups` must be a positive integer. Received: groups=0"),
        (
            lambda: NeXtVLAD(2, groups=5, name="n"),
            FRAMES,
            "multiple of `groups`. Received: expansion=2, feature size 6",
        ),
        (lambda: AttentionPooling(0), FRAMES, "`num_heads` must be a positive integer. Received: num_heads=0"),
        (lambda: AttentionPooling(hidden_units=0), FRAMES, "`hidden_units` must be a positive integer"),
        (lambda: MeanPooling(data_format="middle"), FRAMES, "`data_format` must be .* Received: data_format='middle'"),
        (lambda: MaxPooling(normalize_input=1), FRAMES, "`normalize_input` must be True or False"),
        (lambda: NetRVLAD(0), FRAMES, "`num_clusters` must be a positive integer"),
        (lambda: NetFV(2, assignment="sparse"), FRAMES, "`assignment` must be 'dense' or 'conv'"),
        (lambda: SoftDBoW(2, output_normalization=None), FRAMES, "`output_normalization` must be True or False"),
        (lambda: SoftDBoW(2, gate_counts=1), FRAMES, "`gate_counts` must be True or False. Received: gate_counts=1"),
        (lambda: NetFV(2, separate_orders=None), FRAMES, "`separate_orders` must be True or False"),
        (
            lambda: NetRVLAD(2, batch_normalization_momentum=1),
            FRAMES,
            "`batch_normalization_momentum` must be .*Received: batch_normalization_momentum=1",
        ),
        (lambda: MeanStdPooling(), (2, 6), "pools inputs of shape"),
    ],
)
def test_wrong_arguments_and_inputs_are_refused(make, shape, message):
    with pytest.raises(ValueError, match=message):
        make()(random_array(shape))


def test_inputs_that_hold_no_real_numbers_are_refused():
    with pytest.raises(ValueError, match=r"`mean` pools an array of features. Received: None"):
        MeanPooling(name="mean")(None)
    with pytest.raises(ValueError, match=r"`max` pools real numbers. Received: inputs of dtype complex64"):
        MaxPooling(name="max")(keras.ops.convert_to_tensor(random_array(FRAMES).astype("complex64")))


@pytest.mark.parametrize("form", DEFAULT_FORMS)
def test_a_broken_frame_shows_in_its_video_and_in_no_other(form):
    layer, inputs = make_layer(form), random_array((2, 7, SIZE))
    expected = to_numpy(layer(inputs))
    inputs[0, 3] = np.nan
    received = to_numpy(layer(inputs))
    assert np.isnan(received[0]).all()
    np.testing.assert_array_equal(received[1], expected[1])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.parametrize("pooling", [MaxPooling, GeMPooling])
def test_onnxruntime_shows_a_broken_frame_to_poolings_with_a_maximum(pooling, tmp_path):
    import onnxruntime

    from keras_netvlad.export import export_onnx

    frames = keras.Input((None, SIZE), name="frames")
    model = keras.Model({"frames": frames}, {"descriptor": pooling()(frames)})
    assert export_onnx(model, tmp_path / "model.onnx").ok
    inputs = random_array((1, 7, SIZE))
    inputs[0, 3] = np.nan
    (received,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["descriptor"], {"frames": inputs})
    assert np.isnan(received).all()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
@pytest.mark.parametrize("form", slow_except(DEFAULT_FORMS, "mean_std"))
def test_both_formats_are_the_model(form, tmp_path):
    from keras_netvlad.export import export_model

    frames, num_frames = keras.Input((None, SIZE), name="frames"), keras.Input((), dtype="int32", name="num_frames")
    layer = make_layer(form)
    outputs = {"descriptor": layer(frames, mask=FrameMask()(num_frames, frames))}
    model = keras.Model({"frames": frames, "num_frames": num_frames}, outputs, name="pooled")
    assert all(report.ok for report in export_model(model, tmp_path / "out"))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="RaggedTensors are TensorFlow's")
@pytest.mark.parametrize("call", [NetVLAD(2), MeanPooling(), lambda frames: FrameMask()(frames.row_lengths(), frames)])
def test_ragged_tensors_are_refused_with_a_way_out(call):
    import tensorflow as tf

    ragged = tf.ragged.constant([[[1.0, 2.0]] * 3, [[1.0, 2.0]] * 5], ragged_rank=1)
    with pytest.raises(TypeError, match=r"pass `x.to_tensor\(\)`.*`num_frames=x.row_lengths\(\)`.*a RaggedTensor of"):
        call(ragged)
    pooled = MeanPooling()(ragged.to_tensor(), mask=tf.sequence_mask(ragged.row_lengths()))
    np.testing.assert_allclose(to_numpy(pooled), MeanPooling()(np.array([[[1.0, 2.0]]] * 2, "float32")), rtol=1e-6)
