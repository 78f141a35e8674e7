"""`train`: trains a classifier of the user's own classes on extracted features, and writes a predictor."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_netvlad.base.atomic_files import replaced
from keras_netvlad.base.names import DESCRIPTOR, NUM_FRAMES, SCORES
from keras_netvlad.base.quantization import dequantize
from keras_netvlad.base.validation import check_boolean, check_choice, check_integer, check_number, check_path
from keras_netvlad.data import youtube8m
from keras_netvlad.layers.cluster_pooling import ClusterPooling
from keras_netvlad.layers.kmeans_adaptation import KMeansAdaptation
from keras_netvlad.metrics import GlobalAveragePrecision
from keras_netvlad.models import VideoClassifier
from keras_netvlad.models.poolings import POOLINGS
from keras_netvlad.training.run_directory import MODEL, Rounds, check_settings, run_directory
from keras_netvlad.training.tensorboard import ScalarLogs
from keras_netvlad.training.youtube8m import MAX_SEED
from keras_netvlad.videos.encoder_file import EncoderFile
from keras_netvlad.videos.features_folder import FeaturesFolder, write_labels_file
from keras_netvlad.videos.labels import SPLITS
from keras_netvlad.videos.predict import PREDICTOR
from keras_netvlad.videos.predictor_files import write_predictor
from keras_netvlad.videos.results import BASELINE, OWN, RESULTS_FILE, Results, evaluate

HISTORY_FILE, CLIPS_FILE, LABELS_FILE = "history.json", "clips.npz", "labels.txt"
# Class weights are used if the largest class has this many times the videos of the smallest.
UNBALANCED = 1.5


def train(
    features: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    pooling: str = "netvlad",
    num_clusters: int = 8,
    hidden_units: int | None = None,
    dropout: float = 0.5,
    adapt: bool = True,
    class_weights: bool | None = None,
    epochs: int = 100,
    patience: int | None = 10,
    batch_size: int = 16,
    max_frames: int = 300,
    learning_rate: float = 3e-3,
    ema_momentum: float | None = None,
    mixed_precision: bool = False,
    seed: int = 0,
    verbose: Literal["auto", 0, 1, 2] = "auto",
) -> Results:
    """Trains a classifier of your own classes on the features that `extract_features` wrote with labels.

    If every video has one class, the scores are a softmax, trained with cross-entropy and measured by accuracy.
    Otherwise they are sigmoids, trained with binary cross-entropy and measured by GAP. The best epoch on the validation
    videos is kept. Mean pooling is trained in the same way, for comparison.

    A complete checkpoint is written after every epoch. If the process is killed, calling `train` again with the same
    arguments resumes and ends with the weights of an uninterrupted run.

    `output` receives

    - `predictor/`: the classifier and the encoder as ONNX files, and a program that runs them on video files without
      this package;
    - `model.keras`: the classifier with float inputs, for `publish` and for Keras;
    - `results.json`, `history.json`, `clips.npz`, `labels.txt`: the results, for `keras-netvlad report`;
    - `logs/`, `settings.json`, `state.json`, `round*.npz`, and the same in `mean/` for mean pooling.

    Args:
        features: Directory of `extract_features` with labels.
        output: Directory of the run; created if it does not exist.
        pooling: Name of a pooling of `VideoClassifier`.
        num_clusters: Integer, number of clusters. A few are enough for few videos.
        hidden_units: Integer, width of a hidden layer between descriptor and scores; or `None` for none.
        dropout: Share of the descriptor that training drops, from 0 to below 1.
        adapt: Boolean, whether k-means on the training frames starts the clusters (extra `adapt`). Poolings without
            clusters ignore it.
        class_weights: Boolean, whether videos of rare classes weigh more in the loss, inversely to the size of their
            class. `None` does so if the largest class has more than 1.5 times the videos of the smallest. Needs one
            class per video.
        epochs: Integer, the most epochs.
        patience: Integer, number of epochs without a smaller loss on the validation videos after which training stops;
            or `None`. Ignored without validation videos.
        batch_size: Integer, number of videos in a batch.
        max_frames: Integer, largest number of frames that training reads from a video. Validation, test and the
            predictor read all.
        learning_rate: Learning rate of Adam, above 0.
        ema_momentum: Momentum of a moving average of the weights, between 0 and 1, which is validated and published;
            or `None`.
        mixed_precision: Boolean, whether to use Keras's policy `mixed_bfloat16`.
        seed: Integer from 0 to 2**32 - 1, for the initial weights, the order of the videos and dropout.
        verbose: As for `keras.Model.fit`.

    Returns:
        The `Results`. They print as a table.

    Example:

    >>> import os, tempfile
    >>> import av, keras, numpy as np
    >>> from keras_netvlad.videos import Predictor, extract_features, train
    >>> folder = tempfile.mkdtemp()
    >>> for number in range(12):
    ...     shade = ("dark", "light")[number % 2]
    ...     os.makedirs(os.path.join(folder, "videos", shade), exist_ok=True)
    ...     with av.open(os.path.join(folder, "videos", shade, f"{number}.mp4"), "w") as file:
    ...         stream = file.add_stream("mpeg4", rate=2)
    ...         stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
    ...         for level in range(8):
    ...             picture = np.full((32, 32, 3), 128 * (number % 2) + 4 * number + 8 * level, "uint8")
    ...             file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    ...         file.mux(stream.encode())
    >>> layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 127.5, -1), keras.layers.Conv2D(8, 8, strides=8)]
    >>> backbone = os.path.join(folder, "backbone.keras")
    >>> keras.Sequential(layers).save(backbone)
    >>> features, run = os.path.join(folder, "features"), os.path.join(folder, "run")
    >>> videos = extract_features(os.path.join(folder, "videos"), features, backbone, size=32, labels="folders")
    >>> results = train(features, run, num_clusters=2, epochs=2, verbose=0)
    >>> sorted(results.test), results.num_videos
    (['mean', 'netvlad'], {'train': 8, 'validation': 2, 'test': 2})
    >>> predictor = Predictor(os.path.join(run, "predictor"))
    >>> predictor.labels, predictor.predict(os.path.join(folder, "videos", "dark", "0.mp4")).scores.shape
    (['dark', 'light'], (2,))

    Raises:
        ValueError: If an argument is invalid, the features are damaged or have no labels, or the run in `output` has
            ended, is damaged, or had other settings or features. Nothing is overwritten.
        TypeError: If `features` or `output` is not a path.
        FileNotFoundError: If `features` is not a directory of `extract_features`.
        ImportError: If `adapt` is `True` and scikit-learn is not installed.
        OSError: If another run uses `output`, or it holds something else, or it cannot be written to.
    """
    output = check_path("output", output)
    folder = FeaturesFolder(features)
    settings: dict[str, Any] = {
        "pooling": check_choice("pooling", pooling, tuple(POOLINGS)),
        "num_clusters": check_integer("num_clusters", num_clusters, 1),
        "hidden_units": None if hidden_units is None else check_integer("hidden_units", hidden_units, 1),
        "dropout": check_number("dropout", dropout, 0, 1, exclusive_maximum=True),
        "adapt": check_boolean("adapt", adapt),
        "class_weights": _check_class_weights(class_weights, folder),
        "epochs": check_integer("epochs", epochs, 1),
        "patience": None if patience is None else check_integer("patience", patience, 1),
        "batch_size": check_integer("batch_size", batch_size, 1),
        "max_frames": check_integer("max_frames", max_frames, 1),
        "learning_rate": check_number("learning_rate", learning_rate, 0, exclusive=True),
        "ema_momentum": None
        if ema_momentum is None
        else check_number("ema_momentum", ema_momentum, 0, 1, exclusive=True, exclusive_maximum=True),
        "mixed_precision": check_boolean("mixed_precision", mixed_precision),
        "seed": check_integer("seed", seed, 0, MAX_SEED),
        "features": _digest(folder),
        "videos": folder.settings["videos"],
    }
    if not folder.split(SPLITS[0]):
        raise ValueError(f"`features` must have records to train on; run `extract` again. Received: {folder.path}")
    encoder = EncoderFile(folder.encoder)
    reader = _Reader(folder, settings, encoder)
    with run_directory(output):
        check_settings(output, settings, output / PREDICTOR)
        model, history = _fit(reader, output, settings, pooling, verbose)
        mean, mean_history = model, history
        if pooling != BASELINE:
            with run_directory(output / BASELINE):
                mean, mean_history = _fit(reader, output / BASELINE, settings, BASELINE, verbose)
        histories = {
            name: [{"epoch": epoch, **metrics} for epoch, metrics in enumerate(epochs, 1)]
            for name, epochs in ((OWN, history), (BASELINE, mean_history))
        }
        clips = _answers(reader, model, mean)
        results = evaluate(folder, pooling, clips)
        write_labels_file(output / LABELS_FILE, folder.labels)
        for name, content in ((HISTORY_FILE, histories), (RESULTS_FILE, results.as_dict())):
            with replaced(output / name) as part:
                part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        with replaced(output / CLIPS_FILE) as part, open(part, "wb") as file:
            np.savez(file, **clips)  # type: ignore[arg-type]  # NumPy has an option of type bool
        with replaced(output / MODEL, suffix=".keras") as part:
            model.with_input_dtype("float32").save(part)
        # It is written last: a run with a predictor has ended.
        write_predictor(output / PREDICTOR, model, folder, settings, results)
    return results


class _Reader:
    """Reads the records of a split, as `youtube8m` does, with the settings of a run."""

    def __init__(self, folder: FeaturesFolder, settings: Mapping[str, Any], encoder: EncoderFile) -> None:
        self.folder, self.settings = folder, settings
        self.stream: str = folder.settings["stream"]
        self.feature_size, self.positions = encoder.feature_size, encoder.positions
        self.num_classes = len(folder.labels)

    def read(self, split: str, **options: Any) -> tf.data.Dataset:
        """Returns batches of `(inputs, labels)`, with all frames unless `max_frames` is given."""
        videos = self.folder.split(split)
        return youtube8m(
            [self.folder.record(video) for video in videos],
            self.settings["batch_size"],
            num_classes=self.num_classes,
            feature_sizes={self.stream: self.feature_size},
            feature_dtype=self.folder.settings["dtype"],
            **{"max_frames": np.iinfo("int32").max, **options},
        )

    def weighted(self, data: tf.data.Dataset) -> tf.data.Dataset:
        """Adds the weight of each video to batches of `(inputs, labels)`."""
        counts = np.zeros(self.num_classes)
        for video in self.folder.split(SPLITS[0]):
            counts[[self.folder.labels.index(label) for label in video.labels]] += 1
        # The mean weight of a training video is 1.
        weights = tf.constant(counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), tf.float32)
        return data.map(lambda inputs, labels: (inputs, labels, tf.linalg.matvec(labels, weights)))


def _check_class_weights(class_weights: bool | None, folder: FeaturesFolder) -> bool:
    if class_weights is None:
        counts = [sum(label in video.labels for video in folder.split(SPLITS[0])) for label in folder.labels]
        return folder.is_single_label and max(counts) > UNBALANCED * min(counts)
    if check_boolean("class_weights", class_weights) and not folder.is_single_label:
        raise ValueError("`class_weights` need one class per video. Received: videos with several classes")
    return class_weights


def _digest(folder: FeaturesFolder) -> str:
    """Returns a digest of what a run trains on: the encoder, and the videos with their labels and splits."""
    rows = [f"{video.name}\t{video.labels}\t{video.split}\n" for split in SPLITS for video in folder.split(split)]
    return hashlib.sha256("".join([folder.settings["encoder"], *rows]).encode()).hexdigest()


def _fit(
    reader: _Reader, output: Path, settings: Mapping[str, Any], pooling: str, verbose: Literal["auto", 0, 1, 2]
) -> tuple[VideoClassifier, list[dict[str, float]]]:
    """Trains one model, or resumes its training. Returns it with its best weights, and its metrics by epoch."""
    keras.utils.set_random_seed(settings["seed"])
    model = _make_model(reader, settings, pooling)
    has_validation = bool(reader.folder.split("validation"))
    patience = settings["patience"] if has_validation else None
    rounds = Rounds(output, patience, {}, monitor="loss")
    first = rounds.restore(model)
    if first == 0:
        _adapt(reader, model, settings)
    data = reader.read(
        SPLITS[0],
        shuffle=True,
        seed=settings["seed"],
        epochs=None,
        start_epoch=first,
        max_frames=settings["max_frames"] * reader.positions,
    )
    num_steps = -(-len(reader.folder.split(SPLITS[0])) // settings["batch_size"])
    validation = reader.read("validation") if has_validation else None
    callbacks: list[keras.callbacks.Callback] = [ScalarLogs(output / "logs")]
    if settings["ema_momentum"] is not None and has_validation:
        callbacks.append(keras.callbacks.SwapEMAWeights())
    if not rounds.has_ended and first < settings["epochs"]:
        model.fit(
            reader.weighted(data) if settings["class_weights"] else data,
            epochs=settings["epochs"],
            initial_epoch=first,
            steps_per_epoch=num_steps,
            validation_data=validation,
            callbacks=[*callbacks, rounds],
            shuffle=False,  # The reader shuffles.
            verbose=verbose,
        )
    rounds.load_best(model)
    return model, rounds.history


def _make_model(reader: _Reader, settings: Mapping[str, Any], pooling: str) -> VideoClassifier:
    is_single_label = reader.folder.is_single_label
    model = VideoClassifier(
        {reader.stream: reader.feature_size},
        reader.num_classes,
        settings["num_clusters"],
        settings["hidden_units"],
        "softmax" if is_single_label else "sigmoid",
        pooling=pooling,
        dropout=settings["dropout"],
        input_dtype="uint8" if reader.folder.settings["dtype"] == "uint8" else "float32",
        dtype="mixed_bfloat16" if settings["mixed_precision"] else None,
        name="classifier",
    )
    momentum = settings["ema_momentum"]
    average = {} if momentum is None else {"use_ema": True, "ema_momentum": momentum}
    metric = keras.metrics.CategoricalAccuracy("accuracy") if is_single_label else GlobalAveragePrecision()
    model.compile(
        keras.optimizers.Adam(settings["learning_rate"], clipnorm=1.0, **average),
        loss={SCORES: "categorical_crossentropy" if is_single_label else "binary_crossentropy"},
        # Keras takes the mean of binary cross-entropy over the classes; the sum keeps the gradient of each class.
        loss_weights={SCORES: 1.0 if is_single_label else float(reader.num_classes)},
        metrics={SCORES: [metric]},
        # Each batch is as long as its longest video, so XLA would compile again for each batch.
        jit_compile=False,
    )
    return model


def _pooling_layer(model: VideoClassifier) -> ClusterPooling | None:
    return next((layer for layer in model._flatten_layers() if isinstance(layer, ClusterPooling)), None)


def _adapt(reader: _Reader, model: VideoClassifier, settings: Mapping[str, Any]) -> None:
    layer = _pooling_layer(model)
    if not settings["adapt"] or not isinstance(layer, KMeansAdaptation):
        return

    def frames() -> Iterator[tuple[Any, Any]]:
        for inputs, _ in reader.read(SPLITS[0]).as_numpy_iterator():
            yield _floats(inputs[reader.stream]), _mask(inputs, reader.stream)

    layer.adapt(frames(), seed=settings["seed"], verbose=0)


def _floats(values: np.ndarray) -> np.ndarray:
    return dequantize(values) if values.dtype == np.uint8 else values.astype("float32")


def _mask(inputs: Mapping[str, np.ndarray], stream: str) -> np.ndarray:
    return np.arange(inputs[stream].shape[1]) < inputs[NUM_FRAMES][:, None]


def _answer(model: VideoClassifier, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the outputs of a model, computed eagerly: batches of many lengths would each compile `predict`."""
    return {name: keras.ops.convert_to_numpy(output) for name, output in model(inputs, training=False).items()}


def _answers(reader: _Reader, model: VideoClassifier, mean: VideoClassifier) -> dict[str, np.ndarray]:
    """Returns the answers of the models for all videos of all splits, as arrays by name."""
    layer = _pooling_layer(model)
    rows: dict[str, list[np.ndarray]] = {}
    for split in SPLITS:
        if not reader.folder.split(split):
            continue
        for inputs, labels in reader.read(split, with_ids=True).as_numpy_iterator():
            ids = inputs.pop("id")
            answers = _answer(model, inputs)
            mask = _mask(inputs, reader.stream)
            shares = np.ones((*mask.shape, 1), "float32")  # a pooling without clusters has one for all
            if layer is not None:
                assigned = keras.ops.convert_to_numpy(layer.assign(_floats(inputs[reader.stream]), mask=mask))
                shares = assigned.reshape(*mask.shape, -1)  # NeXtVLAD assigns each group of features
            batch = {
                "ids": np.array([name.decode() for name in ids]),
                "split": np.array([split] * len(ids)),
                "labels": labels.astype("uint8"),
                "scores": answers[SCORES].astype("float32"),
                "mean_scores": _answer(mean, inputs)[SCORES].astype("float32"),
                "descriptors": answers[DESCRIPTOR].astype("float16"),
                "frames_per_clip": inputs[NUM_FRAMES],
                "assignments": shares[mask].astype("float32"),
            }
            for name, values in batch.items():
                rows.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in rows.items()}
