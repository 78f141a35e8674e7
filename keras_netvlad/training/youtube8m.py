"""`train`: a preset on YouTube-8M's records, from files to a served artefact."""

import contextlib
import gc
import json
import os
import re
import traceback
from collections.abc import Mapping

import keras
import tensorflow as tf

from keras_netvlad.base.atomic_files import replaced
from keras_netvlad.base.validation import check_boolean, check_integer, check_path
from keras_netvlad.data import youtube8m
from keras_netvlad.data.record_files import find_files
from keras_netvlad.export import publish
from keras_netvlad.metrics import GlobalAveragePrecision
from keras_netvlad.models import VideoClassifier
from keras_netvlad.training.run_directory import MODEL, SERVED, Rounds, check_settings, run_directory
from keras_netvlad.training.tensorboard import ScalarLogs


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
    with run_directory(output):
        # As they will be read again.
        settings = json.loads(json.dumps(settings, default=keras.saving.serialize_keras_object))
        check_settings(output, settings, model.name)
        round_steps = save_every or num_steps
        num_rounds = -(-epochs * num_steps // round_steps)
        rounds = Rounds(output, patience, skipped)
        first = rounds.restore(model)
        epoch, step = divmod(first * round_steps, num_steps)
        data = youtube8m(
            train_files, batch_size, epochs=None, start_epoch=epoch, start_step=step, skipped=skipped, **training
        )
        # A validation after each round that an epoch ends in.
        ends = [r + 1 for r in range(num_rounds) if (r + 1) * round_steps // num_steps > r * round_steps // num_steps]
        callbacks = [ScalarLogs(output / "logs")]
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
        with replaced(output / MODEL, suffix=".keras") as part:
            published.save(part)
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
