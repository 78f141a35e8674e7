"""`train`: a preset on YouTube-8M's records, from files to a served artefact."""

import contextlib
import fcntl
import gc
import json
import os
import re
import shutil
import traceback
import zipfile
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_netvlad.data import youtube8m
from keras_netvlad.data.record_files import find_files
from keras_netvlad.export import publish
from keras_netvlad.layers.validation import check_boolean, check_integer, check_path
from keras_netvlad.metrics import GlobalAveragePrecision
from keras_netvlad.models import VideoClassifier

SETTINGS, STATE, LOCK, MODEL, SERVED = "settings.json", "state.json", "lock", "model.keras", "served"


def train(
    train_files,
    output,
    *,
    preset="gated_netvlad",
    validation_files=None,
    num_classes=3862,
    feature_sizes=None,
    overrides=None,
    epochs=5,
    batch_size=80,
    max_frames=300,
    learning_rate=2e-4,
    learning_rate_decay=0.8,
    decay_examples=4_000_000,
    ema_momentum=None,
    mixed_precision=False,
    patience=None,
    save_every=None,
    errors="raise",
    seed=0,
    verbose="auto",
):
    """Trains a preset of `VideoClassifier` on frame-level records, and publishes it.

    Training goes in rounds, an epoch each, or `save_every` batches. After every round everything that training needs
    is written, whole or not at all. When the process is killed, at whatever step, the same call goes on from there and
    comes to the weights that it would have had: order of the records, random numbers and the optimizer's state
    included. Loss: binary cross-entropy, summed over the classes. Optimizer: Adam, gradients clipped to norm 1 a
    variable, learning rate falling by steps, as in Miech et al.'s code, by default with its figures.

    In `output` appear

    - `logs/`: for TensorBoard;
    - `state.json`, `round*.npz`: to go on from, and the round of the best validation;
    - `model.keras`: the model for floats, of the best validation if there was one, else of the end;
    - `served/<preset>/1/`: what `publish` made of it, with its parity table.

    Args:
        train_files: Path, pattern or list of those, as of `youtube8m`.
        output: Directory of the run; made if it does not exist.
        preset: Name of a preset of `VideoClassifier.from_preset`.
        validation_files: As `train_files`, to compute GAP on after every epoch; or `None`.
        num_classes: Integer, `C`.
        feature_sizes: Dict from the name of each stream to its feature size; by default YouTube-8M's.
        overrides: Dict of further arguments of `VideoClassifier`, in place of the preset's.
        epochs: Integer. With `save_every`, what is missing to a whole round is trained, too.
        batch_size: Integer, videos in a batch.
        max_frames: Integer, frames of a video at most.
        learning_rate: Number, to start with.
        learning_rate_decay: Number, by which the rate is multiplied every `decay_examples` videos.
        decay_examples: Integer.
        ema_momentum: `None`, or a number from 0 to 1 such as 0.9999: the moving average of the weights with that
            momentum is what is validated, saved and published.
        mixed_precision: Boolean, whether to compute in bfloat16 where Keras's policy does.
        patience: `None`, or an integer: to stop after so many validations without a better GAP.
        save_every: `None` for an epoch, or an integer, batches in a round.
        errors: `"raise"` or `"skip"`, as of `youtube8m`, for the training records.
        seed: Integer, of weights, order and dropout.
        verbose: As of `keras.Model.fit`.

    Returns:
        The `Report` of `publish`.

    Example:

    >>> import os, tempfile
    >>> import numpy as np
    >>> from keras_netvlad.data import write_youtube8m
    >>> from keras_netvlad.training import train
    >>> rng = np.random.default_rng(0)
    >>> videos = [{"id": f"{n}", "labels": [n % 2], "frames": rng.normal(size=(5, 4)) + n % 2} for n in range(16)]
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     records, run = os.path.join(directory, "train.tfrecord"), os.path.join(directory, "run")
    ...     written = write_youtube8m(records, videos)
    ...     report = train(
    ...         records, run, num_classes=2, feature_sizes={"frames": 4}, epochs=1, batch_size=8,
    ...         overrides={"num_clusters": 2, "hidden_units": 4}, verbose=0,
    ...     )
    ...     report.ok, sorted(os.listdir(os.path.join(run, "served")))
    (True, ['gated_netvlad'])

    Raises:
        ValueError: On an argument that is none of the above, a bad record, or an `output` whose run had other settings,
            has ended, or is damaged. Nothing is overwritten.
        TypeError: If files, `output` or `overrides` are of another type.
        FileNotFoundError: If a pattern matches no file.
        OSError: If `output` is in use by another run, holds something else, or can't be written.

    Reference:
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905). The figures are those of
          [their code](https://github.com/antoine77340/Youtube-8M-WILLOW): batches of 80 videos, learning rate 0.0002
          and its factor 0.8 in the commands of `README.md`; Adam, decay every 4 million videos and gradients of norm 1
          in `train.py`.
    """
    output = check_path("output", output)
    if overrides is not None and not isinstance(overrides, Mapping):
        raise TypeError(f"`overrides` must be a dict of arguments of `VideoClassifier`. Received: {overrides!r}")
    settings = {
        "preset": preset,
        "num_classes": check_integer("num_classes", num_classes, 1),
        "feature_sizes": feature_sizes,
        "overrides": dict(overrides or {}),
        "epochs": check_integer("epochs", epochs, 1),
        "batch_size": check_integer("batch_size", batch_size, 1),
        "max_frames": check_integer("max_frames", max_frames, 1),
        "learning_rate": _check_number("learning_rate", learning_rate),
        "learning_rate_decay": _check_number("learning_rate_decay", learning_rate_decay),
        "decay_examples": check_integer("decay_examples", decay_examples, 1),
        "ema_momentum": ema_momentum if ema_momentum is None else _check_number("ema_momentum", ema_momentum, 1),
        "mixed_precision": check_boolean("mixed_precision", mixed_precision),
        "patience": patience if patience is None else check_integer("patience", patience, 1),
        "save_every": save_every if save_every is None else check_integer("save_every", save_every, 1),
        "errors": errors,
        "seed": check_integer("seed", seed, 0),
    }
    if patience is not None and validation_files is None:
        raise ValueError("`patience` counts validations; give `validation_files`. Received: validation_files=None")
    reading = {
        "num_classes": num_classes,
        "feature_sizes": feature_sizes,
        "max_frames": max_frames,
    }
    training = {**reading, "shuffle": True, "seed": seed, "errors": errors, "drop_remainder": errors == "raise"}
    skipped = {}
    num_steps = len(youtube8m(train_files, batch_size, skipped=skipped, **training))
    validation = None if validation_files is None else youtube8m(validation_files, batch_size, **reading)
    settings["train_files"] = [os.path.basename(path) for path in find_files(train_files)]
    settings["batches"] = [num_steps, None if validation is None else len(validation)]

    keras.utils.set_random_seed(seed)
    model = _make_model(settings)
    with _lock(output):
        # As they will be read again.
        settings = json.loads(json.dumps(settings, default=keras.saving.serialize_keras_object))
        _check_settings(output, settings, model.name)
        round_steps = save_every or num_steps
        num_rounds = -(-epochs * num_steps // round_steps)
        rounds = _Rounds(output, patience, skipped)
        first = rounds.restore(model)
        epoch, step = divmod(first * round_steps, num_steps)
        data = youtube8m(
            train_files, batch_size, epochs=None, start_epoch=epoch, start_step=step, skipped=skipped, **training
        )
        # A validation after each round that an epoch ends in.
        ends = [r + 1 for r in range(num_rounds) if (r + 1) * round_steps // num_steps > r * round_steps // num_steps]
        callbacks = [_TensorBoard(output / "logs")]
        if ema_momentum is not None and validation is not None:
            callbacks.append(keras.callbacks.SwapEMAWeights())
        if not rounds.has_ended:
            with _clear_errors():
                model.fit(
                    data,
                    epochs=num_rounds,
                    initial_epoch=first,
                    steps_per_epoch=round_steps,
                    validation_data=validation,
                    validation_freq=ends,
                    callbacks=[*callbacks, rounds],
                    shuffle=False,  # the reader does
                    verbose=verbose,
                )
        rounds.load_best(model)
        published = model.with_input_dtype("float32")
        part = output / f".{MODEL}.partial.keras"
        published.save(part)
        os.replace(part, output / MODEL)
        return publish(published, output / SERVED, version=1)


def _make_model(settings):
    overrides = dict(settings["overrides"])
    if settings["feature_sizes"] is not None:
        overrides["feature_sizes"] = settings["feature_sizes"]
    if settings["mixed_precision"]:
        overrides["dtype"] = "mixed_bfloat16"
    taken = {"input_dtype", "num_classes"} & set(overrides)
    if taken:
        raise ValueError(f"`overrides` can't hold what `train` sets itself. Received: {sorted(taken)}")
    model = VideoClassifier.from_preset(
        settings["preset"], num_classes=settings["num_classes"], input_dtype="uint8", **overrides
    )
    rate = keras.optimizers.schedules.ExponentialDecay(
        settings["learning_rate"],
        max(1, settings["decay_examples"] // settings["batch_size"]),
        settings["learning_rate_decay"],
        staircase=True,
    )
    momentum = settings["ema_momentum"]
    average = {} if momentum is None else {"use_ema": True, "ema_momentum": momentum}
    model.compile(
        keras.optimizers.Adam(rate, clipnorm=1.0, **average),
        loss={"scores": "binary_crossentropy"},
        # Keras's mean over the classes becomes their sum, beside which the papers' penalties were chosen.
        loss_weights={"scores": float(settings["num_classes"])},
        metrics={"scores": [GlobalAveragePrecision()]},
        # Batches are as long as their longest video: XLA would compile again for each.
        jit_compile=False,
    )
    return model


class _TensorBoard(keras.callbacks.Callback):
    """Logs of each round as scalars: `train/loss`, `validation/gap` and so on."""

    def __init__(self, directory):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(directory))

    def on_epoch_end(self, epoch, logs=None):
        # What `tf.summary.scalar` writes; that one, and Keras's callback, need the package `tensorboard`.
        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
        )
        with self.writer.as_default(step=epoch + 1):
            for name, value in (logs or {}).items():
                name = f"validation/{name[4:]}" if name.startswith("val_") else f"train/{name}"
                tf.summary.write(name, tf.constant(value, "float32"), metadata=metadata)
        self.writer.flush()


class _Rounds(keras.callbacks.Callback):
    """Writes after each round what to go on from; tells when to stop."""

    def __init__(self, output, patience, skipped):
        super().__init__()
        self.output, self.patience, self.skipped = output, patience, skipped
        self.state = {"rounds": 0, "weights": None, "best": None, "waited": 0}
        if (output / STATE).exists():
            self.state = _read(output / STATE)

    @property
    def has_ended(self):
        return self.patience is not None and self.state["waited"] >= self.patience

    def restore(self, model):
        """Brings a model to the end of the last round written; returns the number of rounds behind it."""
        model.optimizer.build(model.trainable_variables)
        if self.state["weights"]:
            _load(model, self.output / self.state["weights"])
        return self.state["rounds"]

    def load_best(self, model):
        """Gives a model the weights, or their moving average, of the best validation, or of the last round."""
        best = self.state["best"]
        _load(model, self.output / (best["weights"] if best else self.state["weights"]))
        model.optimizer.finalize_variable_values(model.trainable_variables)

    def on_epoch_end(self, epoch, logs=None):
        name = f"round{epoch + 1}.npz"
        state = {**self.state, "rounds": epoch + 1, "weights": name}
        gap = (logs or {}).get("val_gap", (logs or {}).get("val_scores_gap"))
        if gap is not None:
            is_better = state["best"] is None or gap > state["best"]["gap"]
            state["waited"] = 0 if is_better else state["waited"] + 1
            if is_better:
                state["best"] = {"gap": float(gap), "weights": name}
        part = self.output / f".{name}.partial"
        with open(part, "wb") as file:
            np.savez(file, **{f"{n}": keras.ops.convert_to_numpy(v) for n, v in enumerate(_variables(self.model))})
        _replace(part, self.output / name)
        part = self.output / f".{STATE}.partial"
        part.write_text(json.dumps(state))
        _replace(part, self.output / STATE)
        self.state = state
        needed = {state["weights"], state["best"] and state["best"]["weights"]}
        for path in self.output.glob("round*.npz"):
            if path.name not in needed:
                path.unlink()
        if self.skipped:
            print(f"Skipped {len(self.skipped)} bad records so far, such as {next(iter(self.skipped.items()))}")
        if self.has_ended:
            self.model.stop_training = True


def _variables(model):
    """All that a step changes. Keras's weights files lack the state of random numbers (Keras 3.15)."""
    return [*model.variables, *model.optimizer.variables]


def _load(model, path):
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = [arrays[f"{number}"] for number, _ in enumerate(_variables(model))]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise _damaged(path) from None
    for variable, value in zip(_variables(model), values, strict=True):
        variable.assign(value)


def _read(path):
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise _damaged(path) from None


def _damaged(path):
    return ValueError(f"What the run in `output` goes on from is damaged or lost; begin another. Received: {path}")


def _replace(part, target):
    """Renames a file that is on the disk, so that a power cut leaves the old one or the new one."""
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(part, target)


@contextlib.contextmanager
def _lock(output):
    """Makes the directory of a run and holds it; the system lets go of it when the process ends, however it does."""
    is_new = not output.exists()
    if not is_new and not (output / LOCK).exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"`output` must be a new directory or one of a run of `train`. Received: {output}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except NotADirectoryError:
        raise NotADirectoryError(f"`output` must lie in a directory. Received: {output}, in a file") from None
    with open(output / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"`output` is in use by another run; wait for its end or choose another. Received: {output}"
            ) from None
        try:
            yield
        except BaseException:
            if is_new and not (output / STATE).exists():
                shutil.rmtree(output)  # a mistake found before the first round leaves nothing
            raise


def _check_settings(output, settings, name):
    """Writes the settings of a new run; those of one to go on with must be the same."""
    if (output / SERVED / name / "1").exists():
        raise ValueError(f"The run in `output` has ended; choose another directory for a new one. Received: {output}")
    path = output / SETTINGS
    if not path.exists():
        part = output / f".{SETTINGS}.partial"
        part.write_text(json.dumps(settings, indent=1))
        _replace(part, path)
        return
    before = _read(path)
    changed = {key: (before.get(key), settings[key]) for key in settings if before.get(key) != settings[key]}
    if changed:
        differences = ", ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())
        raise ValueError(
            "A run goes on with the settings that it began with; give those, or another `output`. "
            f"Received: {differences}"
        )


@contextlib.contextmanager
def _clear_errors():
    """What the reader says of a bad record, without TensorFlow's stack traces around it."""
    try:
        yield
    except tf.errors.OpError as error:
        said = re.search(r"ValueError: (.*, record \d+: .*)", str(error))
        if said is None:
            raise
        # Frames of the traceback hold the iterator, whose threads would keep Python from ending.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        raise ValueError(f"{said[1]}. Repair or remove it, or leave it out with errors='skip'.") from None


def _check_number(name, value, limit=None):
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < (limit or float("inf")):
        span = "above 0" if limit is None else f"between 0 and {limit}"
        raise ValueError(f"`{name}` must be a number {span}. Received: {name}={value!r}")
    return float(value)
