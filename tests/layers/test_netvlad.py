"""`NetVLAD`: values against the oracle, every option, mask, precision and error."""

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
from selection import slow_cases

from keras_netvlad import NetVLAD

# Keras warns of a softmax over one cluster; here it is meant.
pytestmark = [pytest.mark.backends, pytest.mark.filterwarnings("ignore:You are using a softmax over axis")]

# Float32 layer beside the float64 oracle, relative to the largest value: 2.6e-7 measured at worst (torch), headroom 7.
TOLERANCE = 2e-6

FRAMES = (2, 7, 5)
IMAGES = (2, 3, 4, 5)
VIDEOS = (2, 3, 2, 4, 5)

OPTIONS = {
    "dense": {},
    "conv": {"assignment": "conv"},
    "ghosts": {"num_ghost_clusters": 2},
    "batch_normalization": {"assignment_batch_normalization": True},
    "batch_normalization_without_bias": {"assignment_batch_normalization": True, "use_bias": False},
    "ghosts_and_batch_normalization": {"num_ghost_clusters": 2, "assignment_batch_normalization": True},
    "normalize_input": {"normalize_input": True},
    "no_intra_normalization": {"intra_normalization": False},
    "no_output_normalization": {"output_normalization": False},
    "no_normalization": {"intra_normalization": False, "output_normalization": False},
    "no_bias": {"use_bias": False},
    "one_cluster": {"num_clusters": 1},
}


def random_array(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make_layer(input_shape=FRAMES, num_clusters=3, seed=3, **options):
    """A built layer whose weights, batch normalization's included, are random."""
    layer = NetVLAD(num_clusters, **options)
    layer.build(input_shape)
    randomize_weights(layer, seed)
    return layer


def masks_of(positions):
    """A boolean mask with a hole and padding at the end, and weights that are zero there."""
    keep = np.random.default_rng(1).random(positions) < 0.7
    keep[:, 0], keep[:, -1] = True, False
    weights = np.random.default_rng(2).uniform(0.2, 3.0, positions).astype("float32") * keep
    return {"none": None, "boolean": keep, "weights": weights}


def channels_last(inputs):
    return np.moveaxis(inputs, -3, -1)


def assert_matches_oracle(layer, inputs, mask=None):
    expected = reference.netvlad(inputs, mask=mask, **reference.options_of(layer))
    actual = to_numpy(layer(inputs, mask=mask))
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


# Values


@pytest.mark.parametrize("mask", ["none", "boolean", "weights"])
@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_matches_the_oracle(options, mask):
    layer = make_layer(**OPTIONS[options])
    assert_matches_oracle(layer, random_array(FRAMES), masks_of(FRAMES[:2])[mask])


@pytest.mark.parametrize("mask", ["none", "boolean", "weights"])
@pytest.mark.parametrize("assignment", ["dense", "conv"])
@pytest.mark.parametrize("shape", [IMAGES, VIDEOS], ids=["images", "videos"])
def test_maps_match_the_oracle(shape, assignment, mask):
    layer = make_layer(shape, assignment=assignment)
    assert_matches_oracle(layer, random_array(shape), masks_of(shape[:-1])[mask])


@pytest.mark.parametrize("mask", ["none", "boolean", "weights"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (2, 3, 5, 2, 4)], ids=["images", "videos"])
def test_channels_first_maps_match_the_oracle(shape, mask):
    layer = make_layer(shape, assignment="conv", data_format="channels_first")
    positions = channels_last(np.zeros(shape)).shape[:-1]
    assert_matches_oracle(layer, random_array(shape), masks_of(positions)[mask])


@pytest.mark.parametrize("mask", ["boolean", "weights"])
@pytest.mark.parametrize("shape", [VIDEOS, (2, 3, 5, 2, 4)], ids=["channels_last", "channels_first"])
def test_frame_mask_over_video_maps_matches_the_oracle(shape, mask):
    data_format = "channels_last" if shape == VIDEOS else "channels_first"
    layer = make_layer(shape, assignment="conv", data_format=data_format)
    mask = masks_of((2, 3))[mask]
    inputs = random_array(shape)
    assert_matches_oracle(layer, inputs, mask)
    positions = reference.flatten(inputs, channels_first=data_format == "channels_first")[0].shape[1]
    spread = np.repeat(mask, positions // 3, axis=1)
    flat = mask.reshape(2, 3, 1, 1) * np.ones((2, 3, 2, 4), mask.dtype)
    np.testing.assert_array_equal(flat.reshape(2, -1), spread)
    np.testing.assert_array_equal(to_numpy(layer(inputs, mask=mask)), to_numpy(layer(inputs, mask=flat)))


def test_channels_first_equals_channels_last_of_the_moved_axis():
    first = make_layer((2, 3, 5, 2, 4), assignment="conv", data_format="channels_first")
    last = make_layer(VIDEOS, assignment="conv", data_format="channels_last")
    inputs = random_array((2, 3, 5, 2, 4))
    np.testing.assert_array_equal(to_numpy(first(inputs)), to_numpy(last(channels_last(inputs))))


def test_channels_first_leaves_frames_of_rank_3_alone():
    first = make_layer(assignment="conv", data_format="channels_first")
    inputs = random_array(FRAMES)
    np.testing.assert_array_equal(to_numpy(first(inputs)), to_numpy(make_layer(assignment="conv")(inputs)))


def test_conv_takes_the_data_format_of_the_keras_configuration():
    before = keras.config.image_data_format()
    try:
        keras.config.set_image_data_format("channels_first")
        assert NetVLAD(2, assignment="conv").data_format == "channels_first"
        assert NetVLAD(2).data_format is None
    finally:
        keras.config.set_image_data_format(before)


def test_a_hand_computed_descriptor():
    layer = NetVLAD(2)
    layer.build((1, 2, 2))
    # No logits: each of two descriptors goes to each of two clusters by half.
    layer.set_weights([np.zeros((2, 2)), np.zeros(2), np.array([[1.0, 2.0], [0.0, -4.0]])])
    inputs = np.array([[[1.0, 0.0], [3.0, 0.0]]], "float32")
    # V[0] = (0.5 * (0 + 2), 0.5 * (-2 - 2)) = (1, -2); V[1] = (0.5 * (1 + 3), 0.5 * (4 + 4)) = (2, 4).
    expected = np.array([1, -2, 1, 2]) / np.sqrt(5) / np.sqrt(2)
    # Measured: 1e-8, less than one float32 rounding.
    np.testing.assert_allclose(to_numpy(layer(inputs))[0], expected, atol=5e-7)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("mask", ["none", "boolean", "weights"])
def test_training_batch_normalization_leaves_padding_out_of_its_statistics(mask, use_bias):
    layer = make_layer(assignment_batch_normalization=True, num_ghost_clusters=1, use_bias=use_bias)
    inputs, mask = random_array(FRAMES), masks_of(FRAMES[:2])[mask]
    options = reference.options_of(layer)
    gamma, beta, old_mean, old_variance, epsilon = options.pop("batch_normalization")
    mean, variance = reference.batch_statistics(inputs, options["kernel"], mask)
    if mask is not None:
        inputs = np.where(np.expand_dims(mask > 0, 2), inputs, np.nan).astype("float32")
    actual = to_numpy(layer(inputs, mask=mask, training=True))
    expected = reference.netvlad(
        inputs, mask=mask, batch_normalization=(gamma, beta, mean, variance, epsilon), **options
    )
    # Measured: 1e-7 here and in the moving averages, headroom 10.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
    inner = layer.batch_normalization
    np.testing.assert_allclose(inner.moving_mean.numpy(), 0.99 * old_mean + 0.01 * mean, atol=1e-6)
    np.testing.assert_allclose(inner.moving_variance.numpy(), 0.99 * old_variance + 0.01 * variance, atol=1e-6)


def test_inference_leaves_batch_statistics_alone():
    layer = make_layer(assignment_batch_normalization=True)
    before = [variable.numpy() for variable in layer.weights]
    layer(random_array(FRAMES))
    layer.aggregate(random_array(FRAMES))
    layer.assign(random_array(FRAMES))
    for old, variable in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


# Forms


@pytest.mark.parametrize("shape", [FRAMES, IMAGES, VIDEOS], ids=["frames", "images", "videos"])
@pytest.mark.parametrize("options", ["dense", "ghosts", "batch_normalization", "no_bias"])
def test_dense_and_conv_are_the_same_function(options, shape):
    dense = make_layer(shape, **OPTIONS[options])
    conv = NetVLAD(3, assignment="conv", **OPTIONS[options])
    conv.build(shape)
    conv.set_weights([w[None, None] if i == 0 else w for i, w in enumerate(dense.get_weights())])
    assert tuple(conv.kernel.shape) == (1, 1, *dense.kernel.shape)
    inputs, mask = random_array(shape), masks_of(shape[:-1])["weights"]
    np.testing.assert_array_equal(to_numpy(dense(inputs)), to_numpy(conv(inputs)))
    np.testing.assert_array_equal(to_numpy(dense(inputs, mask=mask)), to_numpy(conv(inputs, mask=mask)))


@pytest.mark.parametrize("assignment", ["dense", "conv"])
def test_parameters_are_two_k_d_and_a_bias(assignment):
    k, d, g = 6, 5, 2
    assert make_layer(num_clusters=k, assignment=assignment).count_params() == 2 * k * d + k
    assert make_layer(num_clusters=k, assignment=assignment, use_bias=False).count_params() == 2 * k * d
    ghosts = make_layer(num_clusters=k, assignment=assignment, num_ghost_clusters=g)
    assert ghosts.count_params() == 2 * k * d + k + g * (d + 1)


def test_weights_have_the_documented_names_order_and_shapes():
    layer = make_layer(num_clusters=3, num_ghost_clusters=2)
    assert [(w.name, tuple(w.shape)) for w in layer.weights] == [
        ("kernel", (5, 5)),
        ("bias", (5,)),
        ("centroids", (3, 5)),
    ]
    normalized = make_layer(num_clusters=3, num_ghost_clusters=2, assignment_batch_normalization=True)
    shapes = {w.name: tuple(w.shape) for w in normalized.weights}
    statistics = dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (5,))
    assert shapes == {"kernel": (5, 5), "centroids": (3, 5), **statistics}


def test_default_initial_weights_are_of_unit_scale():
    layer = NetVLAD(200)
    layer.build((None, None, 50))
    for weight in (layer.kernel, layer.centroids):
        # 10,000 draws: the standard deviation is within 4% of 1 / sqrt(D) in all but one in 10^8 runs.
        np.testing.assert_allclose(np.std(weight.numpy()), 50**-0.5, rtol=0.04)
    np.testing.assert_array_equal(layer.bias.numpy(), 0.0)


@pytest.mark.parametrize("weight", ["kernel", "bias", "centroids"])
def test_each_weight_has_its_initializer_regularizer_and_constraint(weight):
    options = {
        f"{weight}_initializer": keras.initializers.Constant(0.5),
        f"{weight}_regularizer": keras.regularizers.L2(0.1),
        f"{weight}_constraint": keras.constraints.MaxNorm(0.25),
    }
    layer = NetVLAD.from_config(NetVLAD(3, num_ghost_clusters=1, **options).get_config())
    layer.build(FRAMES)
    variable = getattr(layer, weight)
    np.testing.assert_array_equal(variable.numpy(), 0.5)
    size = int(np.prod(variable.shape))
    np.testing.assert_allclose([float(loss) for loss in layer.losses], [0.1 * 0.25 * size], rtol=1e-5)
    assert isinstance(variable.constraint, keras.constraints.MaxNorm)
    constrained = {w.name for w in layer.trainable_variables if w.constraint is not None}
    assert constrained == {weight}


def test_the_offset_of_batch_normalization_takes_the_place_of_the_bias():
    options = {
        "bias_initializer": keras.initializers.Constant(0.5),
        "bias_regularizer": keras.regularizers.L2(0.1),
        "bias_constraint": keras.constraints.MaxNorm(0.25),
    }
    layer = NetVLAD(3, assignment_batch_normalization=True, **options)
    layer.build(FRAMES)
    beta = layer.batch_normalization.beta
    np.testing.assert_array_equal(beta.numpy(), 0.5)
    np.testing.assert_allclose([float(loss) for loss in layer.losses], [0.1 * 0.25 * 3], rtol=1e-5)
    assert isinstance(beta.constraint, keras.constraints.MaxNorm)
    assert not any(w.name == "bias" for w in layer.weights)


# The sums


@pytest.mark.parametrize("options", ["dense", "ghosts", "normalize_input", "batch_normalization"])
@pytest.mark.parametrize("mask", ["none", "boolean", "weights"])
def test_aggregate_and_assign_match_the_oracle(options, mask):
    layer = make_layer(**OPTIONS[options])
    inputs, mask = random_array(FRAMES), masks_of(FRAMES[:2])[mask]
    arguments = (inputs, layer.kernel.numpy(), 3)
    expected = reference.sums(*arguments, mask=mask, **reference.assignment_options_of(layer))
    for actual, array in zip(layer.aggregate(inputs, mask=mask), expected, strict=True):
        np.testing.assert_allclose(to_numpy(actual), array, rtol=0, atol=TOLERANCE * np.abs(array).max())
    expected = reference.assignments(*arguments, mask=mask, **reference.assignment_options_of(layer))
    actual = to_numpy(layer.assign(inputs, mask=mask))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("options", OPTIONS)
def test_sums_of_chunks_give_the_descriptor_of_the_whole(options):
    layer = make_layer(**OPTIONS[options])
    inputs, mask = random_array((2, 30, 5)), masks_of((2, 30))["weights"]
    parts = [layer.aggregate(inputs[:, s], mask=mask[:, s]) for s in (slice(11, 30), slice(0, 4), slice(4, 11))]
    merged = layer.describe(sum(first for first, _ in parts), sum(second for _, second in parts))
    whole = to_numpy(layer(inputs, mask=mask))
    # Measured: 2.2e-7 of the largest output, the order of the sums. Headroom 9.
    np.testing.assert_allclose(to_numpy(merged), whole, rtol=0, atol=TOLERANCE * np.abs(whole).max())


def test_describe_of_aggregate_is_the_call():
    layer, inputs = make_layer(), random_array(FRAMES)
    # Divided before the product here, after it there. Measured 9e-8.
    np.testing.assert_allclose(to_numpy(layer.describe(*layer.aggregate(inputs))), to_numpy(layer(inputs)), atol=5e-7)


@pytest.mark.parametrize("method", ["aggregate", "assign"])
def test_methods_build_the_layer_as_a_call_does(method):
    layer = NetVLAD(3)
    getattr(layer, method)(random_array(FRAMES))
    assert [w.name for w in layer.weights] == ["kernel", "bias", "centroids"]
    assert layer(random_array(FRAMES)).shape == (2, 15)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_sums_stay_float32_under_a_mixed_policy(dtype):
    mixed, full = make_layer(dtype=dtype), make_layer()
    inputs = random_array(FRAMES)
    for actual, expected in zip(mixed.aggregate(inputs), full.aggregate(inputs), strict=True):
        assert keras.backend.standardize_dtype(actual.dtype) == "float32"
        np.testing.assert_array_equal(to_numpy(actual), to_numpy(expected))


# Masks


def test_no_mask_equals_a_mask_of_ones():
    layer, inputs = make_layer(), random_array(FRAMES)
    for ones in (np.ones((2, 7), bool), np.ones((2, 7), "float32"), np.ones((2, 7), "int32")):
        np.testing.assert_array_equal(to_numpy(layer(inputs, mask=ones)), to_numpy(layer(inputs)))


def test_a_weight_of_two_counts_a_descriptor_twice():
    layer, inputs = make_layer(), random_array((1, 4, 5))
    weighted = layer(inputs, mask=np.array([[1, 2, 0, 1]]))
    repeated = layer(inputs[:, [0, 1, 1, 3]])
    np.testing.assert_allclose(to_numpy(weighted), to_numpy(repeated), atol=TOLERANCE)


@pytest.mark.parametrize("options", ["dense", "ghosts", "batch_normalization", "normalize_input"])
@pytest.mark.parametrize("kind", ["boolean", "weights"])
@pytest.mark.parametrize("padding", [np.nan, np.inf])
def test_padding_of_nan_is_inert_forward_and_backward(padding, kind, options):
    layer = make_layer(**OPTIONS[options])
    clean, mask = random_array(FRAMES), masks_of(FRAMES[:2])[kind]
    padded = np.where(np.expand_dims(mask > 0, 2), clean, np.float32(padding))
    for training in (False, True):
        loss, by_input, by_weights = loss_and_gradients(layer, padded, mask, training=training)
        expected_loss, expected_by_input, expected_by_weights = loss_and_gradients(
            layer, clean, mask, training=training
        )
        assert np.isfinite(loss)
        if not training or not layer.assignment_batch_normalization:
            assert loss == expected_loss
        np.testing.assert_array_equal(by_input[mask == 0], 0.0)
        np.testing.assert_array_equal(by_input, expected_by_input)
        for gradient, expected in zip(by_weights, expected_by_weights, strict=True):
            np.testing.assert_array_equal(gradient, expected)


def test_padding_of_nan_is_inert_under_a_frame_mask_over_video_maps():
    layer = make_layer(VIDEOS, assignment="conv")
    clean, mask = random_array(VIDEOS), np.array([[True, True, False], [True, False, False]])
    padded = np.where(mask[:, :, None, None, None], clean, np.float32("nan"))
    for keep in (mask, mask.astype("float32")):
        loss, by_input, by_weights = loss_and_gradients(layer, padded, keep)
        assert loss == loss_and_gradients(layer, clean, keep)[0]
        np.testing.assert_array_equal(by_input[~mask], 0.0)
        assert all(np.isfinite(gradient).all() for gradient in by_weights)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("options", OPTIONS)
def test_an_empty_video_is_zero_with_zero_gradients(options, dtype):
    with double_precision():
        layer = make_layer(dtype=dtype, **OPTIONS[options])
        inputs = np.full(FRAMES, np.nan, "float32")
        mask = np.zeros(FRAMES[:2], bool)
        np.testing.assert_array_equal(to_numpy(layer(inputs, mask=mask)), np.zeros((2, layer.num_clusters * 5)))
        _, by_input, by_weights = loss_and_gradients(layer, inputs, mask)
        for gradient in (by_input, *by_weights):
            np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_no_frames_at_all_give_zeros():
    layer = make_layer()
    np.testing.assert_array_equal(to_numpy(layer(np.zeros((2, 0, 5), "float32"))), np.zeros((2, 15)))


def test_an_empty_video_leaves_its_neighbours_alone():
    layer, inputs = make_layer(), random_array(FRAMES)
    mask = np.array([[True] * 7, [False] * 7])
    outputs = to_numpy(layer(inputs, mask=mask))
    # Measured: 6e-8, one float32 rounding apart where another batch size changes the order of the sums.
    np.testing.assert_allclose(outputs[0], to_numpy(layer(inputs[:1]))[0], atol=5e-7)
    np.testing.assert_array_equal(outputs[1], 0.0)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("options", ["dense", "normalize_input", "no_intra_normalization", "no_normalization"])
def test_rows_and_residuals_of_zero_have_finite_gradients(options, dtype):
    with double_precision():
        layer = make_layer(dtype=dtype, **OPTIONS[options])
        inputs = random_array(FRAMES)
        inputs[0], inputs[1, 3:] = 0.0, 0.0
        loss, by_input, by_weights = loss_and_gradients(layer, inputs)
        assert np.isfinite(loss)
        assert all(np.isfinite(gradient).all() for gradient in (by_input, *by_weights))
        if layer.normalize_input:
            np.testing.assert_array_equal(by_input[0], 0.0)
        layer.centroids.assign(np.zeros((3, 5)))
        loss, by_input, by_weights = loss_and_gradients(layer, np.zeros(FRAMES, "float32"))
        assert loss == 0
        assert all(np.isfinite(gradient).all() for gradient in (by_input, *by_weights))


def test_an_empty_cluster_is_a_block_of_zeros():
    layer = make_layer()
    layer.kernel.assign(np.zeros((5, 3)))
    # A softmax of exactly 0 for the second cluster.
    layer.bias.assign([0.0, -200.0, 0.0])
    inputs = random_array(FRAMES)
    assert_matches_oracle(layer, inputs)
    blocks = np.linalg.norm(to_numpy(layer(inputs)).reshape(2, 3, 5), axis=2)
    np.testing.assert_allclose(blocks, [[2**-0.5, 0, 2**-0.5]] * 2, atol=TOLERANCE)
    _, by_input, by_weights = loss_and_gradients(layer, inputs)
    assert all(np.isfinite(gradient).all() for gradient in (by_input, *by_weights))


@pytest.mark.parametrize("bias", [-15.0, -25.0, -35.0, -60.0])
def test_a_cluster_of_hardly_any_mass_is_as_the_oracle_has_it(bias):
    """Sums of 6e-7, 3e-11, 1e-15 and 2e-26: residuals of norm 1e-12 and less are none."""
    layer = make_layer()
    layer.kernel.assign(np.zeros((5, 3)))
    layer.bias.assign([0.0, bias, 0.0])
    assert_matches_oracle(layer, random_array(FRAMES))
    _, by_input, by_weights = loss_and_gradients(layer, random_array(FRAMES))
    assert all(np.isfinite(gradient).all() for gradient in (by_input, *by_weights))


def test_implicit_mask_of_masking_is_used_and_consumed():
    inputs = random_array((2, 6, 5))
    inputs[0, 4:] = inputs[1, 2:] = 0.0
    layer = make_layer()
    frames = keras.Input((None, 5))
    model = keras.Model(frames, layer(keras.layers.Masking()(frames)))
    mask = np.arange(6) < [[4], [2]]
    expected = to_numpy(layer(inputs, mask=mask))
    np.testing.assert_array_equal(to_numpy(model(inputs)), expected)
    assert np.abs(expected - to_numpy(layer(inputs))).max() > 0.01
    # Nothing after the layer sees a mask.
    assert layer.compute_mask(inputs, mask) is None
    assert getattr(model.output, "_keras_mask", None) is None


def test_implicit_mask_of_an_embedding_is_used():
    layer = make_layer()
    tokens = keras.Input((None,), dtype="int32")
    spread = keras.initializers.RandomNormal(stddev=1.0, seed=1)
    embedding = keras.layers.Embedding(9, 5, embeddings_initializer=spread, mask_zero=True)
    model = keras.Model(tokens, layer(embedding(tokens)))
    values = np.array([[3, 1, 8, 0, 0], [2, 2, 0, 0, 0]], "int32")
    expected = layer(to_numpy(embedding(values)), mask=values != 0)
    np.testing.assert_array_equal(to_numpy(model(values)), to_numpy(expected))
    assert np.abs(to_numpy(expected) - to_numpy(layer(to_numpy(embedding(values))))).max() > 0.01


def test_an_explicit_mask_wins_over_an_implicit_one():
    inputs = random_array((2, 6, 5))
    inputs[:, 4:] = 0.0
    layer, mask = make_layer(), np.arange(6) < [[2], [3]]
    actual = layer(keras.layers.Masking()(inputs), mask=mask)
    np.testing.assert_array_equal(to_numpy(actual), to_numpy(layer(inputs, mask=mask)))


def test_weights_that_are_no_weights_count_as_zero_in_a_compiled_graph():
    layer = make_layer()
    frames, weights = keras.Input((7, 5)), keras.Input((7,))
    model = keras.Model([frames, weights], layer(frames, mask=weights))
    inputs = random_array(FRAMES)
    good = masks_of(FRAMES[:2])["weights"]
    bad = np.where(good == 0, np.float32("nan"), good)
    bad[0, -1] = -3.0
    if BACKEND == "torch":  # runs `predict` eagerly, where values are seen
        with pytest.raises(ValueError, match="finite weights of 0 or more"):
            model.predict([inputs, bad], verbose=0)
    else:
        expected = to_numpy(layer(inputs, mask=good))
        np.testing.assert_allclose(model.predict([inputs, bad], verbose=0), expected, atol=TOLERANCE)


# Precision


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_mixed_policy_rounds_the_output_and_nothing_else(dtype):
    mixed, full = make_layer(dtype=f"mixed_{dtype}"), make_layer()
    # Neither inputs nor weights are representable in half precision: a layer that casts them gives other numbers.
    inputs = 100 * random_array(FRAMES)
    expected = keras.ops.cast(full(inputs), dtype)
    np.testing.assert_array_equal(to_numpy(mixed(inputs)), to_numpy(expected))


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("options", ["dense", "no_intra_normalization", "no_output_normalization", "normalize_input"])
def test_large_features_keep_their_norms(options, dtype):
    layer = make_layer((2, 20, 64), dtype=dtype, **OPTIONS[options])
    inputs = random_array((2, 20, 64))
    inputs *= 1e4 / np.linalg.norm(inputs, axis=-1, keepdims=True)
    if dtype == "mixed_float16":
        inputs = inputs.astype("float16")
    expected = reference.netvlad(inputs, **reference.options_of(layer))
    actual = to_numpy(layer(inputs))
    # The output is rounded to 11 or 8 bits. Measured: 0.51 of the tolerance, headroom 2.
    tolerance = {"float32": 1e-5, "mixed_float16": 1e-3, "mixed_bfloat16": 8e-3}[dtype]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), np.linalg.norm(expected, axis=1), rtol=tolerance)


def test_a_float64_layer_matches_the_oracle_to_float64_rounding():
    with double_precision():
        layer = make_layer(dtype="float64", num_ghost_clusters=1, assignment_batch_normalization=True)
        inputs = np.random.default_rng(0).normal(size=FRAMES)
        expected = reference.netvlad(inputs, **reference.options_of(layer))
        # Measured: 2e-16, headroom 50, on TensorFlow. On JAX and torch Keras takes float64 beside float64 for float32
        # (`result_type` in keras/src/backend/common/dtypes.py) in its BatchNormalization: 3e-8, headroom 30.
        tolerance = 1e-14 if BACKEND == "tensorflow" else 1e-6
        np.testing.assert_allclose(to_numpy(layer(inputs)), expected, rtol=0, atol=tolerance)


# Contract


@pytest.mark.parametrize(
    ("options", "shape", "mask_shape"),
    [
        ({}, (3, 6, 5), (3, 6)),
        ({"num_ghost_clusters": 2, "assignment_batch_normalization": True}, (3, 6, 5), (3, 6)),
        *slow_cases(
            [
                (
                    {"assignment": "conv", "normalize_input": True, "data_format": "channels_last"},
                    (3, 2, 3, 5),
                    (3, 2, 3),
                ),
                (
                    {"assignment": "conv", "intra_normalization": False, "data_format": "channels_first"},
                    (3, 4, 5, 2, 2),
                    (3, 4),
                ),
            ]
        ),
    ],
    ids=["frames", "ghosts_and_batch_normalization", "images", "channels_first_videos"],
)
def test_contract(options, shape, mask_shape, tmp_path):
    keras.utils.set_random_seed(1)
    mask = np.random.default_rng(4).random(mask_shape) < 0.5
    mask[:, 0], mask[:, -1] = True, False
    check_layer(lambda **kwargs: NetVLAD(3, **options, **kwargs), shape, tmp_path, mask=mask)


def test_a_config_of_every_argument_survives():
    options = {
        "num_clusters": 4,
        "num_ghost_clusters": 2,
        "assignment": "conv",
        "use_bias": False,
        "assignment_batch_normalization": True,
        "normalize_input": True,
        "intra_normalization": False,
        "output_normalization": False,
        "data_format": "channels_first",
    }
    config = NetVLAD.from_config(NetVLAD(**options, name="pool").get_config()).get_config()
    assert {key: config[key] for key in options} == options
    assert config["name"] == "pool"


# Errors


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "8", None])
def test_num_clusters_must_be_a_positive_integer(value):
    with pytest.raises(ValueError, match=rf"`num_clusters` must be a positive integer\. .*num_clusters={value!r}"):
        NetVLAD(value)


def test_num_clusters_may_be_a_numpy_integer():
    config = NetVLAD(np.int64(3)).get_config()
    assert type(config["num_clusters"]) is int


@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_num_ghost_clusters_must_be_an_integer_of_0_or_more(value):
    message = rf"`num_ghost_clusters` must be an integer of 0 or more\. .*num_ghost_clusters={value!r}"
    with pytest.raises(ValueError, match=message):
        NetVLAD(2, num_ghost_clusters=value)


@pytest.mark.parametrize(
    "name",
    ["use_bias", "assignment_batch_normalization", "normalize_input", "intra_normalization", "output_normalization"],
)
@pytest.mark.parametrize("value", ["yes", 1, None])
def test_switches_must_be_booleans(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be True or False\. Received: {name}={value!r}"):
        NetVLAD(2, **{name: value})


@pytest.mark.parametrize("value", ["soft", None, 1])
def test_assignment_must_be_dense_or_conv(value):
    with pytest.raises(ValueError, match=rf"`assignment` must be 'dense' or 'conv'\. .*assignment={value!r}"):
        NetVLAD(2, assignment=value)


@pytest.mark.parametrize("assignment", ["dense", "conv"])
def test_data_format_must_be_one_of_keras(assignment):
    message = r"`data_format` must be 'channels_last' or 'channels_first'\. .*data_format='NHWC'"
    with pytest.raises(ValueError, match=message):
        NetVLAD(2, assignment=assignment, data_format="NHWC")


def test_channels_first_needs_conv():
    with pytest.raises(ValueError, match=r"`data_format='channels_first'` needs `assignment='conv'`"):
        NetVLAD(2, data_format="channels_first")


@pytest.mark.parametrize("method", ["__call__", "aggregate", "assign"])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (1, 2, 2, 2, 2, 4)])
def test_inputs_must_be_of_rank_3_4_or_5(shape, method):
    layer = NetVLAD(2)
    message = r"pools inputs of shape \(batch, frames, features\).*Received: shape \(" + str(shape[0])
    with pytest.raises(ValueError, match=message):
        getattr(layer, method)(np.zeros(shape, "float32"))
    assert not layer.built
    assert not layer.weights


@pytest.mark.parametrize("shape", [(None, None, None), (None, 4, 0)])
def test_the_feature_size_must_be_known_and_positive(shape):
    layer = NetVLAD(2)
    with pytest.raises(ValueError, match=r"needs a known, positive feature size .*Received: shape \(None, "):
        layer(keras.KerasTensor(shape))
    assert not layer.weights


def test_the_feature_size_of_channels_first_maps_is_their_third_last():
    with pytest.raises(ValueError, match="known, positive feature size"):
        NetVLAD(2, assignment="conv", data_format="channels_first")(keras.KerasTensor((None, None, 4, 5)))


@pytest.mark.parametrize("method", ["__call__", "aggregate", "assign"])
def test_the_feature_size_must_stay_the_same_after_build(method):
    layer = make_layer()
    message = r"was built for features of size 5; build a new layer .*Received: shape \(2, 7, 6\)"
    with pytest.raises(ValueError, match=message):
        getattr(layer, method)(random_array((2, 7, 6)))
    with pytest.raises(ValueError, match="was built for features of size 5"):
        layer(keras.KerasTensor((None, None, 6)))


@pytest.mark.parametrize(
    ("shape", "mask_shape", "allowed"),
    [
        (FRAMES, (2,), r"\(2, 7\)"),
        (FRAMES, (2, 8), r"\(2, 7\)"),
        (FRAMES, (1, 7), r"\(2, 7\)"),
        (FRAMES, (2, 7, 1), r"\(2, 7\)"),
        (FRAMES, FRAMES, r"\(2, 7\)"),
        (IMAGES, (2, 3), r"\(2, 3, 4\)"),
        (IMAGES, (2, 12), r"\(2, 3, 4\)"),
        (IMAGES, (2, 4, 3), r"\(2, 3, 4\)"),
        (VIDEOS, (2, 2), r"\(2, 3\) or \(2, 3, 2, 4\)"),
        (VIDEOS, (2, 3, 2), r"\(2, 3\) or \(2, 3, 2, 4\)"),
        (VIDEOS, (2, 3, 4, 2), r"\(2, 3\) or \(2, 3, 2, 4\)"),
    ],
)
def test_the_mask_must_have_the_shape_of_the_positions(shape, mask_shape, allowed):
    layer = make_layer(shape)
    received = ", ".join(map(str, mask_shape))
    message = rf"`mask` of `{layer.name}` must have shape {allowed}, .*Received: mask of shape \({received},?\)"
    for method in (layer, layer.aggregate, layer.assign):
        with pytest.raises(ValueError, match=message):
            method(random_array(shape), mask=np.ones(mask_shape, bool))
    with pytest.raises(ValueError, match="must have shape"):
        layer(keras.KerasTensor(shape), mask=keras.KerasTensor(mask_shape, dtype="bool"))


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf])
def test_weights_must_be_finite_and_not_negative(value):
    layer = make_layer()
    weights = np.ones((2, 7), "float32")
    weights[1, 2] = value
    for method in (layer, layer.aggregate, layer.assign):
        with pytest.raises(ValueError, match=r"must be boolean or hold finite weights of 0 or more\. Received: values"):
            method(random_array(FRAMES), mask=weights)


def test_the_centroids_are_subtracted_from_float64_sums_in_float64():
    layer = NetVLAD(2)
    layer.build((None, None, 3))
    layer.centroids.assign(np.full((2, 3), 1e4))
    residuals, mass = np.random.default_rng(0).normal(size=(1, 2, 3)) * 1e-3, np.array([[3.0, 5.0]])
    first_sum = mass[:, :, None] * (1e4 + residuals)
    expected = reference.describe(first_sum, mass, np.full((2, 3), 1e4))
    # Measured 5e-8, headroom 10; float32 has no digit of the residuals.
    np.testing.assert_allclose(to_numpy(layer.describe(first_sum, mass)), expected, rtol=0, atol=5e-7)


def test_describe_needs_a_built_layer():
    with pytest.raises(ValueError, match="has no centroids yet; call it or `aggregate` on inputs first"):
        NetVLAD(2, name="pool").describe(np.zeros((1, 2, 3)), np.zeros((1, 2)))


@pytest.mark.parametrize(("first", "second"), [((1, 3, 4), (1, 3)), ((1, 2, 5), (1, 3)), ((1, 3, 5), (1, 2))])
def test_describe_needs_sums_of_its_own_sizes(first, second):
    message = r"takes the sums of `aggregate`, \(batch, 3, 5\) and \(batch, 3\)\. Received: shapes \(1, "
    with pytest.raises(ValueError, match=message):
        make_layer().describe(np.zeros(first, "float32"), np.zeros(second, "float32"))
