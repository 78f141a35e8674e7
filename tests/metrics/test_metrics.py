"""YouTube-8M's metrics: the definitions in NumPy, batches, weights, devices, compiled training."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from layer_contract import BACKEND
from paths import SUPPORT

from keras_netvlad.metrics import PERR, GlobalAveragePrecision, HitAtOne, MeanAveragePrecision

pytestmark = pytest.mark.backends

METRICS = {
    "gap": lambda: GlobalAveragePrecision(),
    "gap of the best three": lambda: GlobalAveragePrecision(top_k=3),
    "map": lambda: MeanAveragePrecision(12),
    "map of the best three": lambda: MeanAveragePrecision(12, top_k=3),
    "map of all": lambda: MeanAveragePrecision(12, top_k=None),
    "perr": PERR,
    "hit_at_one": HitAtOne,
}


def videos(num_videos=60, num_classes=12, seed=0):
    """Labels and scores that know a little of them, each in a bin of its own."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_videos, num_classes)) < 0.2).astype("float32")
    ranks = np.argsort(np.argsort((3 * rng.normal(size=labels.shape) + 3 * labels).ravel()))
    logits = 18 * ranks.reshape(labels.shape) / labels.size - 10
    return labels, (1 / (1 + np.exp(-logits))).astype("float32")


def average_precision(found, scores, weights, num_positives):
    """Average precision of a ranking without equal scores, rank by rank."""
    total, hits, ranked = 0.0, 0.0, 0.0
    for n in np.argsort(-scores):
        hits += weights[n] * found[n]
        ranked += weights[n]
        total += weights[n] * found[n] * hits / ranked if ranked else 0.0
    return total / num_positives if num_positives else 0.0


def expected_value(name, labels, scores, weights=None):
    weights = np.ones(len(labels)) if weights is None else weights
    labels, scores = labels.astype("float64"), scores.astype("float64")
    if name == "hit_at_one":
        return np.average(labels[np.arange(len(labels)), scores.argmax(axis=1)], weights=weights)
    if name == "perr":
        precisions = []
        for row, row_scores in zip(labels, scores, strict=True):
            best = np.argsort(-row_scores)[: int(row.sum())]
            precisions.append(row[best].mean() if len(best) else 0.0)
        return np.average(precisions, weights=weights)
    top_k = {"three": 3, "all": labels.shape[1]}.get(name.split()[-1], 20)
    rows = [(b, c) for b in range(len(labels)) for c in np.argsort(-scores[b])[:top_k]]
    if name.startswith("gap"):
        parts = np.array([(labels[b, c], scores[b, c], weights[b]) for b, c in rows]).T
        return average_precision(*parts, np.sum(labels * weights[:, None]))
    precisions = []
    for c in range(labels.shape[1]):
        parts = np.array([(labels[b, c], scores[b, c], weights[b]) for b, k in rows if k == c]).reshape(-1, 3).T
        if labels[:, c] @ weights:
            precisions.append(average_precision(*parts, labels[:, c] @ weights))
    return np.mean(precisions)


# Beside float64: 9e-8 measured at worst, headroom 10.
TOLERANCE = 1e-6


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_those_of_the_definition(name, weighted):
    labels, scores = videos()
    labels[7] = 0.0  # a video without labels
    labels[:, 3] = 0.0  # a class without videos
    weights = np.random.default_rng(2).integers(0, 3, len(labels)).astype("float32") if weighted else None
    metric = METRICS[name]()
    for part in (slice(0, 13), slice(13, 14), slice(14, 60)):
        metric.update_state(labels[part], scores[part], None if weights is None else weights[part, None])
    assert abs(float(metric.result()) - expected_value(name, labels, scores, weights)) < TOLERANCE


@pytest.mark.parametrize("name", METRICS)
def test_nothing_gives_zero_and_a_reset_forgets(name):
    labels, scores = videos()
    metric = METRICS[name]()
    assert float(metric.result()) == 0.0
    metric.update_state(np.zeros_like(labels), scores)
    assert float(metric.result()) == 0.0
    metric.reset_state()
    metric.update_state(labels, scores)
    assert abs(float(metric.result()) - expected_value(name, labels, scores)) < TOLERANCE


@pytest.mark.parametrize("name", METRICS)
def test_the_best_ranking_gives_one(name):
    labels, _ = videos()
    labels[labels.sum(axis=1) == 0, 0] = 1.0  # a label for each video
    keep = labels.sum(axis=1) <= 3
    metric = METRICS[name]()
    metric.update_state(labels[keep], labels[keep])
    assert float(metric.result()) == pytest.approx(1.0)


def test_both_ends_of_the_scores_are_resolved():
    # Scores that are equal in float16, and to four digits.
    scores = np.array([[1 - 1e-6], [1 - 2e-6], [1 - 4e-6], [4e-6], [2e-6], [1e-6]], "float32")
    for labels in np.random.default_rng(0).integers(0, 2, (8, 6, 1)):
        labels[0] = 1
        metric = GlobalAveragePrecision()
        metric.update_state(labels, scores)
        assert abs(float(metric.result()) - expected_value("gap", labels, scores)) < 1e-6


def test_equal_scores_count_as_in_random_order():
    labels, scores = videos()
    scores = np.round(scores, 2)
    metric = GlobalAveragePrecision()
    metric.update_state(labels, scores)
    rng = np.random.default_rng(0)
    shuffled = [expected_value("gap", labels, scores + 1e-6 * rng.random(scores.shape)) for _ in range(100)]
    # Measured: 6e-3 apart, nearly all from the seven best, which are equal; precision at the end of each tie is 1.2e-2.
    assert abs(float(metric.result()) - np.mean(shuffled)) < 9e-3


def test_soft_labels_of_half_and_more_count():
    labels, scores = videos()
    soft = 0.5 * labels + 0.5 * np.random.default_rng(1).random(labels.shape).astype("float32") * 0.99
    hard_metric, soft_metric = GlobalAveragePrecision(), GlobalAveragePrecision()
    hard_metric.update_state(labels.astype(bool), scores)
    soft_metric.update_state(soft, scores)
    assert float(hard_metric.result()) == float(soft_metric.result()) > 0


@pytest.mark.parametrize("name", METRICS)
def test_a_soft_label_counts_from_one_half(name):
    scores = np.linspace(0.9, 0.1, 12, dtype="float32")[None]
    for label, counts in ((0.5, True), (np.nextafter(np.float32(0.5), np.float32(0)), False)):
        metric = METRICS[name]()
        metric.update_state(np.array([[label] + [0.0] * 11], "float32"), scores)
        assert (float(metric.result()) > 0) is counts


@pytest.mark.parametrize("name", METRICS)
def test_compiled_training_reports_them_and_configurations_survive(name):
    labels, scores = videos()
    metric = METRICS[name]()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert again.get_config() == metric.get_config()
    inputs = keras.Input((12,))
    model = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    model.compile(loss="mse", metrics=[again])
    history = model.evaluate(scores, labels, batch_size=16, verbose=0, return_dict=True)
    metric.update_state(labels, scores)
    assert abs(history[metric.name] - float(metric.result())) < 1e-5  # measured 6e-8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GlobalAveragePrecision(top_k=0), "`top_k` must be a positive integer. Received: top_k=0"),
        (lambda: GlobalAveragePrecision(num_bins=0), "`num_bins` must be a positive integer"),
        (lambda: MeanAveragePrecision(0), "`num_classes` must be a positive integer"),
        (lambda: MeanAveragePrecision(5)(*videos()), r"made for 5 classes. Received: scores of shape \(60, 12\)"),
        (lambda: HitAtOne()(np.zeros(3), np.zeros((3, 4))), r"takes labels and scores \(videos, classes\).*\(3,\)"),
        (lambda: PERR()(np.zeros((3, 2)), np.zeros((3, 4))), r"Received: y_true of shape \(3, 2\)"),
        (lambda: GlobalAveragePrecision(name=5), "`name` must be a string. Received: name=5"),
        (lambda: PERR(5), "`name` must be a string. Received: name=5"),
        (lambda: HitAtOne(5), "`name` must be a string. Received: name=5"),
        (
            lambda: GlobalAveragePrecision()(np.eye(3), 4 * np.eye(3) - 2),
            "takes scores from 0 to 1; apply a sigmoid .* to logits. Received: scores from -2 to 2",
        ),
        (lambda: MeanAveragePrecision(3)(np.eye(3), 1.02 * np.eye(3)), "Received: scores from 0 to 1.02"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("shape", [(59,), (60, 12), (1,), (60, 1, 1), (0,)])
def test_as_many_weights_as_videos(name, shape):
    metric = METRICS[name]()
    message = (
        rf"one weight for each video, \(B,\) or \(B, 1\). Received: sample_weight of shape \({shape[0]},.*\(60, 12\)"
    )
    with pytest.raises(ValueError, match=message):
        metric.update_state(*videos(), np.ones(shape, "float32"))
    metric.update_state(*videos(), 2.0)
    assert abs(float(metric.result()) - expected_value(name, *videos())) < TOLERANCE


@pytest.mark.parametrize("name", METRICS)
def test_logits_of_a_compiled_step_are_ranked_or_show(name):
    labels, scores = videos()
    logits = np.log(scores / (1 - scores))
    inputs = keras.Input((12,))
    model = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    metric = METRICS[name]()
    model.compile(loss="mse", metrics=[metric])
    ranks_alone = name in ("perr", "hit_at_one")
    if not ranks_alone and BACKEND == "torch":  # steps are not compiled, and values are there to look at
        with pytest.raises(ValueError, match="takes scores from 0 to 1"):
            model.evaluate(logits, labels, batch_size=16, verbose=0)
        return
    received = model.evaluate(logits, labels, batch_size=16, verbose=0, return_dict=True)[metric.name]
    if ranks_alone:
        assert abs(received - expected_value(name, labels, scores)) < TOLERANCE
        return
    assert np.isnan(received)
    for beyond_one_end in (scores - 0.5, scores + 0.5):
        assert np.isnan(model.evaluate(beyond_one_end, labels, batch_size=16, verbose=0, return_dict=True)[metric.name])
    received = model.evaluate(scores, labels, batch_size=16, verbose=0, return_dict=True)[metric.name]
    assert abs(received - expected_value(name, labels, scores)) < TOLERANCE


def test_rounding_beyond_one_is_taken():
    labels, _ = videos()
    metric = GlobalAveragePrecision()
    metric.update_state(labels, np.where(labels > 0, np.float32(1 + 4e-3), -np.float32(4e-3)))
    assert float(metric.result()) == pytest.approx(1.0)


@pytest.mark.parametrize("arguments", [(None, np.eye(3)), (np.eye(3), "scores"), (np.eye(3), np.eye(3), ["a"] * 3)])
def test_what_holds_no_numbers_is_refused(arguments):
    for metric in (GlobalAveragePrecision(), MeanAveragePrecision(3), PERR(), HitAtOne()):
        with pytest.raises(TypeError, match=f"`{metric.name}` takes arrays of numbers. Received: [a-z_]+="):
            metric.update_state(*arguments)


TWO_DEVICES = """
import keras, numpy as np, tensorflow as tf
from test_metrics import METRICS, videos
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
labels, scores = videos(64)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    inputs = keras.Input((12,))
    model = keras.Model(inputs, keras.layers.Dense(12, kernel_initializer="identity")(inputs))
    model.compile("sgd", "mse", metrics=[make() for name, make in METRICS.items() if " " not in name])
received = model.evaluate(scores, labels, batch_size=16, verbose=0, return_dict=True)
for name, make in METRICS.items():
    if " " not in name:
        metric = make()
        metric.update_state(labels, scores)
        # Measured: 0 to 6e-8.
        assert abs(received[name] - float(metric.result())) < 1e-6, (name, received[name], float(metric.result()))
print("equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute belongs to TensorFlow: `make slow`")
def test_two_devices_count_together():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(Path(__file__).parent)])}
    run = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES], capture_output=True, text=True, timeout=300, env=environment
    )
    assert run.stdout.strip().endswith("equal"), run.stderr[-2000:]


@pytest.mark.parametrize("make", [GlobalAveragePrecision, lambda: MeanAveragePrecision(3), PERR, HitAtOne])
def test_a_nan_score_makes_the_result_nan(make):
    metric = make()
    metric.update_state(np.array([[1, 0, 1], [0, 1, 0]]), np.array([[0.9, np.nan, 0.5], [0.1, 0.8, 0.2]], "float32"))
    assert np.isnan(float(metric.result()))
