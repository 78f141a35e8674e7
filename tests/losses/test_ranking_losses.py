"""The ranking losses: values against float64 loops, gradients, what is missing, `fit`, saving."""

import keras
import numpy as np
import pytest
import reference
from layer_contract import BACKEND, double_precision, to_numpy

from keras_netvlad import NetVLAD, VideoClassifier
from keras_netvlad.data import load_japanese_vowels
from keras_netvlad.layers import FrameMask
from keras_netvlad.losses import MultiSimilarityLoss, WeaklySupervisedTripletLoss
from keras_netvlad.metrics import RetrievalMeanAveragePrecision

pytestmark = pytest.mark.backends

# Float32 beside the float64 oracle, relative to the largest loss: 2.7e-7 measured at worst, headroom 7.
TOLERANCE = 2e-6


def triplet_losses(roles, descriptors, margin=0.1, num_hard_negatives=None):
    """Equation 7 for each query, in loops."""
    losses = []
    for row, (query, *others) in zip(roles, np.asarray(descriptors, "float64"), strict=True):
        distances = [np.sum((query - other) ** 2) for other in others]
        positives = [d for d, role in zip(distances, row, strict=True) if role == 1]
        negatives = [d for d, role in zip(distances, row, strict=True) if role == -1]
        hinges = [max(0.0, min(positives) + margin - d) for d in negatives] if positives else []
        losses.append(sum(sorted(hinges, reverse=True)[:num_hard_negatives]))
    return np.array(losses)


def multi_similarity_losses(labels, descriptors, alpha=2.0, beta=50.0, base=0.5, mining_margin=0.1):
    """Equations 11, 12 and 15 for each query, in loops."""
    rows = [reference.normalized(row) for row in np.asarray(descriptors, "float64")]
    losses = []
    for i, query in enumerate(rows):
        positives = [query @ rows[j] for j in range(len(rows)) if j != i and labels[j] == labels[i]]
        negatives = [query @ rows[j] for j in range(len(rows)) if labels[j] != labels[i]]
        loss = 0.0
        if positives and negatives:
            hard_positives = [s for s in positives if s < max(negatives) + mining_margin]
            hard_negatives = [s for s in negatives if s > min(positives) - mining_margin]
            loss += np.log(1 + sum(np.exp(-alpha * (s - base)) for s in hard_positives)) / alpha
            loss += np.log(1 + sum(np.exp(beta * (s - base)) for s in hard_negatives)) / beta
        losses.append(loss)
    return np.array(losses)


def tuples(seed=0, batch=6, others=9, size=5):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(batch, 1 + others, size))
    descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
    roles = rng.choice([1, 0, -1], size=(batch, others), p=[0.05, 0.2, 0.75])
    roles[:, 0], roles[:, 1] = 1, -1
    return roles, descriptors.astype("float32")


def labeled(seed=0, batch=24, size=6, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, size=batch)
    places = rng.normal(size=(5, size))
    return labels, (places[labels] + spread * rng.normal(size=(batch, size))).astype("float32")


CASES = [
    (WeaklySupervisedTripletLoss, triplet_losses, tuples),
    (MultiSimilarityLoss, multi_similarity_losses, labeled),
]
OPTIONS = [
    (0, {}),
    (0, {"margin": 0.0}),
    (0, {"margin": 1.5, "num_hard_negatives": 2}),
    (0, {"margin": 1.5, "num_hard_negatives": 99}),
    (1, {}),
    (1, {"alpha": 5.0, "beta": 10.0, "base": 0.8, "mining_margin": 0.0}),
    (1, {"base": 1, "mining_margin": 10.0}),
]


@pytest.mark.parametrize(("case", "options"), OPTIONS, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_values(case, options, seed):
    make_loss, oracle, make_data = CASES[case]
    labels, descriptors = make_data(seed)
    expected = oracle(labels, descriptors, **options)
    assert np.count_nonzero(expected) > len(expected) / 3  # or the test shows nothing
    each = to_numpy(make_loss(reduction="none", **options)(labels, descriptors))
    np.testing.assert_allclose(each, expected, rtol=0, atol=TOLERANCE * expected.max())
    loss = make_loss(**options)
    np.testing.assert_allclose(float(loss(labels, descriptors)), expected.mean(), rtol=TOLERANCE)
    weights = np.linspace(0, 1, len(expected))
    weighted = float(loss(labels, descriptors, sample_weight=weights))
    np.testing.assert_allclose(weighted, (weights * expected).mean(), rtol=TOLERANCE)


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_half_precision_descriptors_cost_only_their_own_rounding(case, dtype):
    make_loss, oracle, make_data = CASES[case]
    labels, descriptors = make_data()
    with double_precision():
        descriptors = keras.ops.cast(descriptors, dtype)
        expected = oracle(labels, np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(descriptors, "float64"))))
        # Against the loops on the rounded descriptors, so nothing but float32 is left to lose; float64 loses 1e-15.
        loss = make_loss(reduction="none", dtype="float64" if dtype == "float64" else None)
        each = np.asarray(keras.ops.convert_to_numpy(loss(labels, descriptors)))
    tolerance = 1e-13 if dtype == "float64" else TOLERANCE
    np.testing.assert_allclose(each, expected, rtol=0, atol=tolerance * expected.max())


@pytest.mark.parametrize("case", [0, 1])
def test_gradients_are_those_of_the_loops(case):
    make_loss, oracle, make_data = CASES[case]
    labels, descriptors = make_data(3, batch=5, size=4)
    actual = gradient(make_loss(reduction="sum"), labels, descriptors)
    numeric = np.zeros(descriptors.shape)
    for index in np.ndindex(descriptors.shape):
        step = np.zeros(descriptors.shape)
        step[index] = 1e-5
        wide = descriptors.astype("float64")
        numeric[index] = (oracle(labels, wide + step).sum() - oracle(labels, wide - step).sum()) / 2e-5
    # Measured: 5e-7 of the largest, headroom 20.
    np.testing.assert_allclose(actual, numeric, rtol=0, atol=1e-5 * np.abs(numeric).max())


@pytest.mark.parametrize(
    ("case", "labels"),
    [
        (0, np.tile([-1, -1, 0], (4, 1))),  # no positive
        (0, np.tile([1, 0, 1], (4, 1))),  # no negative
        (0, np.zeros((4, 3))),
        (1, np.array([0, 1, 2, 3])),  # no positive
        (1, np.array([5, 5, 5, 5])),  # no negative
        (1, np.array([1])),
    ],
    ids=str,
)
def test_without_a_positive_or_a_negative_the_loss_and_its_gradient_are_zero(case, labels):
    shape = (len(labels), 4, 3) if case == 0 else (len(labels), 3)
    for descriptors in (np.random.default_rng(0).normal(size=shape), np.zeros(shape)):
        loss = CASES[case][0]()
        assert float(loss(labels, descriptors.astype("float32"))) == 0.0
        assert not gradient(loss, labels, descriptors.astype("float32")).any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_collapsed_descriptors_have_finite_gradients(value):
    for make_loss, _, make_data in CASES:
        labels, descriptors = make_data()
        loss = make_loss()
        collapsed = np.full_like(descriptors, value)
        assert float(loss(labels, collapsed)) > 0
        assert np.isfinite(gradient(loss, labels, collapsed)).all()


def test_padding_of_a_tuple_may_hold_nan():
    roles, descriptors = tuples()
    padded = descriptors.copy()
    padded[:, 1:][roles == 0] = np.nan
    loss = WeaklySupervisedTripletLoss()
    assert float(loss(roles, padded)) == float(loss(roles, descriptors))
    np.testing.assert_array_equal(gradient(loss, roles, padded), gradient(loss, roles, descriptors))


def test_labels_beyond_what_float32_can_tell_apart():
    _, descriptors = labeled()
    small = np.arange(len(descriptors)) // 2
    large = np.int32(2**24) + small.astype("int32")
    loss = MultiSimilarityLoss()
    assert float(loss(large, descriptors)) == float(loss(small, descriptors))
    assert float(loss(small[:, None], descriptors)) == float(loss(small, descriptors))


@pytest.mark.slow
def test_fit_brings_places_together_and_the_model_is_saved_with_its_loss(tmp_path):
    rng = np.random.default_rng(0)
    places = np.repeat(np.arange(6), 4)
    shifts = rng.normal(size=(6, 1, 8)) * 0.3
    clips = (shifts[places] + rng.normal(size=(24, 12, 8))).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, 8)), NetVLAD(4, name="descriptor")])
    model.compile(keras.optimizers.Adam(0.05), MultiSimilarityLoss(alpha=3.0))
    losses = model.fit(clips, places, batch_size=24, epochs=20, verbose=0).history["loss"]
    # Measured 0.68 to 0.50; torch, from other weights, 0.65 to 0.48.
    assert losses[-1] < 0.85 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == model.loss.get_config()
    np.testing.assert_allclose(loaded.evaluate(clips, places, 24, verbose=0), losses[-1], rtol=0.2)


def test_a_video_classifier_trains_on_places_by_its_descriptor():
    model = VideoClassifier({"frames": 4}, num_classes=2, num_clusters=2, hidden_units=None)
    model.compile("sgd", {"scores": "binary_crossentropy", "descriptor": MultiSimilarityLoss()})
    frames = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32")
    inputs = {"frames": frames, "num_frames": np.full(8, 5, "int32")}
    targets = {"scores": np.zeros((8, 2), "float32"), "descriptor": np.arange(8) // 2}
    assert np.isfinite(model.fit(inputs, targets, batch_size=8, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("make_loss", [case[0] for case in CASES])
def test_config_round_trip(make_loss):
    loss = make_loss(reduction="sum", name="mine")
    serialized = keras.saving.serialize_keras_object(loss)
    assert serialized["registered_name"] == f"keras_netvlad>{make_loss.__name__}"
    assert keras.saving.deserialize_keras_object(serialized).get_config() == loss.get_config()
    assert loss.get_config()["reduction"] == "sum"


@pytest.mark.parametrize(
    ("make_loss", "arguments", "message"),
    [
        (WeaklySupervisedTripletLoss, {"margin": -0.1}, "finite number of 0 or more. Received: margin=-0.1"),
        (WeaklySupervisedTripletLoss, {"num_hard_negatives": 0}, "Received: num_hard_negatives=0"),
        (MultiSimilarityLoss, {"alpha": 0}, "finite number above 0. Received: alpha=0"),
        (MultiSimilarityLoss, {"beta": float("inf")}, "Received: beta=inf"),
        (MultiSimilarityLoss, {"base": "near"}, "`base` must be a finite number. Received: base='near'"),
        (MultiSimilarityLoss, {"mining_margin": -1}, "Received: mining_margin=-1"),
    ],
)
def test_bad_arguments(make_loss, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_loss(**arguments)


@pytest.mark.parametrize(
    ("case", "labels", "descriptors"),
    [
        (0, (4, 3), (4, 3, 5)),
        (0, (4, 1), (4, 5, 3)),
        (0, (4,), (4, 3, 5)),
        (0, (4, 3), (4, 5)),
        (1, (4, 2), (4, 5)),
        (1, (3,), (4, 5)),
    ],
)
def test_bad_shapes(case, labels, descriptors):
    message = rf"Received: y_pred of shape \({descriptors[0]}, .*and y_true of shape \({labels[0]},"
    with pytest.raises(ValueError, match=message):
        CASES[case][0]()(np.zeros(labels), np.zeros(descriptors))


def gradient(loss, labels, descriptors):
    """The gradient of a loss by the descriptors."""
    labels = keras.ops.convert_to_tensor(labels)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        descriptors = tf.constant(descriptors)
        with tf.GradientTape() as tape:
            tape.watch(descriptors)
            value = loss(labels, descriptors)
        return tape.gradient(value, descriptors).numpy()
    if BACKEND == "jax":
        import jax

        return np.asarray(jax.grad(lambda x: loss(labels, x))(jax.numpy.asarray(descriptors)))
    import torch

    descriptors = torch.tensor(descriptors, requires_grad=True)
    return torch.autograd.grad(loss(labels, descriptors), descriptors)[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "gain"),
    # Measured on the three backends: 0.088 to 0.105, and 0.147 to 0.155.
    [(WeaklySupervisedTripletLoss(num_hard_negatives=10), 0.04), (MultiSimilarityLoss(), 0.08)],
)
def test_speech_of_unseen_recordings_finds_its_speaker_better_after_training(loss, gain):
    (x_train, y_train), (x_test, y_test) = load_japanese_vowels()
    keras.utils.set_random_seed(0)
    inputs = {
        "frames": keras.Input((29, 12), name="frames"),
        "num_frames": keras.Input((), dtype="int32", name="num_frames"),
    }
    vlad = NetVLAD(8)
    vlad.adapt(x_train["frames"], mask=FrameMask()(x_train["num_frames"], x_train["frames"]), seed=0, verbose=0)
    descriptor = vlad(inputs["frames"], mask=FrameMask()(inputs["num_frames"], inputs["frames"]))
    model = keras.Model(inputs, keras.layers.UnitNormalization()(keras.layers.Dense(32, use_bias=False)(descriptor)))
    relevance = (y_test[:, None] == y_test).astype(int) - 2 * np.eye(len(y_test), dtype=int)

    def precision():
        descriptors = model.predict(x_test, verbose=0)
        return float(RetrievalMeanAveragePrecision()(relevance, descriptors @ descriptors.T))

    before = precision()
    if isinstance(loss, MultiSimilarityLoss):
        model.compile("adam", loss)
        model.fit(x_train, y_train, batch_size=90, epochs=10, verbose=0)
    else:
        # Each utterance, three that may match it and twenty of other speakers, through the model side by side.
        rng = np.random.default_rng(0)
        others = np.stack(
            [
                np.concatenate(
                    [rng.choice(np.flatnonzero(y_train == own), 3), rng.choice(np.flatnonzero(y_train != own), 20)]
                )
                for own in y_train
            ]
        )
        rows = np.concatenate([np.arange(len(y_train))[:, None], others], axis=1)
        tuples = {
            "frames": keras.Input((24, 29, 12), name="frames"),
            "num_frames": keras.Input((24,), dtype="int32", name="num_frames"),
        }
        flat = model(
            {
                "frames": keras.ops.reshape(tuples["frames"], (-1, 29, 12)),
                "num_frames": keras.ops.reshape(tuples["num_frames"], (-1,)),
            }
        )
        trained = keras.Model(tuples, keras.ops.reshape(flat, (-1, 24, 32)))
        trained.compile("adam", loss)
        roles = np.tile([1] * 3 + [-1] * 20, (len(rows), 1))
        trained.fit({key: values[rows] for key, values in x_train.items()}, roles, batch_size=30, epochs=10, verbose=0)
    assert precision() > before + gain
