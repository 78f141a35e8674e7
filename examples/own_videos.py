"""Trains a classifier of your own videos in Keras, step by step, and once more with `train`.

    python examples/own_videos.py FOLDER [--output own_videos]

FOLDER has one folder of videos for each class. Most of `main` does by hand what `keras_netvlad.videos.train` does;
change it where your task differs. `train` also resumes, compares with mean pooling, and writes a predictor. If you have
no videos, `python tests/support/make_labeled_videos.py FOLDER` makes some.
"""

import argparse
import sys
from pathlib import Path

import keras
import onnxruntime
import tensorflow as tf

from keras_netvlad.data import youtube8m
from keras_netvlad.layers import Dequantize
from keras_netvlad.models import VideoClassifier
from keras_netvlad.videos import Predictor, extract_features, train


def main(arguments=None):
    """Extracts features, trains a classifier, evaluates it, and classifies a video."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder with one folder of videos for each class")
    parser.add_argument("--labels", default="folders", help="CSV file with the columns path, label, group")
    parser.add_argument("--backbone", default="MobileNetV2", help="as for `extract` (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="height and width of images (default: %(default)s)")
    parser.add_argument("--fps", type=float, default=2, help="frames per second (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=100, help="the most epochs (default: %(default)s)")
    parser.add_argument("--output", default="own_videos", type=Path, help="directory to write (default: %(default)s)")
    options = parser.parse_args(arguments)

    # One record per video, in train/, validation/ and test/. A second call extracts only what is missing.
    features = options.output / "features"
    extract_features(
        options.folder, features, options.backbone, labels=options.labels, size=options.size, fps=options.fps
    )
    labels = (features / "labels.txt").read_text(encoding="utf-8").splitlines()
    feature_size = onnxruntime.InferenceSession(features / "encoder.onnx").get_outputs()[0].shape[-1]

    def read(split, **settings):
        """Batches of inputs, bytes and the number of frames of each video, and of labels, one-hot."""
        files = sorted((features / split).rglob("*.tfrecord"))
        return youtube8m(files, 16, num_classes=len(labels), feature_sizes={"rgb": feature_size}, **settings)

    keras.utils.set_random_seed(0)
    model = VideoClassifier(
        {"rgb": feature_size},
        len(labels),
        num_clusters=8,
        hidden_units=None,
        activation="softmax",
        dropout=0.5,
        input_dtype="uint8",
    )
    # k-means on the training frames starts the clusters.
    dequantize = Dequantize()
    frames = ((dequantize(inputs["rgb"]), tf.sequence_mask(inputs["num_frames"])) for inputs, _ in read("train"))
    model.get_layer("rgb_netvlad").adapt(frames, seed=0, verbose=0)
    model.compile(
        keras.optimizers.Adam(3e-3, clipnorm=1.0),
        loss={"scores": "categorical_crossentropy"},
        metrics={"scores": [keras.metrics.CategoricalAccuracy("accuracy")]},
    )
    model.fit(
        read("train", shuffle=True, epochs=None),
        steps_per_epoch=len(read("train")),
        validation_data=read("validation"),
        epochs=options.epochs,
        callbacks=[keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)],
        shuffle=False,  # the reader shuffles
        verbose=0,
    )
    accuracy = model.evaluate(read("test"), verbose=0, return_dict=True)["accuracy"]
    print(f"Test accuracy by hand: {accuracy:.3f}")

    # The same in one call. It ends at once if the run in this directory has ended.
    print(train(features, options.output / "run", epochs=options.epochs, verbose=0))
    predictor = Predictor(options.output / "run" / "predictor")
    video = next(path for path in sorted(Path(options.folder).rglob("*")) if path.suffix == ".mp4")
    scores = predictor.predict(video).scores
    print(f"{video}: {predictor.labels[scores.argmax()]} ({scores.max():.3f})")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:  # such as a folder without videos
        sys.exit(f"error: {error}")
