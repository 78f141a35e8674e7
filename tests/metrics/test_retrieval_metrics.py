"""Retrieval's metrics: the definitions in loops, equal similarities, what is left out, training."""

import keras
import numpy as np
import pytest

from keras_netvlad.metrics import RecallAtN, RetrievalMeanAveragePrecision

pytestmark = pytest.mark.backends

METRICS = {
    "recall_at_1": RecallAtN,
    "recall_at_4": lambda: RecallAtN(4),
    "recall_at_99": lambda: RecallAtN(99),
    "retrieval_map": RetrievalMeanAveragePrecision,
}
# Beside float64: 6e-8 measured at worst, headroom 16.
TOLERANCE = 1e-6


def searches(num_queries=40, num_items=25, seed=0, decimals=None):
    """Relevance -1, 0 and 1, of which the first two queries have none, and similarities that know a little of it."""
    rng = np.random.default_rng(seed)
    relevance = rng.choice([-1, 0, 1], size=(num_queries, num_items), p=[0.1, 0.75, 0.15])
    relevance[:2] = np.minimum(relevance[:2], 0)
    similarities = rng.normal(size=relevance.shape) + relevance
    return relevance, (similarities if decimals is None else np.round(similarities, decimals)).astype("float32")


def expected_value(name, relevance, similarities, weights=None):
    """The mean over queries, item by item."""
    values, counts = [], []
    for q, (row, scores) in enumerate(zip(relevance, similarities, strict=True)):
        ranking = sorted((m for m in range(len(row)) if row[m] >= 0), key=lambda m: (-scores[m], row[m]))
        if not any(row[m] == 1 for m in ranking):
            continue
        if name.startswith("recall"):
            values.append(float(any(row[m] == 1 for m in ranking[: int(name.split("_")[-1])])))
        else:
            hits = [rank for rank, m in enumerate(ranking, 1) if row[m] == 1]
            values.append(np.mean([count / rank for count, rank in enumerate(hits, 1)]))
        counts.append(1.0 if weights is None else weights[q])
    return np.average(values, weights=counts)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("decimals", [None, 0])  # 0: most similarities have equals
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_those_of_the_definition(name, decimals, weighted):
    relevance, similarities = searches(decimals=decimals)
    weights = np.random.default_rng(2).integers(0, 3, len(relevance)).astype("float32") if weighted else None
    metric = METRICS[name]()
    assert metric.name == name
    for part in (slice(0, 13), slice(13, 14), slice(14, 40)):
        metric.update_state(relevance[part], similarities[part], None if weights is None else weights[part, None])
    expected = expected_value(name, relevance, similarities, weights)
    assert abs(float(metric.result()) - expected) < TOLERANCE
    assert name == "recall_at_99" or 0.1 < expected < 0.95  # or the test shows little


@pytest.mark.parametrize("name", METRICS)
def test_what_is_left_out_may_be_anything(name):
    relevance, similarities = searches()
    metric = METRICS[name]()
    for value in (np.nan, np.inf, -np.inf, 9.0):
        other = np.where(relevance < 0, np.float32(value), similarities)
        metric.reset_state()
        metric.update_state(relevance, other)
        assert abs(float(metric.result()) - expected_value(name, relevance, similarities)) < TOLERANCE


@pytest.mark.parametrize("name", ["recall_at_1", "recall_at_4", "retrieval_map"])
def test_descriptors_that_are_all_alike_gain_nothing(name):
    relevance = np.zeros((3, 50), int)
    relevance[:, 0] = 1
    metric = METRICS[name]()
    metric.update_state(relevance, np.ones((3, 50), "float32"))
    assert float(metric.result()) == pytest.approx(0.0 if name.startswith("recall") else 1 / 50)


@pytest.mark.parametrize("name", METRICS)
def test_nan_is_not_hidden(name):
    relevance, similarities = searches()
    similarities[7, np.flatnonzero(relevance[7] == 0)[0]] = np.nan
    metric = METRICS[name]()
    metric.update_state(relevance, similarities)
    assert np.isnan(float(metric.result()))


@pytest.mark.parametrize("name", METRICS)
def test_the_best_ranking_gives_one_and_nothing_gives_zero(name):
    relevance, similarities = searches()
    metric = METRICS[name]()
    metric.update_state(np.minimum(relevance, 0), similarities)
    assert float(metric.result()) == 0.0
    metric.update_state(relevance, relevance.astype("float32"))
    assert float(metric.result()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", METRICS)
def test_compiled_evaluation_reports_them_and_configurations_survive(name):
    relevance, similarities = searches()
    metric = METRICS[name]()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert again.get_config() == metric.get_config()
    inputs = keras.Input((25,))
    model = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    model.compile(loss="mse", metrics=[again])
    received = model.evaluate(similarities, relevance, batch_size=16, verbose=0, return_dict=True)
    assert abs(received[name] - expected_value(name, relevance, similarities)) < TOLERANCE


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecallAtN(0), "`n` must be a positive integer. Received: n=0"),
        (
            lambda: RecallAtN()(np.zeros(3), np.zeros((3, 4))),
            r"takes relevance and similarities.*\(3,\) and .*\(3, 4\)",
        ),
        (
            lambda: RetrievalMeanAveragePrecision()(np.zeros((3, 2)), np.zeros((3, 4))),
            r"Received: y_true of .*\(3, 2\)",
        ),
        (
            lambda: RecallAtN()(np.zeros((3, 4)), np.zeros((3, 4)), np.ones(4)),
            r"one weight for each query, \(B,\) or \(B, 1\). Received: sample_weight of shape \(4,\)",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
