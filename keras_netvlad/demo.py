"""`run_demo`: trains on real speech frames, exports, verifies, serves without Keras, and draws a picture."""

import os
import shlex
import subprocess
import sys
import time
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
from keras_netvlad.layers.kmeans import import_kmeans
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
    """Trains on Japanese Vowels, exports, and runs the artifacts in processes without Keras.

    Prints what each step does, the files that it wrote, and the command to try next. Needs Matplotlib and scikit-learn:
    `pip install 'keras_netvlad[plot,adapt]'`.

    Args:
        output: Directory that does not exist yet. It receives `netvlad/1/` (SavedModel), `model.onnx`,
            `model.keras` and `assignments.png`.
        epochs: Integer, epochs of each training.
        seed: Integer from 0 to 2**32 - 1, seed of k-means and of each training.

    Returns:
        A dict:

        - `netvlad_accuracy` and `mean_pooling_accuracy`: fractions of the 370 test utterances;
        - `reports`: a `Report` for each artifact;
        - `answers`: dict from the kind of artifact to the speaker it names for the first test utterance;
        - `speaker`: the true speaker of that utterance.

    Raises:
        ValueError: If `epochs` or `seed` is invalid.
        OSError: If the directory exists or cannot be written to.
        ImportError: If Matplotlib or scikit-learn is not installed.
    """
    check_installed()  # Missing packages are reported before the training.
    import_kmeans()
    epochs, seed = check_integer("epochs", epochs, 1), check_integer("seed", seed, 0, MAX_SEED)
    output = check_path("output", output)
    with staged(output) as stage:
        stage.mkdir()
        train, test = load_japanese_vowels()
        print(
            "Step 1 of 5: read real speech, the data set Japanese Vowels.\n"
            f"  {len(train[1])} training and {len(test[1])} test utterances of {NUM_SPEAKERS} speakers; "
            "the task is to name the speaker."
        )

        print(
            f"\nStep 2 of 5: train two classifiers that differ in the pooling only, {epochs} epochs each.\n"
            "  k-means on the training frames starts the clusters of NetVLAD.",
            flush=True,
        )
        keras.utils.set_random_seed(seed)
        model = VideoClassifier(
            {"frames": 12}, NUM_SPEAKERS, num_clusters=16, hidden_units=None, activation="softmax", name="netvlad"
        )
        pooling = model.get_layer("frames_netvlad")
        frames, num_frames = train[0]["frames"], train[0]["num_frames"]
        mask = np.arange(frames.shape[1]) < num_frames[:, None]
        pooling.adapt(frames, mask=mask, seed=seed, verbose=0)
        netvlad_accuracy = _train("NetVLAD     ", model, train, test, epochs)
        keras.utils.set_random_seed(seed)
        mean_pooling_accuracy = _train("mean pooling", _mean_pooling(), train, test, epochs)

        print("\nStep 3 of 5: export the NetVLAD classifier, and compare each file with the Keras model.", flush=True)
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
        print(
            "\nStep 4 of 5: run the files in processes that cannot import Keras.\n"
            f"  The first test utterance is of speaker {speaker}.",
            flush=True,
        )
        answers = {}
        for report in reports:
            relative = Path(report.path).relative_to(output)
            scores = _run_without_keras(stage / relative, utterance, stage)["scores"][0]
            answers[report.kind] = int(scores.argmax())
            print(f"  {output / relative}: speaker {answers[report.kind]}, score {scores.max():.3f}", flush=True)

        print(
            "\nStep 5 of 5: draw which clusters the frames of this utterance are assigned to.\n"
            "  Each column is a frame. Bright cells are the clusters that it is assigned to.",
            flush=True,
        )
        real_frames = utterance["frames"][:, : utterance["num_frames"][0]]
        assignments = np.asarray(pooling.assign(real_frames))[0]
        title = f"Soft assignments of a test utterance of speaker {speaker}"
        plot_assignments(assignments, title, max_clusters=8).savefig(stage / "assignments.png", dpi=120)
    print(_summary(output))
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


class _ProgressLine(keras.callbacks.Callback):
    """Prints one line per model. In a terminal, the line is rewritten after each epoch."""

    def __init__(self, name, epochs):
        super().__init__()
        self._name, self._epochs = name, epochs
        self._is_live = sys.stdout.isatty()

    def on_train_begin(self, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.text = f"  {self._name}  epoch {epoch + 1}/{self._epochs}, training accuracy {logs['accuracy']:.3f}"
        if self._is_live:
            print(f"\r{self.text}", end="", flush=True)

    def finish(self, accuracy):
        start = "\r" if self._is_live else ""
        seconds = time.perf_counter() - self._start
        print(f"{start}{self.text}, test accuracy {accuracy:.3f}, {seconds:.1f} s", flush=True)


def _train(name, model, train, test, epochs):
    model.compile(keras.optimizers.Adam(0.005), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    progress = _ProgressLine(name, epochs)
    model.fit(*train, epochs=epochs, verbose=0, callbacks=[progress])
    accuracy = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    progress.finish(accuracy)
    return accuracy


def _summary(output):
    command = sys.argv[0] if Path(sys.argv[0]).name == "keras-netvlad" else "keras-netvlad"
    served = output.parent / "served"
    files = {
        "model.keras": "the Keras model, to train on or to export again",
        "netvlad/1": "a SavedModel for TensorFlow Serving",
        "model.onnx": "an ONNX file for every other runtime",
        "assignments.png": "the picture of step 5",
    }
    lines = [f"  {output / name!s:<{len(str(output)) + 17}}  {text}" for name, text in files.items()]
    next_command = shlex.join([command, "publish", str(output / "model.keras"), str(served)])
    return "\n".join(
        [
            "\nFiles:",
            *lines,
            "\nNext, publish the model for TensorFlow Serving:",
            f"  {next_command}",
            "Or train on your own videos: docs/videos.md.",
        ]
    )


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
