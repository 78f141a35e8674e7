"""`ensemble`, `soft_targets`, and averaged weights: Skalic & Austin's system, as ordinary Keras."""

import keras
import numpy as np
import pytest
import reference
from layer_contract import BACKEND, randomize_weights

from keras_netvlad import VideoClassifier
from keras_netvlad.data import load_japanese_vowels
from keras_netvlad.models import ensemble, load_model, soft_targets

pytestmark = pytest.mark.backends


def small_models():
    models = [
        VideoClassifier({"rgb": 6, "audio": 3}, 4, num_clusters=2, hidden_units=5, name="wide"),
        VideoClassifier({"rgb": 6}, 4, num_clusters=3, hidden_units=None, num_mixtures=2, name="rgb_only"),
        VideoClassifier.from_preset(
            "gated_netvlad", 4, feature_sizes={"rgb": 6, "audio": 3}, num_clusters=2, hidden_units=4, name="gated"
        ),
    ]
    for seed, model in enumerate(models):
        randomize_weights(model, seed)
    return models


def small_batch(videos=5, frames=6):
    generator = np.random.default_rng(0)
    return {
        "rgb": generator.normal(size=(videos, frames, 6)).astype("float32"),
        "audio": generator.normal(size=(videos, frames, 3)).astype("float32"),
        "num_frames": generator.integers(0, frames + 1, videos).astype("int32"),
    }


def scores_of(model, batch):
    return keras.ops.convert_to_numpy(model({name: batch[name] for name in model.input})["scores"])


@pytest.mark.parametrize("weights", [None, [1, 2, 5], (0.1, 0.1, 0.05)])
def test_scores_are_the_weighted_mean_of_the_oracles(weights):
    models, batch = small_models(), small_batch()
    received = scores_of(ensemble(models, weights), batch)
    scores = [reference.video_classifier(model, batch, batch["num_frames"])["scores"] for model in models]
    # Measured 2e-7.
    np.testing.assert_allclose(received, np.average(scores, axis=0, weights=weights), rtol=0, atol=2e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_the_global_policy_does_not_change_the_mean(policy):
    models, batch = small_models(), small_batch()
    expected = scores_of(ensemble(models), batch)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        both = ensemble(models)
    finally:
        keras.config.set_dtype_policy(before)
    assert both.output["scores"].dtype == "float32"
    np.testing.assert_array_equal(scores_of(both, batch), expected)


def test_an_ensemble_is_saved_and_loaded_as_one_file(tmp_path):
    both, batch = ensemble(small_models(), [1, 2, 3]), small_batch()
    both.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert type(loaded) is type(both)
    np.testing.assert_array_equal(scores_of(loaded, batch), scores_of(both, batch))


def test_models_of_one_name_keep_their_own_weights_in_the_file(tmp_path):
    models = [VideoClassifier({"rgb": 6}, 4, num_clusters=2, name="same") for _ in range(3)]
    for seed, model in enumerate(models):
        randomize_weights(model, seed)
    both, batch = ensemble(models), small_batch()
    assert [model.name for model in models] == ["same", "same_1", "same_2"]
    both.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(scores_of(load_model(tmp_path / "model.keras"), batch), scores_of(both, batch))


@pytest.mark.slow
def test_an_ensemble_trains_its_models_and_takes_plain_labels():
    models, batch = small_models(), small_batch()
    both = ensemble(models)
    both.compile("adam", "binary_crossentropy", metrics=["mae"])
    before = [weight.numpy() for model in models for weight in model.trainable_variables]
    assert set(both.fit(batch, np.eye(5, 4), verbose=0).history) == {"loss", "mae"}
    after = [weight.numpy() for model in models for weight in model.trainable_variables]
    assert all((old != new).any() for old, new in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports run on TensorFlow: `make test`")
def test_both_formats_are_the_ensemble(tmp_path):
    from keras_netvlad.export import export_model

    reports = export_model(ensemble(small_models(), [1, 2, 3]), tmp_path / "out")
    assert all(report.ok and report.judge == "float64" for report in reports)


def other_model(**arguments):
    return VideoClassifier(**{"feature_sizes": {"rgb": 6}, "num_classes": 4, "num_clusters": 2, **arguments})


@pytest.mark.parametrize(
    ("others", "weights", "error", "message"),
    [
        ([], None, ValueError, r"takes two models or more. Received: 1"),
        (["model"], None, TypeError, r"functional models with dicts of named inputs.*Received: str"),
        (["again"], None, ValueError, r"must be different; .* Received: a model twice"),
        ([{"num_classes": 3}], None, ValueError, r"score the same classes. Received: .*\(None, 4\), \(None, 3\)"),
        ([{"feature_sizes": {"rgb": 7}}], None, ValueError, r"one shape and dtype.*'rgb' of \(None, None, 6\) float32"),
        ([{"input_dtype": "uint8"}], None, ValueError, r"`with_input_dtype` changes the dtype.*uint8"),
        ([{}], [1], ValueError, r"`weights` must be 2 positive numbers, one for each model. Received: weights=\[1\]"),
        ([{}], [1, 0], ValueError, r"must be 2 positive numbers.*Received: weights=\[1, 0\]"),
        ([{}], [1, float("nan")], ValueError, r"must be 2 positive numbers.*nan"),
    ],
)
def test_models_that_do_not_go_together_are_refused(others, weights, error, message):
    first = other_model()
    others = [other_model(**o) if isinstance(o, dict) else first if o == "again" else o for o in others]
    with pytest.raises(error, match=message):
        ensemble([first, *others], weights)


def test_a_model_without_scores_is_refused():
    inputs = {"rgb": keras.Input((None, 6), name="rgb")}
    with pytest.raises(ValueError, match=r"needs an output `scores`. Received: 'plain', which has none"):
        ensemble([other_model(), keras.Model(inputs, {"other": inputs["rgb"]}, name="plain")])


def dataset_of(batch, labels, *sample_weights, batch_size=2):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((batch, labels, *sample_weights)).batch(batch_size)


@pytest.mark.parametrize("factor", [0, 0.25, 1])
def test_soft_targets_are_the_mixture_batch_by_batch(factor):
    teacher, batch = small_models()[1], small_batch()  # the teacher leaves `audio` aside
    labels, weights = np.eye(5, 4, dtype="int32"), np.arange(5, dtype="float32")
    dataset = dataset_of(batch, labels, weights)
    soft = dataset.apply(soft_targets(teacher, factor))
    assert soft.cardinality() == dataset.cardinality() == 3
    for _ in range(2):  # each epoch anew
        inputs, targets, sample_weights = zip(*soft.as_numpy_iterator(), strict=True)
        np.testing.assert_array_equal(np.concatenate([values["rgb"] for values in inputs]), batch["rgb"])
        np.testing.assert_array_equal(np.concatenate(sample_weights), weights)
        expected = (1 - factor) * labels + factor * scores_of(teacher, batch)
        # Measured 6e-8.
        np.testing.assert_allclose(np.concatenate(targets), expected, rtol=0, atol=1e-6)


def test_the_teacher_of_soft_targets_infers():
    """Its dropout drops nothing, and the batch statistics of its normalization stay as they are."""
    frames = keras.Input((3,), name="frames")
    hidden = keras.layers.BatchNormalization()(keras.layers.Dropout(0.9, seed=1)(frames))
    scores = keras.layers.Dense(2, activation="sigmoid")(hidden)
    teacher = keras.Model({"frames": frames}, {"scores": scores})
    batch = {"frames": np.random.default_rng(0).normal(2.0, 1.0, (4, 3)).astype("float32")}
    before = [keras.ops.convert_to_numpy(weight) for weight in teacher.weights]
    dataset = dataset_of(batch, np.zeros((4, 2), "float32"), batch_size=4)
    ((_, targets),) = dataset.apply(soft_targets(teacher, 1)).as_numpy_iterator()
    # Measured 6e-8.
    np.testing.assert_allclose(
        targets, keras.ops.convert_to_numpy(teacher(batch, training=False)["scores"]), rtol=0, atol=1e-6
    )
    for weight, value in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value)


@pytest.mark.slow
def test_a_student_of_soft_targets_minimizes_the_mixture_of_both_losses():
    teacher, _, student = small_models()
    batch, labels = small_batch(), np.eye(5, 4, dtype="float32")
    student.compile(loss="binary_crossentropy")
    before = [weight.numpy() for weight in teacher.weights]
    dataset = dataset_of(batch, labels, batch_size=5)
    soft = student.evaluate(dataset.apply(soft_targets(teacher, 0.3)), verbose=0)
    hard = student.evaluate(dataset, verbose=0)
    taught = student.evaluate(dataset.apply(soft_targets(teacher, 1)), verbose=0)
    np.testing.assert_allclose(soft, 0.7 * hard + 0.3 * taught, rtol=1e-5)  # measured 1e-7
    student.compile("adam", "binary_crossentropy")
    student.fit(dataset.apply(soft_targets(teacher)), epochs=2, verbose=0)
    for old, weight in zip(before, teacher.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(5, "int32"), r"labels \(batch, classes\). Received: labels TensorSpec\(shape=\(None,\)"),
        (np.zeros((5, 3), "float32"), r"must score the classes of the labels, 3. Received: 4"),
    ],
)
def test_labels_that_cannot_be_mixed_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        dataset_of(small_batch(), labels).apply(soft_targets(small_models()[0]))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            lambda: other_model(input_dtype="uint8"),
            r"`with_input_dtype`.*'rgb': 'float32'.*a teacher of.*'rgb': 'uint8'",
        ),
        (lambda: other_model(feature_sizes={"frames": 6}), r"must take what the dataset yields.*'frames': 'float32'"),
    ],
)
def test_a_teacher_of_other_inputs_is_refused(teacher, message):
    with pytest.raises(ValueError, match=message):
        dataset_of(small_batch(), np.eye(5, 4)).apply(soft_targets(teacher()))


def test_a_teacher_with_one_input_and_one_output_needs_no_names():
    inputs = keras.Input((3,))
    teacher = keras.Model(inputs, keras.layers.Dense(2, activation="sigmoid")(inputs))
    values, labels = np.ones((4, 3), "float32"), np.eye(4, 2, dtype="float32")
    (_, targets), *_ = dataset_of(values, labels, batch_size=4).apply(soft_targets(teacher)).as_numpy_iterator()
    np.testing.assert_allclose(targets, (labels + keras.ops.convert_to_numpy(teacher(values))) / 2, atol=1e-6)


def test_a_dataset_without_labels_and_a_wrong_factor_are_refused():
    import tensorflow as tf

    with pytest.raises(ValueError, match=r"batches of \(inputs, labels\). Received: a dataset of"):
        tf.data.Dataset.from_tensor_slices(small_batch()).batch(2).apply(soft_targets(small_models()[0]))
    with pytest.raises(ValueError, match=r"`factor` must be a number from 0 to 1. Received: factor=2"):
        soft_targets(small_models()[0], 2)


@pytest.mark.slow
@pytest.mark.parametrize("overwrite_every", [None, 2])
def test_after_fit_the_weights_are_the_moving_average(overwrite_every, tmp_path):
    """With Keras's `use_ema`, `fit` leaves the averaged weights behind, and an export contains them."""
    momentum, rate = 0.8, 2.0
    batch, labels = small_batch(), np.eye(5, 4, dtype="float32")
    model = small_models()[0]
    ema = {"use_ema": True, "ema_momentum": momentum, "ema_overwrite_frequency": overwrite_every}
    model.compile(keras.optimizers.SGD(rate, **ema), "binary_crossentropy")
    model.fit(batch, labels, epochs=5, batch_size=5, shuffle=False, verbose=0)

    plain = small_models()[0]
    plain.compile(keras.optimizers.SGD(rate), "binary_crossentropy")
    average = None
    for step in range(5):
        plain.fit(batch, labels, batch_size=5, shuffle=False, verbose=0)
        values = [weight.numpy() for weight in plain.trainable_variables]
        # The first step starts the average, as Keras has it.
        average = (
            values if step == 0 else [momentum * a + (1 - momentum) * v for a, v in zip(average, values, strict=True)]
        )
        if overwrite_every and (step + 1) % overwrite_every == 0:
            for weight, value in zip(plain.trainable_variables, average, strict=True):
                weight.assign(value)
    for weight, expected in zip(model.trainable_variables, average, strict=True):
        np.testing.assert_allclose(weight.numpy(), expected, rtol=0, atol=1e-5)  # measured 1e-6
    assert max(np.abs(a - v).max() for a, v in zip(average, values, strict=True)) > 1e-2  # not those of the last step
    if BACKEND == "tensorflow":
        from keras_netvlad.export import export_onnx

        for weight, value in zip(plain.trainable_variables, average, strict=True):
            weight.assign(value)
        assert export_onnx(model, tmp_path / "model.onnx").ok
        assert_same_answers(tmp_path / "model.onnx", plain, batch)


def assert_same_answers(path, model, batch):
    import onnxruntime

    (scores,) = onnxruntime.InferenceSession(path).run(["scores"], batch)
    np.testing.assert_allclose(scores, scores_of(model, batch), atol=1e-5)  # measured 1e-6


@pytest.mark.slow
def test_two_models_together_are_better_than_each_on_real_data():
    (x_train, y_train), (x_test, y_test) = load_japanese_vowels()
    models = []
    for seed, num_clusters in enumerate((4, 16)):
        keras.utils.set_random_seed(seed)
        model = VideoClassifier({"frames": 12}, 9, num_clusters, hidden_units=None, activation="softmax")
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x_train, y_train, epochs=6, verbose=0)
        models.append(model)
    both = ensemble(models)
    both.compile(loss="sparse_categorical_crossentropy")
    losses = [model.evaluate(x_test, y_test, verbose=0, return_dict=True)["loss"] for model in models]
    # By convexity never worse than the mean of both.
    assert both.evaluate(x_test, y_test, verbose=0) < np.mean(losses)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"`models` must be a list of models. Received: a VideoClassifier"):
        ensemble(VideoClassifier({"rgb": 2}, 2, num_clusters=2))
    with pytest.raises(TypeError, match=r"teacher must be a Keras model.*Received: a str"):
        soft_targets("teacher.keras")
