"""`train`: trains a preset on YouTube-8M's records and publishes it."""

import contextlib
import gc
import json
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from keras_netvlad.base.atomic_files import replaced
from keras_netvlad.base.validation import check_boolean, check_choice, check_integer, check_number, check_path
from keras_netvlad.data import youtube8m
from keras_netvlad.data.record_files import find_files
from keras_netvlad.export import Report, publish
from keras_netvlad.export.metadata import check_metadata
from keras_netvlad.export.model_signature import read_signature
from keras_netvlad.losses import RatedBinaryCrossentropy
from keras_netvlad.metrics import GlobalAveragePrecision, SegmentMeanAveragePrecision
from keras_netvlad.models import VideoClassifier
from keras_netvlad.training.run_directory import MODEL, SERVED, Rounds, check_settings, run_directory
from keras_netvlad.training.tensorboard import ScalarLogs

LEVELS = ("frame", "segment", "video")
# Settings that release 0.1.0 did not store, with the values that its runs had.
LATER_SETTINGS = {"level": "frame", "feature_dtype": "uint8", "frame_counts": "shared"}
MAX_SEED = 2**32 - 1  # of NumPy and Keras


def train(
    train_files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    preset: str = "gated_netvlad",
    level: Literal["frame", "segment", "video"] = "frame",
    validation_files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    num_classes: int = 3862,
    feature_sizes: Mapping[str, int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    epochs: int = 5,
    batch_size: int = 80,
    feature_dtype: Literal["uint8", "float16", "float32"] = "uint8",
    frame_counts: Literal["shared", "first", "each"] = "shared",
    max_frames: int = 300,
    learning_rate: float = 2e-4,
    learning_rate_decay: float = 0.8,
    decay_examples: int = 4_000_000,
    ema_momentum: float | None = None,
    mixed_precision: bool = False,
    patience: int | None = None,
    save_every: int | None = None,
    errors: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    verbose: Literal["auto", 0, 1, 2] = "auto",
) -> Report:
    """Trains a preset of `VideoClassifier` on YouTube-8M's records and publishes it.

    Training proceeds in rounds. A round is an epoch, or `save_every` batches. A complete checkpoint is written after
    every round: weights, optimizer, random numbers and the position in the records. If the process is killed at any
    step, calling `train` again with the same arguments resumes and ends with the weights of an uninterrupted run.

    The loss is binary cross-entropy, summed over the classes, and validation computes GAP. On segments, both are
    limited to the rated classes: the loss is `RatedBinaryCrossentropy`, and validation computes MAP@K. The optimizer is
    Adam, with the gradient of each variable clipped to norm 1 and a learning rate that decays in steps. The defaults
    are those of Miech et al.'s code.

    `output` receives

    - `logs/`: event files for TensorBoard;
    - `settings.json`, `state.json`, `round*.npz`: the checkpoint, and the round of the best validation;
    - `model.keras`: the model with float inputs, from the best validation, or from the end if there is no validation;
    - `served/<preset>/1/`: the SavedModel that `publish` wrote and verified. Its model card shows GAP or MAP@K.

    Args:
        train_files: Path, pattern such as `"data/train*.tfrecord"`, or a list of those, as for `youtube8m`.
        output: Directory of the run; created if it does not exist.
        preset: Name of a preset of `VideoClassifier.from_preset`.
        level: `"frame"`; `"segment"` for the records of 2019, whose segments of five frames are rated; or `"video"` for
            records of means, which suit the preset `youtube8m_moe`.
        validation_files: Files on which to compute GAP, or MAP@K of segments, after every epoch; or `None`.
        num_classes: Integer, number of classes `C`.
        feature_sizes: Dict from the name of each stream to its feature size. The default is that of YouTube-8M.
        overrides: Dict of arguments of `VideoClassifier` that replace those of the preset.
        epochs: Integer, number of epochs. With `save_every`, training continues to the end of the last round.
        batch_size: Integer, number of videos in a batch. On segments, the batch contains all segments of these videos.
        feature_dtype: Type of the values of a frame, as for `youtube8m`.
        frame_counts: How to read streams of different lengths, as for `youtube8m`. With `"each"` the model has the
            inputs `num_frames_<stream>`.
        max_frames: Integer, largest number of frames read from a video.
        learning_rate: Initial learning rate, above 0.
        learning_rate_decay: Factor by which the learning rate is multiplied after every `decay_examples` videos.
        decay_examples: Integer, number of videos.
        ema_momentum: Momentum of a moving average of the weights, between 0 and 1, such as 0.9999. The average is
            validated, saved and published. `None` uses the weights themselves.
        mixed_precision: Boolean, whether to use Keras's policy `mixed_bfloat16`.
        patience: Integer, number of validations without a better GAP or MAP@K after which training stops, or `None`.
        save_every: Integer, number of batches in a round, or `None` for an epoch.
        errors: `"raise"` or `"skip"`, what to do with bad training records, as for `youtube8m`.
        seed: Integer from 0 to 2**32 - 1, for the initial weights, the order of the records and dropout.
        metadata: As for `publish`, such as `{"license": "apache-2.0"}`. Another one does not keep a run from resuming.
        verbose: As for `keras.Model.fit`.

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
        ValueError: If an argument is invalid, a record is bad, or the run in `output` has ended, is damaged or had
            other settings. Nothing is overwritten.
        TypeError: If files, `output` or `overrides` have the wrong type.
        FileNotFoundError: If a pattern matches no file.
        OSError: If another run uses `output`, or it holds something else, or it cannot be written to.

    Reference:
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905). The defaults are those of
          [their code](https://github.com/antoine77340/Youtube-8M-WILLOW): batches of 80 videos, learning rate 0.0002
          with factor 0.8 in the commands of `README.md`; Adam, a decay every 4 million videos and gradients of norm 1
          in `train.py`.
    """
    output = check_path("output", output)
    if overrides is not None and not isinstance(overrides, Mapping):
        raise TypeError(f"`overrides` must be a dict of arguments of `VideoClassifier`. Received: {overrides!r}")
    settings = {
        "preset": preset,
        "level": check_choice("level", level, LEVELS),
        "feature_dtype": feature_dtype,
        "frame_counts": frame_counts,
        "num_classes": check_integer("num_classes", num_classes, 1),
        "feature_sizes": feature_sizes,
        "overrides": dict(overrides or {}),
        "epochs": check_integer("epochs", epochs, 1),
        "batch_size": check_integer("batch_size", batch_size, 1),
        "max_frames": check_integer("max_frames", max_frames, 1),
        "learning_rate": check_number("learning_rate", learning_rate, 0, exclusive=True),
        "learning_rate_decay": check_number("learning_rate_decay", learning_rate_decay, 0, exclusive=True),
        "decay_examples": check_integer("decay_examples", decay_examples, 1),
        "ema_momentum": None if ema_momentum is None else _check_momentum(ema_momentum),
        "mixed_precision": check_boolean("mixed_precision", mixed_precision),
        "patience": None if patience is None else check_integer("patience", patience, 1),
        "save_every": None if save_every is None else check_integer("save_every", save_every, 1),
        "errors": errors,
        "seed": check_integer("seed", seed, 0, MAX_SEED),
    }
    if patience is not None and validation_files is None:
        raise ValueError("`patience` counts validations; give `validation_files`. Received: validation_files=None")
    reading: dict[str, Any] = {
        "num_classes": num_classes,
        "feature_sizes": feature_sizes,
        "max_frames": max_frames,
        "level": level,
        "feature_dtype": feature_dtype,
        "frame_counts": frame_counts,
        "as_frames": level == "video",
    }
    training: dict[str, Any] = {
        **reading,
        "shuffle": True,
        "seed": seed,
        "errors": errors,
        "drop_remainder": errors == "raise",
    }
    skipped: dict[tuple[str, int], str] = {}
    num_steps = len(youtube8m(train_files, batch_size, skipped=skipped, **training))
    validation = None if validation_files is None else youtube8m(validation_files, batch_size, **reading)
    settings["train_files"] = [os.path.basename(path) for path in find_files(train_files)]
    settings["batches"] = [num_steps, None if validation is None else len(validation)]

    keras.utils.set_random_seed(seed)
    model = _make_model(settings)
    metadata = check_metadata(metadata, read_signature(model).outputs)
    with run_directory(output):
        # The JSON values that `settings.json` will hold.
        settings = json.loads(json.dumps(settings, default=keras.saving.serialize_keras_object))
        check_settings(output, settings, output / SERVED / model.name / "1", LATER_SETTINGS)
        round_steps = save_every or num_steps
        num_rounds = -(-epochs * num_steps // round_steps)
        monitor: Literal["gap", "map_at_k"] = "map_at_k" if level == "segment" else "gap"
        rounds = Rounds(output, patience, skipped, monitor)
        first = rounds.restore(model)
        epoch, step = divmod(first * round_steps, num_steps)
        data = youtube8m(
            train_files, batch_size, epochs=None, start_epoch=epoch, start_step=step, skipped=skipped, **training
        )
        # Validation takes place after each round in which an epoch ends.
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
                    shuffle=False,  # The reader shuffles.
                    verbose=verbose,
                )
        rounds.load_best(model)
        published = model.with_input_dtype("float32")
        with replaced(output / MODEL, suffix=".keras") as part:
            published.save(part)
        best = rounds.state["best"]
        metrics: dict[str, float] = {} if best is None else {monitor: best[monitor]}
        report = publish(published, output / SERVED, version=1, metadata=metadata, metrics=metrics)
        assert report is not None  # `publish` verifies by default
        return report


def _check_momentum(momentum):
    return check_number("ema_momentum", momentum, 0, 1, exclusive=True, exclusive_maximum=True)


def _make_model(settings):
    overrides = dict(settings["overrides"])
    if settings["feature_sizes"] is not None:
        overrides["feature_sizes"] = settings["feature_sizes"]
    if settings["mixed_precision"]:
        overrides["dtype"] = "mixed_bfloat16"
    taken = {"input_dtype", "num_classes", "num_frames_per_stream"} & set(overrides)
    if taken:
        raise ValueError(f"`overrides` cannot contain arguments that `train` sets itself. Received: {sorted(taken)}")
    model = VideoClassifier.from_preset(
        settings["preset"],
        num_classes=settings["num_classes"],
        input_dtype="uint8" if settings["level"] != "video" and settings["feature_dtype"] == "uint8" else "float32",
        num_frames_per_stream=settings["frame_counts"] == "each",
        **overrides,
    )
    rate = keras.optimizers.schedules.ExponentialDecay(
        settings["learning_rate"],
        max(1, settings["decay_examples"] // settings["batch_size"]),
        settings["learning_rate_decay"],
        staircase=True,
    )
    is_rated = settings["level"] == "segment"
    metric = SegmentMeanAveragePrecision(settings["num_classes"]) if is_rated else GlobalAveragePrecision()
    momentum = settings["ema_momentum"]
    average = {} if momentum is None else {"use_ema": True, "ema_momentum": momentum}
    model.compile(
        keras.optimizers.Adam(rate, clipnorm=1.0, **average),
        loss={"scores": RatedBinaryCrossentropy() if is_rated else "binary_crossentropy"},
        # Turns Keras's mean over the classes into the papers' sum, for which their penalties were chosen.
        loss_weights={"scores": 1.0 if is_rated else float(settings["num_classes"])},
        metrics={"scores": [metric]},
        # Each batch is as long as its longest video, so XLA would compile again for each batch.
        jit_compile=False,
    )
    return model


@contextlib.contextmanager
def _clear_errors():
    """Raises the reader's message about a bad record without the TensorFlow error around it."""
    try:
        yield
    except tf.errors.OpError as error:
        said = re.search(r"ValueError: (.*, record \d+: .*)", str(error))
        if said is None:
            raise
        # The traceback refers to the iterator, whose threads would keep Python from ending.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        raise ValueError(f"{said[1]}. Repair or remove it, or leave it out with errors='skip'.") from None
