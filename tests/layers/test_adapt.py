"""`adapt`: the features that are drawn, the weights that are set, and the errors."""

import builtins

import keras
import numpy as np
import pytest
import reference
from layer_contract import double_precision, to_numpy

from keras_netvlad import NetVLAD
from keras_netvlad.layers.kmeans import _Reservoir
from keras_netvlad.layers.vlad import VLAD

pytestmark = [pytest.mark.backends, pytest.mark.filterwarnings("ignore:You are using a softmax over axis")]

NUM_BLOBS, SIZE = 5, 6
# Float32 weights beside float64 NumPy: 5e-8 relative measured at worst, their rounding; headroom 8.
RTOL = 4e-7


def blobs(num_videos=12, num_frames=25, seed=0, counts=(100, 80, 60, 40, 20)):
    """Videos whose frames lie closely around five centers, most around the first; and the centers."""
    rng = np.random.default_rng(seed)
    centers = 3.0 * rng.normal(size=(NUM_BLOBS, SIZE)) + 1.0
    labels = np.repeat(np.arange(NUM_BLOBS), counts)[: num_videos * num_frames]
    rng.shuffle(labels)
    frames = centers[labels] + 0.05 * rng.normal(size=(len(labels), SIZE))
    return frames.reshape(num_videos, num_frames, SIZE).astype("float32"), centers


def adapted(data, mask=None, layer=None, seed=0, verbose=0, **kwargs):
    layer = NetVLAD(NUM_BLOBS) if layer is None else layer
    assert layer.adapt(data, mask, seed=seed, verbose=verbose, **kwargs) is None
    return layer


def weights_of(layer):
    return [variable.numpy() for variable in layer.weights]


def assert_same_weights(layer, other):
    for a, b in zip(weights_of(layer), weights_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


def nearest(features, centroids):
    return np.array([np.argmin([np.sum((x - c) ** 2) for c in centroids]) for x in features])


def test_centroids_are_the_centers_most_populated_first():
    frames, centers = blobs()
    # The centroids of 100 to 20 frames of spread 0.05 are up to 0.025 off the centers; headroom 2.
    np.testing.assert_allclose(adapted(frames).centroids.numpy(), centers, atol=0.05)


def test_ghosts_are_the_least_populated_clusters():
    frames, centers = blobs()
    layer = adapted(frames, layer=NetVLAD(3, num_ghost_clusters=2))
    np.testing.assert_allclose(layer.centroids.numpy(), centers[:3], atol=0.05)
    # Kernel and bias of the ghosts say the same of the last two centers as of the first three.
    logits = centers @ layer.kernel.numpy() + layer.bias.numpy()
    np.testing.assert_array_equal(logits.argmax(axis=1), range(5))
    shares = to_numpy(layer.assign(centers[None].astype("float32"))).sum(axis=-1)[0]
    assert shares[:3].min() > 0.7
    assert shares[3:].max() < 0.3


@pytest.mark.parametrize(("assignment", "num_clusters"), [("dense", 60), ("conv", NUM_BLOBS)])
def test_weights_with_bias(assignment, num_clusters):
    """W = 2 alpha c, b = -alpha ||c||^2, alpha = ln(100) / mean(d2^2 - d1^2), in loops."""
    frames = np.random.default_rng(1).normal(size=(4, 50, SIZE)).astype("float32")
    layer = adapted(frames, layer=NetVLAD(num_clusters, assignment=assignment))
    centroids = layer.centroids.numpy().astype("float64")
    gaps = []
    for x in frames.reshape(-1, SIZE).astype("float64"):
        first, second = sorted(np.sum((x - c) ** 2) for c in centroids)[:2]
        gaps.append(second - first)
    alpha = np.log(100) / np.mean(gaps)
    assert layer.kernel.shape == ((SIZE, num_clusters) if assignment == "dense" else (1, 1, SIZE, num_clusters))
    np.testing.assert_allclose(layer.kernel.numpy().reshape(SIZE, -1), 2 * alpha * centroids.T, rtol=RTOL)
    np.testing.assert_allclose(layer.bias.numpy(), [-alpha * np.sum(c**2) for c in centroids], rtol=RTOL)
    assignments = to_numpy(layer.assign(frames))
    first, second = np.sort(assignments, axis=-1)[..., :-3:-1].transpose(2, 0, 1)
    np.testing.assert_allclose(np.mean(np.log(first) - np.log(second)), np.log(100), rtol=1e-4)
    np.testing.assert_array_equal(
        assignments.argmax(axis=-1).ravel(), nearest(frames.reshape(-1, SIZE).astype("float64"), centroids)
    )


def test_weights_without_bias():
    """W = alpha c_hat, alpha = ln(100) / mean(top1 - top2 of c_hat . x), in loops."""
    frames = np.random.default_rng(1).normal(size=(4, 50, SIZE)).astype("float32")
    layer = adapted(frames, layer=NetVLAD(NUM_BLOBS, use_bias=False, normalize_input=True))
    centroids = layer.centroids.numpy().astype("float64")
    directions = [c / np.linalg.norm(c) for c in centroids]
    gaps = []
    for x in frames.reshape(-1, SIZE).astype("float64"):
        second, first = sorted(x @ c / np.linalg.norm(x) for c in directions)[-2:]
        gaps.append(first - second)
    alpha = np.log(100) / np.mean(gaps)
    np.testing.assert_allclose(layer.kernel.numpy(), alpha * np.transpose(directions), rtol=RTOL)
    assert len(layer.weights) == 2
    assert np.linalg.norm(centroids, axis=1).max() < 1  # of normalized features


@pytest.mark.parametrize("use_bias", [True, False])
def test_batch_normalized_assignment_is_the_intended_one(use_bias):
    frames = np.random.default_rng(1).normal(size=(8, 50, SIZE)).astype("float32") + 1.0
    options = {"num_clusters": 4, "num_ghost_clusters": 1, "use_bias": use_bias}
    layer = adapted(frames, layer=NetVLAD(assignment_batch_normalization=True, **options))
    kernel = layer.kernel.numpy().astype("float64")
    mean, variance = reference.batch_statistics(frames, kernel)
    np.testing.assert_allclose(layer.batch_normalization.moving_mean.numpy(), mean, rtol=1e-4)
    np.testing.assert_allclose(layer.batch_normalization.moving_variance.numpy(), variance, rtol=1e-4)
    if use_bias:
        plain = adapted(frames, layer=NetVLAD(**options))
        expected = to_numpy(plain.assign(frames))
    else:
        # Cosines around the mean of the features.
        expected = reference.assignments(frames - frames.mean(axis=(0, 1)), kernel, 4)
    # Measured 1.4e-6, headroom 7.
    np.testing.assert_allclose(to_numpy(layer.assign(frames)), expected, atol=1e-5)
    # The descriptor in training, with statistics of the batch: 1.2e-5 measured, headroom 8.
    inference, training = (to_numpy(layer(frames, training=mode)) for mode in (False, True))
    np.testing.assert_allclose(training, inference, atol=1e-4)


def test_without_an_offset_cosines_are_taken_around_the_mean_of_the_features():
    frames = np.random.default_rng(1).normal(size=(8, 50, SIZE)).astype("float32") + 3.0
    layer = adapted(frames, layer=NetVLAD(4, use_bias=False, assignment_batch_normalization=True))
    most_assigned = to_numpy(layer.assign(frames)).reshape(-1, 4).argmax(axis=1)
    # Measured 0.975; with cosines around zero 0.82.
    assert np.mean(most_assigned == nearest(frames.reshape(-1, SIZE), layer.centroids.numpy())) > 0.93


def test_one_cluster_has_nothing_to_assign():
    frames, _ = blobs()
    layer = adapted(frames, layer=NetVLAD(1), sample_size=300)
    assert not layer.kernel.numpy().any()
    assert not layer.bias.numpy().any()
    np.testing.assert_allclose(layer.centroids.numpy()[0], frames.mean(axis=(0, 1)), rtol=1e-4)
    assert np.isfinite(to_numpy(layer(frames))).all()
    normalized = adapted(frames, layer=NetVLAD(1, assignment_batch_normalization=True))
    assert np.isfinite(to_numpy(normalized(frames, training=True))).all()


def test_every_kind_of_data_gives_the_same_weights():
    import tensorflow as tf

    frames, _ = blobs()
    mask = np.random.default_rng(2).random(frames.shape[:2]) < 0.7
    parts = [slice(0, 5), slice(5, 7), slice(7, 12)]

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return len(parts)

        def __getitem__(self, index):
            return frames[parts[index]], mask[parts[index]]

    expected = adapted(frames, mask, sample_size=100)
    dataset = tf.data.Dataset.from_tensor_slices((frames, mask))
    for data in (
        dataset.batch(4),
        dataset.repeat().batch(6).take(2),
        ((frames[part], mask[part]) for part in parts),
        [[frames[part], mask[part].astype("float32")] for part in parts],
        [(frames[part], mask[part].astype("int32")) for part in parts],
        Batches(),
    ):
        assert_same_weights(adapted(data, sample_size=100), expected)
    for array in (keras.ops.convert_to_tensor(frames), tf.constant(frames)):
        assert_same_weights(adapted(array, mask, sample_size=100, batch_size=5), expected)
    # Another mask, another sample.
    assert np.any(adapted(frames, sample_size=100).centroids.numpy() != expected.centroids.numpy())


def test_batches_of_unequal_length_and_single_items():
    frames, centers = blobs()
    data = [(frames[:3],), frames[3:7, :20], frames[7:, 5:].reshape(1, -1, SIZE)]
    np.testing.assert_allclose(adapted(data).centroids.numpy(), centers, atol=0.05)


def test_maps_and_their_masks():
    frames, _ = blobs()
    mask = np.random.default_rng(2).random(frames.shape[:2]) < 0.7
    expected = adapted(frames, mask)
    images, image_mask = frames.reshape(12, 5, 5, SIZE), mask.reshape(12, 5, 5)
    assert_same_weights(adapted(images, image_mask), expected)
    assert_same_weights(adapted(images.reshape(4, 3, 5, 5, SIZE), image_mask.reshape(4, 3, 5, 5)), expected)
    channels_first = adapted(
        images.transpose(0, 3, 1, 2),
        image_mask,
        layer=NetVLAD(NUM_BLOBS, assignment="conv", data_format="channels_first"),
    )
    np.testing.assert_array_equal(channels_first.centroids.numpy(), expected.centroids.numpy())
    np.testing.assert_array_equal(channels_first.kernel.numpy()[0, 0], expected.kernel.numpy())
    assert channels_first(images.transpose(0, 3, 1, 2)).shape == (12, NUM_BLOBS * SIZE)
    # A mask of frames covers every position of its frame.
    videos, frame_mask = images.reshape(4, 3, 5, 5, SIZE), np.arange(3) < np.array([[3], [2], [1], [2]])
    every_position = np.repeat(frame_mask, 25, axis=1).reshape(4, 75)
    assert_same_weights(adapted(videos, frame_mask), adapted(frames.reshape(4, 75, SIZE), every_position))
    assert_same_weights(adapted([(videos, frame_mask)]), adapted(videos, frame_mask))


def test_padding_may_hold_anything():
    frames, _ = blobs()
    mask = np.random.default_rng(2).random(frames.shape[:2]) < 0.7
    expected = adapted(frames, mask)
    for padding in (np.nan, np.inf, 1e30):
        padded = np.where(mask[:, :, None], frames, np.float32(padding))
        assert_same_weights(adapted(padded, mask), expected)
        assert_same_weights(adapted(padded, 0.3 * mask), expected)


def test_before_the_first_call_after_it_and_after_compile():
    frames, _ = blobs()
    expected = adapted(frames)
    assert_same_weights(adapted(frames, layer=NetVLAD(NUM_BLOBS)), expected)
    inputs = keras.Input((None, SIZE))
    layer = NetVLAD(NUM_BLOBS)
    model = keras.Model(inputs, layer(inputs))
    model.compile(optimizer="sgd", loss="mse")
    before = model.predict(frames, verbose=0)
    adapted(frames, layer=layer)
    assert_same_weights(layer, expected)
    after = model.predict(frames, verbose=0)
    assert np.abs(after - before).max() > 0.1
    # Compiled beside eager: 1.2e-5 measured (JAX), headroom 4. `A - M c` cancels, as frames lie near the centroids.
    np.testing.assert_allclose(after, to_numpy(expected(frames)), atol=5e-5)
    targets = np.zeros_like(after)
    assert np.isfinite(model.fit(frames, targets, verbose=0).history["loss"]).all()


def test_adapted_layer_survives_a_file(tmp_path):
    frames, _ = blobs()
    layer = adapted(frames, layer=NetVLAD(3, num_ghost_clusters=1, name="pooling"))
    inputs = keras.Input((None, SIZE))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    assert_same_weights(keras.saving.load_model(tmp_path / "model.keras").get_layer("pooling"), layer)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64", "float16", "bfloat16"])
def test_dtypes(dtype):
    frames, centers = blobs()
    with double_precision():
        layer = adapted(frames, layer=NetVLAD(NUM_BLOBS, dtype=dtype))
        centroids = keras.ops.convert_to_numpy(keras.ops.cast(layer.centroids, "float32"))
        # bfloat16 centroids of up to 8 are 0.016 off by rounding, on top of 0.025.
        np.testing.assert_allclose(centroids, centers, atol=0.08)
        assignments = to_numpy(layer.assign(centers[None].astype("float32")))[0]
        np.testing.assert_array_equal(assignments.argmax(axis=1), range(NUM_BLOBS))


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16"])
def test_statistics_of_an_assignment_keep_float32(dtype):
    frames, _ = blobs()
    options = {"num_clusters": NUM_BLOBS, "assignment_batch_normalization": True}
    expected = adapted(frames, layer=NetVLAD(**options)).batch_normalization
    received = adapted(frames, layer=NetVLAD(**options, dtype=dtype)).batch_normalization
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        assert getattr(received, name).dtype == "float32"
        np.testing.assert_array_equal(getattr(received, name).numpy(), getattr(expected, name).numpy())


def test_vlad_gets_centroids_only():
    frames, _ = blobs()
    layer = adapted(frames, layer=VLAD(NUM_BLOBS))
    assert len(layer.weights) == 1
    np.testing.assert_array_equal(layer.centroids.numpy(), adapted(frames).centroids.numpy())


def test_normalize_input_applies_to_the_sample():
    frames, centers = blobs()
    layer = adapted(frames, layer=VLAD(NUM_BLOBS, normalize_input=True))
    expected = centers / np.linalg.norm(centers, axis=1, keepdims=True)
    np.testing.assert_allclose(layer.centroids.numpy(), expected, atol=0.02)


def test_large_offsets_do_not_hide_the_clusters():
    """Descriptors far from the origin, whose squares leave no digits for the distances."""
    frames, centers = blobs()
    layer = adapted(frames + np.float32(3e3), layer=VLAD(NUM_BLOBS))
    np.testing.assert_allclose(layer.centroids.numpy() - 3e3, centers, atol=0.05)


# The sample


def test_seed_governs_the_result():
    frames = np.random.default_rng(1).normal(size=(6, 50, SIZE)).astype("float32")
    assert_same_weights(adapted(frames, seed=5), adapted(frames, seed=5))
    assert np.any(adapted(frames, seed=5).kernel.numpy() != adapted(frames, seed=6).kernel.numpy())
    unseeded = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        unseeded.append(adapted(frames, seed=None))
    assert_same_weights(*unseeded)
    assert np.any(adapted(frames, seed=None).kernel.numpy() != unseeded[0].kernel.numpy())


@pytest.mark.slow
def test_sample_is_uniform_without_replacement_and_bounded():
    """Every descriptor of the stream is drawn equally often, wherever it stands and however it is cut."""
    num_features, size, rounds = 60, 20, 3000
    rng = np.random.default_rng(0)
    stream = np.arange(num_features, dtype="float32")[:, None]
    drawn = np.zeros(num_features)
    firsts = np.zeros(num_features)
    for _ in range(rounds):
        reservoir = _Reservoir(size, rng)
        for part in np.split(stream, [7, 8, 31, 31, 50]):
            reservoir.add(part)
            assert len(reservoir.rows) <= size
        sample = reservoir.sample()[:, 0].astype(int)
        assert len(set(sample)) == len(sample) == size
        drawn[sample] += 1
        firsts[sample[0]] += 1
    # Binomial, standard deviation 25.8 of 1000: 60 draws within 4 of it but for one run in 260. Seeded.
    assert np.abs(drawn - rounds * size / num_features).max() < 4 * 25.8
    assert np.abs(firsts - rounds / num_features).max() < 4 * 7.1
    assert reservoir.num_seen == num_features


def test_sample_does_not_depend_on_the_cut():
    stream = np.random.default_rng(0).normal(size=(200, 3))
    samples = []
    for cuts in ([], [1], list(range(1, 200)), [90, 110]):
        reservoir = _Reservoir(40, np.random.default_rng(4))
        for part in np.split(stream, cuts):
            reservoir.add(part)
        samples.append(reservoir.sample())
    for sample in samples[1:]:
        np.testing.assert_array_equal(sample, samples[0])


def test_steps_limits_what_is_read():
    frames, _ = blobs()
    num_read = 0

    def endless():
        nonlocal num_read
        while True:
            num_read += 1
            yield frames[:3]

    layer = adapted(endless(), steps=2)
    assert num_read == 2
    assert_same_weights(layer, adapted(np.concatenate([frames[:3], frames[:3]])))
    assert_same_weights(adapted(frames, steps=2, batch_size=3), adapted(frames[:6]))
    assert_same_weights(adapted(frames, steps=99, batch_size=3), adapted(frames))


def test_progress(capsys):
    frames, _ = blobs()
    adapted(frames, batch_size=4)
    assert capsys.readouterr().out == ""
    adapted(frames, batch_size=4, verbose=1)
    assert "3/3" in capsys.readouterr().out
    adapted((frames[i : i + 1] for i in range(4)), verbose=1)
    assert "4/Unknown" in capsys.readouterr().out
    adapted((frames[i : i + 1] for i in range(4)), verbose="auto", steps=3)
    assert "3/3" in capsys.readouterr().out


# What is refused


def constant_length():
    """Descriptors that differ in length alone."""
    return np.linspace(1, 2, 40, dtype="float32")[None, :, None] * np.ones((1, 40, SIZE), "float32")


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return np.zeros((1, 2, SIZE))


def endless_dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(np.zeros((1, 2, SIZE), "float32")).repeat()


def ragged():
    import tensorflow as tf

    return [tf.ragged.constant([[[1.0] * SIZE], [[1.0] * SIZE] * 2], ragged_rank=1)]


def refused():
    frames, _ = blobs()
    broken = frames.copy()
    broken[2, 3, 1], broken[2, 4, 0] = np.nan, np.inf
    labels = np.zeros(12, "int32")
    return {
        "nan": (lambda: broken, {}, ValueError, "NaN or infinity in 2 of the 300 features of batch 1"),
        "few": (lambda: frames[:1, :4], {}, ValueError, "at least 5 features.*Received: 4 features"),
        "all masked": (lambda: frames, {"mask": np.zeros((12, 25), bool)}, ValueError, "Received: 0 features"),
        "empty array": (lambda: frames[:0], {}, ValueError, "Received: 0 features .* in 0 batches"),
        "empty": (lambda: [], {}, ValueError, "Received: 0 features .* in 0 batches"),
        "equal": (lambda: np.ones((3, 40, SIZE)), {}, ValueError, "5 distinct features.*Received: 1 distinct"),
        "size": (lambda: np.ones((3, 40, 4)), {}, ValueError, r"features of size 6.*Received: shape \(3, 40, 4\)"),
        "sizes": (lambda: [frames, frames[..., :4]], {}, ValueError, "features of size 6"),
        "rank": (lambda: frames[0], {}, ValueError, r"Received: shape \(25, 6\)"),
        "element's rank": (lambda: list(frames), {}, ValueError, r"Received: shape \(25, 6\)"),
        "labels": (lambda: [(frames, labels)], {}, ValueError, r"drop those.*lambda x, y: x.*shape \(12,\)"),
        "frame labels": (
            lambda: [(frames, np.full((12, 25), 7))],
            {},
            ValueError,
            r"lambda x, y: x.*shape \(12, 25\) and values from 7 to 7",
        ),
        "three items": (lambda: [(frames, labels, labels)], {}, ValueError, "Received: 3 items in batch 1"),
        "negative weights": (lambda: [(frames, -np.ones((12, 25)))], {}, ValueError, "values from -1.0 to -1.0"),
        "mask's shape": (lambda: frames, {"mask": np.ones((12, 24), bool)}, ValueError, r"mask of shape \(12, 24\)"),
        "mask of generator": (lambda: iter([frames]), {"mask": np.ones((12, 25))}, ValueError, "yield pairs"),
        "tuple": (lambda: (frames, labels), {}, TypeError, "optionally with `mask=`.*Received: a tuple"),
        "dict": (lambda: {"frames": frames}, {}, TypeError, "Received: a dict"),
        "dicts": (lambda: [{"frames": frames}], {}, TypeError, r"map\(lambda x: x\[.frames.\]\).*Received: a dict"),
        "text": (lambda: "frames.npy", {}, TypeError, "Received: a str"),
        "none": (lambda: None, {}, TypeError, "Received: a NoneType"),
        "symbol": (lambda: keras.Input((None, SIZE)), {}, TypeError, "Received: a KerasTensor"),
        "ragged": (ragged, {}, TypeError, "pad ragged videos"),
        "words": (lambda: [np.array([[["a"]]])], {}, TypeError, "array of numbers"),
        "endless": (Endless, {}, ValueError, "set `steps`.*Received: infinite a? ?Endless"),
        "endless dataset": (endless_dataset, {}, ValueError, "set `steps`.*steps=None"),
        "sample_size": (lambda: frames, {"sample_size": 4}, ValueError, "at least 5.*Received: sample_size=4"),
        "sample_size type": (lambda: frames, {"sample_size": 9.5}, ValueError, "Received: sample_size=9.5"),
        "batch_size": (lambda: frames, {"batch_size": 0}, ValueError, "Received: batch_size=0"),
        "steps": (lambda: frames, {"steps": 0}, ValueError, "Received: steps=0"),
        "seed": (lambda: frames, {"seed": -1}, ValueError, "Received: seed=-1"),
        "verbose": (lambda: frames, {"verbose": 3}, ValueError, "Received: verbose=3"),
    }


@pytest.mark.parametrize("case", list(refused()))
def test_refusals_change_nothing(case):
    make_data, options, error, message = refused()[case]
    layer = NetVLAD(3, num_ghost_clusters=2)
    layer.build((None, None, SIZE))
    before = weights_of(layer)
    with pytest.raises(error, match=message):
        layer.adapt(make_data(), **{"verbose": 0, **options})
    for old, new in zip(before, weights_of(layer), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("data", [[], np.ones((3, 40, SIZE)), np.full((3, 40, SIZE), np.nan)])
def test_refusals_do_not_build(data):
    layer = NetVLAD(NUM_BLOBS)
    with pytest.raises(ValueError, match="`adapt` of"):
        layer.adapt(data, verbose=0)
    assert not layer.built
    assert layer.feature_size is None
    assert not layer.weights
    adapted(np.random.default_rng(0).normal(size=(2, 30, 9)), layer=layer)
    assert layer.feature_size == 9


def test_feature_size_that_changes_on_the_way():
    layer = NetVLAD(2)
    with pytest.raises(
        ValueError, match=r"a single feature size.*batch 2 of shape \(2, 9, 4\) after .*\(None, None, 6\)"
    ):
        layer.adapt([np.ones((2, 9, 6)), np.ones((2, 9, 4))], verbose=0)
    assert not layer.built


def test_features_that_no_cluster_tells_apart():
    """Without a bias only directions count, and these have one."""
    layer = NetVLAD(3, use_bias=False)
    with pytest.raises(ValueError, match=r"clusters can tell apart.*use_bias=True.*Received: 40 features"):
        layer.adapt(constant_length(), verbose=0)
    assert not layer.built
    adapted(constant_length(), layer=NetVLAD(3))


def test_weights_that_the_dtype_cannot_hold():
    frames, _ = blobs()
    layer = NetVLAD(NUM_BLOBS, dtype="float16")
    with pytest.raises(ValueError, match=r"suits float16 weights.*Received: features of up to"):
        layer.adapt(1e5 * frames, verbose=0)
    assert not layer.built


def test_missing_scikit_learn(monkeypatch):
    original = builtins.__import__

    def without_sklearn(name, *args, **kwargs):
        if name.split(".")[0] == "sklearn":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    frames, _ = blobs()
    layer = NetVLAD(NUM_BLOBS)
    with pytest.raises(ImportError, match=r"pip install 'keras_netvlad\[adapt\]'"):
        layer.adapt((frames for _ in range(1)), verbose=0)
    assert not layer.built
