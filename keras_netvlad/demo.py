"""`run_demo`: all steps on real speech frames: train, compare, export, verify, serve without Keras, draw."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_netvlad.base.atomic_files import staged
from keras_netvlad.base.validation import check_integer, check_path
from keras_netvlad.data import load_japanese_vowels
from keras_netvlad.export import export_model
from keras_netvlad.export.verification import artefact
from keras_netvlad.layers import FrameMask
from keras_netvlad.models import VideoClassifier
from keras_netvlad.plot import plot_assignments
from keras_netvlad.plot.drawing import check_installed

NUM_SPEAKERS = 9
MAX_SEED = 2**32 - 1  # of NumPy and Keras
# Runs an artifact in a process in which Keras and this package cannot be imported.
WITHOUT_KERAS = (
    "import runpy, sys; sys.modules.update(keras=None, keras_netvlad=None); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def run_demo(output: str | os.PathLike[str], epochs: int = 30, seed: int = 0) -> dict[str, Any]:
    """Trains on Japanese Vowels, exports, and runs the artifacts in processes without Keras. Prints its progress.

    Args:
        output: Directory that does not exist yet. It receives `netvlad/1/` (SavedModel), `model.onnx`,
            `model.keras` and `assignments.png`.
        epochs: Integer, epochs of each training.
        seed: Integer from 0 to 2**32 - 1, seed of each training.

    Returns:
        A dict:

        - `netvlad_accuracy` and `mean_pooling_accuracy`: fractions of the 370 test utterances;
        - `reports`: a `Report` for each artifact;
        - `answers`: dict from the kind of artifact to the speaker it names for the first test utterance;
        - `speaker`: the true speaker of that utterance.

    Raises:
        ValueError: If `epochs` or `seed` is invalid.
        OSError: If the directory exists or cannot be written to.
        ImportError: If Matplotlib is not installed.
    """
    check_installed()  # A missing package is reported before the training.
    epochs, seed = check_integer("epochs", epochs, 1), check_integer("seed", seed, 0, MAX_SEED)
    output = check_path("output", output)
    with staged(output) as stage:
        stage.mkdir()
        train, test = load_japanese_vowels()
        print(f"Japanese Vowels: {len(train[1])} training and {len(test[1])} test utterances of 9 speakers")

        keras.utils.set_random_seed(seed)
        print("\nNetVLAD, 16 clusters, linear classifier")
        model = VideoClassifier(
            {"frames": 12}, NUM_SPEAKERS, num_clusters=16, hidden_units=None, activation="softmax", name="netvlad"
        )
        netvlad_accuracy = _train(model, train, test, epochs)
        keras.utils.set_random_seed(seed)
        print("\nMean pooling, the same classifier")
        mean_pooling_accuracy = _train(_mean_pooling(), train, test, epochs)
        print(
            f"\nTest accuracy after {epochs} epochs each: NetVLAD {netvlad_accuracy:.3f}, "
            f"mean pooling {mean_pooling_accuracy:.3f}\n"
        )

        model.save(stage / "model.keras")
        reports = []
        metadata = {
            "trained_on": f"Japanese Vowels, 270 utterances, {epochs} epochs, seed {seed}",
            "labels": [f"speaker {speaker}" for speaker in range(NUM_SPEAKERS)],
        }
        for report in export_model(model, stage / "artefacts", data=test[0], metadata=metadata):
            relative = Path(report.path).relative_to(stage / "artefacts")
            reports.append(report.at(output / relative))
            print(reports[-1])
        for path in (stage / "artefacts").iterdir():
            path.rename(stage / path.name)
        (stage / "artefacts").rmdir()

        utterance = {name: values[:1] for name, values in test[0].items()}
        speaker = int(test[1][0])
        print(f"\nWho speaks in the first test utterance? Speaker {speaker}, and in processes without Keras:")
        answers = {}
        for report in reports:
            relative = Path(report.path).relative_to(output)
            scores = _run_without_keras(stage / relative, utterance, stage)["scores"][0]
            answers[report.kind] = int(scores.argmax())
            print(f"  {output / relative}: speaker {answers[report.kind]}, score {scores.max():.3f}")

        real_frames = utterance["frames"][:, : utterance["num_frames"][0]]
        assignments = np.asarray(model.get_layer("frames_netvlad").assign(real_frames))[0]
        title = f"Soft assignments of a test utterance of speaker {speaker}"
        plot_assignments(assignments, title).savefig(stage / "assignments.png", dpi=120)
    print(f"\nPicture: {output / 'assignments.png'}")
    return {
        "netvlad_accuracy": netvlad_accuracy,
        "mean_pooling_accuracy": mean_pooling_accuracy,
        "reports": reports,
        "answers": answers,
        "speaker": speaker,
    }


def _mean_pooling():
    frames = keras.Input((None, 12), name="frames")
    num_frames = keras.Input((), dtype="int32", name="num_frames")
    mean = keras.layers.GlobalAveragePooling1D()(frames, mask=FrameMask()(num_frames, frames))
    scores = keras.layers.Dense(NUM_SPEAKERS, activation="softmax")(mean)
    return keras.Model({"frames": frames, "num_frames": num_frames}, scores, name="mean_pooling")


def _train(model, train, test, epochs):
    model.compile(keras.optimizers.Adam(0.005), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*train, epochs=epochs)
    return model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]


def _run_without_keras(path, inputs, directory):
    questions, answers = directory / "inputs.npz", directory / "outputs.npz"
    np.savez(questions, **inputs)
    try:
        subprocess.run(
            [sys.executable, "-c", WITHOUT_KERAS, artefact.__file__, str(path), str(questions), str(answers)],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        with np.load(answers, allow_pickle=False) as arrays:
            return dict(arrays)
    finally:
        questions.unlink(missing_ok=True)
        answers.unlink(missing_ok=True)
