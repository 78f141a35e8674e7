"""`train` and its command: the files of a run, how it resumes, and its errors."""

import json
import os
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_netvlad.__main__ import main
from keras_netvlad.data import write_youtube8m
from keras_netvlad.metrics import GlobalAveragePrecision
from keras_netvlad.models import load_model
from keras_netvlad.training import train
from keras_netvlad.training import youtube8m as training

SIZES = {"rgb": 8, "audio": 4}
# Dropout, batch normalizations and a moving average: all that has a state besides the weights.
SETTINGS = {
    "preset": "nextvlad",
    "num_classes": 3,
    "feature_sizes": SIZES,
    "overrides": {"num_clusters": 2, "hidden_units": 8},
    "epochs": 3,
    "batch_size": 8,
    "save_every": 3,
    "ema_momentum": 0.9,
    "learning_rate": 0.01,
    "decay_examples": 40,
    "verbose": 0,
}


def write_records(path, count, seed=0, num_classes=3):
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(size=(num_classes, sum(SIZES.values())))
    videos = []
    for number in range(count):
        label = number % num_classes
        frames = means[label] + 0.3 * rng.normal(size=(int(rng.integers(2, 9)), sum(SIZES.values())))
        videos.append({"id": f"{number}", "labels": [label], "rgb": frames[:, :8], "audio": frames[:, 8:]})
    write_youtube8m(path, videos)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for part in range(2):
        write_records(folder / f"train{part}.tfrecord", 22, part)
    write_records(folder / "validate.tfrecord", 20, 7)
    return folder


def files_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(records, tmp_path_factory):
    """A run that nothing interrupted, and its report."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    report = train(records / "train*", output, validation_files=records / "validate.tfrecord", **SETTINGS)
    return output, report


def test_a_short_run_trains_and_publishes(records, tmp_path):
    options = {**SETTINGS, "preset": "gated_netvlad", "epochs": 1, "save_every": None, "ema_momentum": None}
    options |= {"validation_files": records / "validate.tfrecord", "metadata": {"license": "cc-by-4.0"}}
    report = train(records / "train0.tfrecord", tmp_path / "run", **options)
    assert report.ok
    gap = json.loads((tmp_path / "run" / "state.json").read_text())["best"]["gap"]
    card = (tmp_path / "run" / "served" / "gated_netvlad" / "1" / "README.md").read_text()
    assert 'license: "cc-by-4.0"' in card
    assert f"| gated\\_netvlad | gap | {gap:.3f} |" in card
    assert json.loads((tmp_path / "run" / "state.json").read_text())["rounds"] == 1
    assert load_model(tmp_path / "run" / "model.keras").num_classes == 3


@pytest.mark.slow
def test_what_a_run_leaves(finished, records):
    output, report = finished
    assert report.ok
    assert report.path == str(output / "served" / "nextvlad" / "1")
    state = json.loads((output / "state.json").read_text())
    assert state["rounds"] == 5  # 44 videos: 5 whole batches an epoch, 15 in all, 3 a round
    model = load_model(output / "model.keras")
    assert model.input["rgb"].dtype == "float32"
    # The saved model is that of the best validation, averaged, as the state has it.
    model = model.with_input_dtype("uint8")
    gap = GlobalAveragePrecision()
    reading = {"num_classes": 3, "feature_sizes": SIZES}
    for inputs, labels in training.youtube8m(records / "validate.tfrecord", 8, **reading):
        gap.update_state(labels, model(inputs)["scores"])
    # Measured 0; a score that moves to the next bin may move it a little.
    assert float(gap.result()) == pytest.approx(state["best"]["gap"], abs=1e-5)
    assert state["best"]["gap"] > 0.6  # measured 0.79; by chance 0.4
    logged = {}
    for path in (output / "logs").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                logged.setdefault(value.tag, []).append(event.step)
    assert logged["train/loss"] == [1, 2, 3, 4, 5]
    assert [
        step for tag, steps in logged.items() if tag.startswith("validation/") and "gap" in tag for step in steps
    ] == [2, 4, 5]  # the rounds in which an epoch ends


def videos_of_two_classes(count, with_segments=False):
    """Videos whose frames tell the class, with audio at half the rate, or of equal length with ratings of segments."""
    rng = np.random.default_rng(0)
    for number in range(count):
        label = number % 2
        frames = [rng.normal(size=(length, 4)) + 2 * label - 1 for length in (10, 10 if with_segments else 5)]
        ratings = [(start, rated, int(rated == label)) for start in (0, 5) for rated in (0, 1)]
        yield {
            "id": f"{number}",
            "labels": [label],
            **dict(zip(("rgb", "audio"), frames, strict=True)),
            **({"segments": ratings} if with_segments else {}),
        }


ONE_ROUND = {"num_classes": 3, "feature_sizes": {"rgb": 4, "audio": 4}, "epochs": 6, "batch_size": 8, "verbose": 0}


@pytest.mark.slow
def test_a_run_on_segments(tmp_path):
    write_youtube8m(tmp_path / "a", videos_of_two_classes(32, with_segments=True))
    settings = {"preset": "youtube8m_moe", "level": "segment", "learning_rate": 0.05, **ONE_ROUND}
    assert train(tmp_path / "a", tmp_path / "run", validation_files=tmp_path / "a", **settings).ok
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["best"]["map_at_k"] > 0.9  # measured 1.0; by chance 0.5


@pytest.mark.slow
def test_a_run_on_means(tmp_path):
    videos = [
        {**video, **{name: video[name].mean(axis=0) for name in ("rgb", "audio")}}
        for video in videos_of_two_classes(32)
    ]
    write_youtube8m(tmp_path / "a", videos, level="video")
    settings = {"preset": "youtube8m_moe", "level": "video", "learning_rate": 0.05, **ONE_ROUND}
    assert train(tmp_path / "a", tmp_path / "run", validation_files=tmp_path / "a", **settings).ok
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["best"]["gap"] > 0.9  # measured 1.0; by chance 0.4


@pytest.mark.slow
def test_a_run_on_streams_of_two_rates_in_float32(tmp_path):
    write_youtube8m(tmp_path / "a", videos_of_two_classes(16), feature_dtype="float32", frame_counts="each")
    settings = {"preset": "youtube8m_moe", "feature_dtype": "float32", "frame_counts": "each", **ONE_ROUND, "epochs": 1}
    assert train(tmp_path / "a", tmp_path / "run", **settings).ok
    assert {"num_frames_rgb", "num_frames_audio"} < set(load_model(tmp_path / "run" / "model.keras").input)


KILLED = """
import json, os, signal, sys
from keras_netvlad.training import youtube8m as training
when, count = sys.argv[1], int(sys.argv[2])
left = [count]
def kill():
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
if when == "step":
    training.Rounds.on_train_batch_end = lambda self, batch, logs=None: kill()
else:
    replace = os.replace
    os.replace = lambda *paths: (kill(), replace(*paths))
arguments = json.loads(sys.argv[3])
training.train(**arguments)
"""


@pytest.mark.slow
def test_killed_and_started_again_it_comes_to_the_same_weights(finished, records, tmp_path):
    whole, _ = finished
    output = tmp_path / "killed"
    arguments = {
        "train_files": str(records / "train*"),
        "output": str(output),
        "validation_files": str(records / "validate.tfrecord"),
        **SETTINGS,
    }
    # In the third round, at its second step; then while round 4 is written: its weights are there, its state is not.
    for when, count, rounds in (("step", 8, 2), ("write", 4, 3)):
        child = subprocess.run(
            [sys.executable, "-c", KILLED, when, str(count), json.dumps(arguments)], capture_output=True, timeout=300
        )
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()[-2000:]
        assert json.loads((output / "state.json").read_text())["rounds"] == rounds
        assert not (output / "model.keras").exists()
    train(**arguments)
    ours, theirs = (load_model(folder / "model.keras").weights for folder in (output, whole))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    assert json.loads((output / "state.json").read_text()) == json.loads((whole / "state.json").read_text())


@pytest.mark.slow
def test_a_run_that_has_ended_or_had_other_settings_stays_as_it_is(finished, records, tmp_path):
    output, _ = finished
    before = files_below(output)
    with pytest.raises(ValueError, match="The run in `output` has ended"):
        train(records / "train*", output, validation_files=records / "validate.tfrecord", **SETTINGS)
    assert files_below(output) == before

    going_on = tmp_path / "run"
    going_on.mkdir()
    for name in ("lock", "settings.json", "state.json"):
        (going_on / name).write_bytes((output / name).read_bytes())
    before = files_below(going_on)
    with pytest.raises(ValueError, match="batch_size was 8, now 4, batches was"):
        train(
            records / "train*",
            going_on,
            validation_files=records / "validate.tfrecord",
            **{**SETTINGS, "batch_size": 4},
        )
    assert files_below(going_on) == before


def test_one_run_at_a_time(records, tmp_path):
    with (
        training.run_directory(tmp_path / "run"),
        pytest.raises(OSError, match="`output` is in use by another run"),
    ):
        train(records / "train*", tmp_path / "run", **SETTINGS)


@pytest.mark.slow
def test_patience_ends_a_run(records, tmp_path):
    settings = {**SETTINGS, "learning_rate": 1e-12, "epochs": 9, "save_every": None, "patience": 2}
    settings["ema_momentum"] = None
    train(records / "train*", tmp_path / "run", validation_files=records / "validate.tfrecord", **settings)
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["waited"] == 2
    assert state["rounds"] < 9
    assert int(state["best"]["weights"].removeprefix("round").removesuffix(".npz")) == state["rounds"] - 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"preset": "netvlad++"}, ValueError, "`preset` must be one of .* Received: preset='netvlad\\+\\+'"),
        ({"train_files": "none*.tfrecord"}, FileNotFoundError, "which matches none"),
        pytest.param(
            *({"num_classes": 2}, ValueError, "train0.tfrecord, record 2: label 2 is out of range, expected 0 to 1"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *({"feature_sizes": {"rgb": 4}}, ValueError, "frame 0 of `rgb` has 8 bytes, expected 4"),
            marks=pytest.mark.slow,
        ),
        pytest.param({"feature_sizes": {"flow": 8}}, ValueError, "no frames of `flow`", marks=pytest.mark.slow),
        ({"batch_size": 45}, ValueError, "enough records for a batch. Received: 44 records"),
        (
            {"train_files": None},
            TypeError,
            "`files` must be a path, a pattern, or a list of them. Received: files=None",
        ),
        ({"overrides": [1]}, TypeError, r"`overrides` must be a dict of arguments.* Received: \[1\]"),
        ({"output": None}, TypeError, "`output` must be a path. Received: output=None"),
        ({"patience": 2}, ValueError, "`patience` counts validations"),
        ({"ema_momentum": 1.5}, ValueError, "`ema_momentum` must be a number above 0 and below 1"),
        ({"seed": 2**32}, ValueError, "`seed` must be an integer from 0 to 4294967295. Received: seed=4294967296"),
        ({"learning_rate": 0}, ValueError, "`learning_rate` must be a finite number above 0"),
        (
            {"overrides": {"input_dtype": "float32"}},
            ValueError,
            "`overrides` cannot contain arguments that `train` sets itself",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(records, tmp_path, change, error, message):
    arguments = {"train_files": records / "train*", "output": tmp_path / "run", **SETTINGS, **change}
    with pytest.raises(error, match=message) as raised:
        train(**arguments)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_directory_of_something_else_stays_as_it_is(records, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="must be a new directory or one of a run"):
        train(records / "train*", tmp_path, **SETTINGS)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_a_directory_below_a_file_is_refused(records, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"`output` must lie in a directory. Received: .*mine.txt/run"):
        train(records / "train*", tmp_path / "mine.txt" / "run", **SETTINGS)


@pytest.mark.slow
def test_a_run_of_an_earlier_release_resumes(finished, records, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("served", "model.keras"))
    settings = json.loads((run / "settings.json").read_text())
    for name in ("level", "feature_dtype", "frame_counts"):
        del settings[name]
    (run / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="Received: feature_dtype was 'uint8', now 'float16'"):
        train(
            records / "train*",
            run,
            validation_files=records / "validate.tfrecord",
            **SETTINGS,
            feature_dtype="float16",
        )
    assert train(records / "train*", run, validation_files=records / "validate.tfrecord", **SETTINGS).ok
    weights = [load_model(folder / "model.keras").get_weights() for folder in (run, finished[0])]
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["settings.json", "state.json", "round"])
def test_a_damaged_run_does_not_resume(finished, records, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("served"))
    for path in run.glob(f"{name}*"):
        path.write_bytes(path.read_bytes()[:-20])
    before = files_below(run)
    with pytest.raises(
        ValueError, match=f"The checkpoint in `output` is damaged or missing. Start a new run. Received: .*{name}"
    ):
        train(records / "train*", run, validation_files=records / "validate.tfrecord", **SETTINGS)
    assert files_below(run) == before


@pytest.mark.slow
def test_command(records, tmp_path, capsys):
    arguments = ["--train", str(records / "train*"), "--output", str(tmp_path / "run"), "--num-classes", "3"]
    arguments += ["--feature-sizes", json.dumps(SIZES), "--overrides", '{"num_clusters": 2, "hidden_units": 4}']
    arguments += ["--epochs", "1", "--batch-size", "8", "--mixed-precision", "--license", "mit"]
    assert main(["train", *arguments]) == 0
    assert "served/gated_netvlad/1" in capsys.readouterr().out
    card = (tmp_path / "run" / "served" / "gated_netvlad" / "1" / "README.md").read_text()
    assert 'license: "mit"' in card
    assert "## Results" not in card  # nothing was validated
    assert main(["train", *arguments]) == 2
    assert "keras-netvlad train: The run in `output` has ended" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", *arguments, "--overrides", "hidden"])
    assert "--overrides: must be a JSON object, such as '{\"name\": 512}'. Received: hidden" in capsys.readouterr().err


def test_learning_rate_and_loss_are_the_papers(records):
    reading = {"level": "frame", "feature_dtype": "uint8", "frame_counts": "shared"}
    model = training._make_model({**SETTINGS, **reading, "learning_rate_decay": 0.8, "mixed_precision": False})
    rate = model.optimizer._learning_rate
    # 40 videos are 5 batches: the rate falls by steps.
    assert [round(float(rate(step)), 6) for step in (0, 4, 5, 10)] == [0.01, 0.01, 0.008, 0.0064]
    inputs, labels = next(
        iter(training.youtube8m(records / "validate.tfrecord", 8, num_classes=3, feature_sizes=SIZES))
    )
    scores = np.asarray(model(inputs)["scores"], "float64")
    labels = np.asarray(labels)
    entropy = -(labels * np.log(scores) + (1 - labels) * np.log(1 - scores)).sum(1).mean()
    penalties = float(sum(keras.ops.sum(value) for value in model.losses))
    # Measured 7e-8 relative.
    assert model.test_on_batch(inputs, labels, return_dict=True)["loss"] == pytest.approx(entropy + penalties, rel=1e-5)


@pytest.mark.slow
def test_a_bad_record_ends_the_command(tmp_path):
    from keras_netvlad.data import write_youtube8m

    frames = np.zeros((5, 4), "uint8")
    write_youtube8m(tmp_path / "train.tfrecord", [{"id": str(n), "labels": [0], "frames": frames} for n in range(64)])
    command = [sys.executable, "-m", "keras_netvlad", "train", "--train", str(tmp_path / "train.tfrecord")]
    command += ["--output", str(tmp_path / "run"), "--num-classes", "2", "--batch-size", "4"]
    command += ["--feature-sizes", '{"frames": 5}', "--overrides", '{"hidden_units": 4, "num_clusters": 2}']
    # Threads that load the next batches once kept the process from ending.
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "frame 0 of `frames` has 4 bytes, expected 5" in done.stderr
    assert not (tmp_path / "run").exists()
