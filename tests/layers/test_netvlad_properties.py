"""Properties of `NetVLAD` for any input, searched by hypothesis, in float64 so that only mistakes exceed the bounds."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from layer_contract import BACKEND, double_precision, loss_and_gradients, randomize_weights, to_numpy

from keras_netvlad import NetVLAD

# Keras warns of a softmax over one cluster; here it is meant.
pytestmark = [pytest.mark.backends, pytest.mark.filterwarnings("ignore:You are using a softmax over axis")]

# Float64 beside float64, relative to the largest output: 1e-15 measured at worst, headroom 100. On JAX and torch Keras
# computes parts of a float64 layer in float32 (see test_netvlad.py): 7e-7 measured, headroom 7.
TOLERANCE = 1e-13 if BACKEND == "tensorflow" else 5e-6
# The same beside central differences, whose own error is 4e-10 here; headroom 100, and 10 for float32.
GRADIENT_TOLERANCE = 5e-8 if BACKEND == "tensorflow" else 1e-5

SEEDS = st.integers(0, 2**16)
SIZES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "frames": st.integers(1, 8),
        "features": st.integers(2, 6),
        "clusters": st.integers(1, 5),
    }
)
SWITCHES = ("use_bias", "assignment_batch_normalization", "normalize_input", "intra_normalization")
OPTIONS = st.fixed_dictionaries(
    {
        "num_ghost_clusters": st.integers(0, 2),
        "assignment": st.sampled_from(["dense", "conv"]),
        "output_normalization": st.booleans(),
        **{name: st.booleans() for name in SWITCHES},
    }
)


@pytest.fixture(scope="module", autouse=True)
def _double_precision():
    with double_precision():
        yield


def make_problem(sizes, seed, **options):
    """A float64 layer with random weights, its inputs `(B, N, D)`, and the generator to draw more from."""
    rng = np.random.default_rng(seed)
    layer = NetVLAD(sizes["clusters"], dtype="float64", **options)
    layer.build((None, None, sizes["features"]))
    randomize_weights(layer, seed)
    return layer, rng.normal(size=(sizes["batch"], sizes["frames"], sizes["features"])), rng


def random_mask(rng, shape, weighted):
    keep = rng.random(shape) < 0.6
    return keep * rng.uniform(0.1, 3.0, shape) if weighted else keep


def assert_close(actual, expected, tolerance=TOLERANCE):
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@given(SIZES, OPTIONS, SEEDS)
def test_the_order_of_the_descriptors_does_not_matter(sizes, options, seed):
    layer, inputs, rng = make_problem(sizes, seed, **options)
    mask = random_mask(rng, inputs.shape[:2], weighted=True)
    order = rng.permutation(sizes["frames"])
    assert_close(to_numpy(layer(inputs[:, order], mask=mask[:, order])), to_numpy(layer(inputs, mask=mask)))


@given(SIZES, OPTIONS, SEEDS, st.integers(2, 4))
def test_repeating_every_descriptor_changes_only_the_length(sizes, options, seed, times):
    layer, inputs, _ = make_problem(sizes, seed, **options)
    once, repeated = to_numpy(layer(inputs)), to_numpy(layer(np.repeat(inputs, times, axis=1)))
    is_normalized = layer.intra_normalization or layer.output_normalization
    assert_close(repeated, once if is_normalized else times * once)


@given(SIZES, OPTIONS, SEEDS, st.integers(1, 4), st.sampled_from([0.0, 1e6, np.nan, np.inf]), st.booleans())
def test_padding_at_the_end_changes_nothing(sizes, options, seed, num_padding, value, weighted):
    layer, inputs, rng = make_problem(sizes, seed, **options)
    mask = random_mask(rng, inputs.shape[:2], weighted)
    padding = np.full((sizes["batch"], num_padding, sizes["features"]), value)
    padded = np.concatenate([inputs, padding], axis=1)
    padded_mask = np.concatenate([mask, np.zeros(padding.shape[:2], mask.dtype)], axis=1)
    assert_close(to_numpy(layer(padded, mask=padded_mask)), to_numpy(layer(inputs, mask=mask)))


@given(SIZES, OPTIONS, SEEDS)
def test_a_mask_equals_leaving_the_descriptors_out(sizes, options, seed):
    layer, inputs, rng = make_problem(sizes, seed, **options)
    mask = random_mask(rng, inputs.shape[:2], weighted=False)
    masked = to_numpy(layer(inputs, mask=mask))
    for video, keep, row in zip(inputs, mask, masked, strict=True):
        assert_close(row, to_numpy(layer(video[None, keep]))[0])


@given(SIZES, OPTIONS, SEEDS, st.integers(1, 5), st.booleans())
def test_chunks_in_any_split_and_order_sum_to_the_whole(sizes, options, seed, num_chunks, weighted):
    layer, inputs, rng = make_problem(sizes, seed, **options)
    mask = random_mask(rng, inputs.shape[:2], weighted)
    cuts = np.sort(rng.integers(0, sizes["frames"] + 1, num_chunks - 1))
    chunks = list(zip(np.split(inputs, cuts, axis=1), np.split(mask, cuts, axis=1), strict=True))
    first = second = 0
    for i in rng.permutation(num_chunks):
        a, m = layer.aggregate(chunks[i][0], mask=chunks[i][1])
        first, second = first + a, second + m
    whole = to_numpy(layer(inputs, mask=mask))
    assert_close(to_numpy(layer.describe(first, second)), whole)
    assert_close(whole, reference.netvlad(inputs, mask=mask, **reference.options_of(layer)))


@given(SIZES, OPTIONS, SEEDS)
def test_the_descriptor_has_unit_norm_unless_the_video_is_empty(sizes, options, seed):
    layer, inputs, rng = make_problem(sizes, seed, **{**options, "output_normalization": True})
    mask = random_mask(rng, inputs.shape[:2], weighted=True)
    norms = np.linalg.norm(to_numpy(layer(inputs, mask=mask)), axis=1)
    assert_close(norms, np.where((mask > 0).any(axis=1), 1.0, 0.0))


@given(SIZES, OPTIONS, SEEDS, st.lists(st.booleans(), min_size=5, max_size=5))
def test_filled_clusters_share_the_norm_and_empty_ones_are_zero(sizes, options, seed, is_filled):
    options = {**options, "use_bias": True, "assignment_batch_normalization": False, "intra_normalization": True}
    layer, inputs, _ = make_problem(sizes, seed, **options)
    is_filled = np.array(is_filled[: sizes["clusters"]])
    is_filled[0] = True
    # A logit that far below the others has a softmax of exactly 0.
    ghosts = np.zeros(layer.num_ghost_clusters)
    layer.bias.assign(np.concatenate([np.where(is_filled, 0.0, -1e4), ghosts]))
    outputs = to_numpy(layer(inputs)).reshape(sizes["batch"], sizes["clusters"], sizes["features"])
    share = is_filled.sum() ** -0.5 if layer.output_normalization else 1.0
    assert_close(np.linalg.norm(outputs, axis=2), np.tile(np.where(is_filled, share, 0.0), (sizes["batch"], 1)))


@given(SIZES, OPTIONS, SEEDS)
def test_shifting_frames_and_centroids_together_changes_nothing(sizes, options, seed):
    options = {**options, "use_bias": True, "assignment_batch_normalization": False, "normalize_input": False}
    layer, inputs, rng = make_problem(sizes, seed, **options)
    before = to_numpy(layer(inputs))
    shift = rng.normal(size=sizes["features"])
    kernel = layer.kernel.numpy()
    layer.bias.assign(layer.bias.numpy() - shift @ kernel.reshape(kernel.shape[-2:]))
    layer.centroids.assign(layer.centroids.numpy() + shift)
    assert_close(to_numpy(layer(inputs + shift)), before)


@given(SIZES, OPTIONS, SEEDS, st.sampled_from(["none", "boolean", "weights"]))
def test_any_options_match_the_oracle(sizes, options, seed, mask):
    layer, inputs, rng = make_problem(sizes, seed, **options)
    mask = None if mask == "none" else random_mask(rng, inputs.shape[:2], mask == "weights")
    assert_close(
        to_numpy(layer(inputs, mask=mask)), reference.netvlad(inputs, mask=mask, **reference.options_of(layer))
    )


@pytest.mark.parametrize("run", range(16))
def test_every_pair_of_options_matches_the_oracle(run):
    # Columns of a Hadamard matrix: in 16 runs, any two of up to 15 switches take all four pairs of values.
    def switch(column):
        return (run & column).bit_count() % 2 == 1

    dtype = "float64" if switch(1) else "float32"
    options = {
        "num_ghost_clusters": 2 * switch(2),
        "use_bias": switch(3),
        "assignment_batch_normalization": switch(4),
        "normalize_input": switch(5),
        "intra_normalization": switch(6),
        "output_normalization": switch(7),
        "assignment": "conv" if switch(8) else "dense",
    }
    has_mask, weighted, by_frame, is_video, channels_first = (switch(column) for column in range(9, 14))
    shape = (2, 3, 2, 2, 4) if is_video else (2, 3, 2, 4)
    positions = shape[:2] if by_frame and is_video else shape[:-1]
    if channels_first and options["assignment"] == "conv":
        options["data_format"] = "channels_first"
        shape = (*shape[:-3], 4, *shape[-3:-1])
    rng = np.random.default_rng(run)
    inputs = rng.normal(size=shape).astype(dtype)
    mask = random_mask(rng, positions, weighted) if has_mask else None
    layer = NetVLAD(3, dtype=dtype, **options)
    layer.build(shape)
    randomize_weights(layer, run)
    # Float32 beside float64: 1e-7 measured, headroom 20.
    tolerance = max(TOLERANCE, 0.0 if dtype == "float64" else 2e-6)
    expected = reference.netvlad(inputs, mask=mask, **reference.options_of(layer))
    assert_close(to_numpy(layer(inputs, mask=mask)), expected, tolerance)


@given(
    st.fixed_dictionaries(
        {
            "batch": st.integers(1, 2),
            "frames": st.integers(1, 4),
            "features": st.integers(2, 3),
            "clusters": st.integers(1, 3),
        }
    ),
    OPTIONS,
    SEEDS,
    st.sampled_from(["none", "boolean", "weights"]),
)
def test_gradients_match_central_finite_differences_of_the_oracle(sizes, options, seed, mask):
    layer, inputs, rng = make_problem(sizes, seed, **options)
    mask = None if mask == "none" else random_mask(rng, inputs.shape[:2], mask == "weights")
    cotangent = rng.normal(size=(sizes["batch"], sizes["clusters"] * sizes["features"]))
    loss, by_input, by_weights = loss_and_gradients(layer, inputs, mask, cotangent)
    known = reference.options_of(layer)
    arrays = {"inputs": inputs, "kernel": known.pop("kernel"), "centroids": known.pop("centroids")}
    if layer.assignment_batch_normalization:
        arrays["gamma"], arrays["beta"], *moments = known.pop("batch_normalization")
    elif layer.use_bias:
        arrays["bias"] = known.pop("bias")

    def oracle():
        options = dict(known)
        if layer.assignment_batch_normalization:
            options["batch_normalization"] = (arrays["gamma"], arrays["beta"], *moments)
        values = {name: array for name, array in arrays.items() if name not in ("gamma", "beta")}
        return np.sum(cotangent * reference.netvlad(mask=mask, **values, **options))

    gradients = {"inputs": by_input}
    gradients.update({v.name: g for v, g in zip(layer.trainable_variables, by_weights, strict=True)})
    assert_close(loss, oracle())
    for name, gradient in gradients.items():
        assert_close(gradient, central_differences(oracle, arrays[name]), GRADIENT_TOLERANCE)


def central_differences(function, array, step=1e-5):
    """Gradient of `function()` by each entry of `array`, which it reads."""
    gradient = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = function()
        array[index] = value - step
        below = function()
        array[index] = value
        gradient[index] = (above - below) / (2 * step)
    return gradient


@given(SIZES, SEEDS, st.integers(1, 3))
def test_ghost_clusters_have_no_centroids_and_no_output(sizes, seed, num_ghosts):
    layer, inputs, _ = make_problem(sizes, seed, num_ghost_clusters=num_ghosts)
    clusters, features = sizes["clusters"], sizes["features"]
    assert tuple(layer.centroids.shape) == (clusters, features)
    assert layer.kernel.shape[-1] == layer.bias.shape[0] == clusters + num_ghosts
    assert layer(inputs).shape[-1] == clusters * features
    assert layer.assign(inputs).shape[-1] == clusters
    # What ghosts take is missing from the sum of the assignments.
    assert np.all(to_numpy(layer.assign(inputs)).sum(axis=-1) < 1)


@given(SIZES, SEEDS)
def test_ghost_clusters_that_take_nothing_are_as_none(sizes, seed):
    layer, inputs, _ = make_problem(sizes, seed, num_ghost_clusters=2)
    plain = NetVLAD(sizes["clusters"], dtype="float64")
    plain.build(inputs.shape)
    kernel, bias, centroids = layer.get_weights()
    clusters = sizes["clusters"]
    plain.set_weights([kernel[:, :clusters], bias[:clusters], centroids])
    bias[clusters:] = -1e4
    layer.set_weights([kernel, bias, centroids])
    assert_close(to_numpy(layer(inputs)), to_numpy(plain(inputs)))
    # A ghost that takes nothing is not moved either.
    _, _, (by_kernel, by_bias, _) = loss_and_gradients(layer, inputs)
    np.testing.assert_array_equal(by_kernel[:, clusters:], 0.0)
    np.testing.assert_array_equal(by_bias[clusters:], 0.0)


@given(SIZES, SEEDS)
def test_ghost_clusters_that_take_everything_leave_nothing(sizes, seed):
    layer, inputs, _ = make_problem(sizes, seed, num_ghost_clusters=1)
    bias = np.zeros(sizes["clusters"] + 1)
    bias[-1] = 1e4
    layer.bias.assign(bias)
    loss, *gradients = loss_and_gradients(layer, inputs)
    assert loss == 0
    for gradient in (gradients[0], *gradients[1]):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
