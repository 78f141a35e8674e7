"""Checkpoints of a training run: which are kept, and which one is the result."""

import json

import keras
import numpy as np
import pytest

from keras_netvlad.training.run_directory import Rounds, check_settings


def make_model():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1, name="scores")(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def rounds_of(directory, model, gaps, patience=None):
    """Plays rounds whose kernel is filled with their number, with a validation where the GAP is not `None`."""
    rounds = Rounds(directory, patience, {})
    rounds.restore(model)
    rounds.set_model(model)
    start = rounds.state["rounds"]
    for number, gap in enumerate(gaps, start):
        model.get_layer("scores").kernel.assign(np.full((2, 1), float(number)))
        rounds.on_epoch_end(number, {} if gap is None else {"val_gap": gap})
    return rounds


def kernel(model):
    return keras.ops.convert_to_numpy(model.get_layer("scores").kernel).ravel().tolist()


@pytest.mark.parametrize(
    ("gaps", "best"),
    [
        ([0.9, 0.5], 0),
        ([0.5, 0.9, 0.7, None], 1),
        ([0.5, 0.7, 0.9], 2),
        ([0.5, 0.5], 0),  # a round must be better to replace another
        ([None, 0.1, None, None], 1),
        ([None, None], 1),  # without a validation, the last
    ],
)
def test_the_result_is_the_round_of_the_best_validation(tmp_path, gaps, best):
    model = make_model()
    rounds = rounds_of(tmp_path, model, gaps)
    rounds.load_best(model)
    assert kernel(model) == [best, best]
    kept = {path.name for path in tmp_path.glob("round*.npz")}
    assert kept == {f"round{best + 1}.npz", f"round{len(gaps)}.npz"}


def test_a_resumed_run_starts_from_the_last_round_and_remembers_the_best(tmp_path):
    rounds_of(tmp_path, make_model(), [0.5, 0.9, 0.7])
    model = make_model()
    rounds = Rounds(tmp_path, None, {})
    assert rounds.restore(model) == 3
    assert kernel(model) == [2, 2]
    rounds = rounds_of(tmp_path, model, [0.8])
    assert json.loads((tmp_path / "state.json").read_text()) == rounds.state
    assert rounds.state["best"] == {"gap": 0.9, "weights": "round2.npz"}
    rounds.load_best(model)
    assert kernel(model) == [1, 1]


@pytest.mark.parametrize(("gaps", "ended"), [([0.5, 0.4], False), ([0.5, 0.4, 0.5], True), ([0.5, 0.4, 0.6], False)])
def test_patience_counts_validations_since_the_best(tmp_path, gaps, ended):
    model = make_model()
    rounds = rounds_of(tmp_path, model, gaps, patience=2)
    assert rounds.has_ended is ended
    assert bool(model.stop_training) is ended
    assert not rounds_of(tmp_path / "other", model, [], patience=None).has_ended


def test_settings_that_an_earlier_release_did_not_store_have_their_former_values(tmp_path):
    (tmp_path / "settings.json").write_text('{"seed": 0}')
    check_settings(tmp_path, {"seed": 0, "level": "frame"}, tmp_path / "end", {"level": "frame"})
    with pytest.raises(ValueError, match=r"Received: level was 'frame', now 'video'$"):
        check_settings(tmp_path, {"seed": 0, "level": "video"}, tmp_path / "end", {"level": "frame"})
