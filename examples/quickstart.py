"""Trains a video classifier on real speech frames and exports it, in about a minute.

python examples/quickstart.py [--epochs 30] [--output vowels]
"""

import argparse
from pathlib import Path

import keras

from keras_netvlad.data import load_japanese_vowels
from keras_netvlad.export import export_model
from keras_netvlad.models import VideoClassifier


def main():
    """Trains, evaluates, exports and verifies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--output", default="vowels", help="new directory (default: %(default)s)")
    options = parser.parse_args()
    if options.epochs < 1 or Path(options.output).exists():  # checked before training
        parser.error("expected --epochs of at least 1, and an --output that does not exist yet")

    keras.utils.set_random_seed(0)
    (x_train, y_train), (x_test, y_test) = load_japanese_vowels()
    model = VideoClassifier({"frames": 12}, num_classes=9, num_clusters=16, hidden_units=None, activation="softmax")
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, epochs=options.epochs)
    print(f"Test accuracy: {model.evaluate(x_test, y_test, verbose=0, return_dict=True)['accuracy']:.3f}")
    for report in export_model(model, options.output):
        print(report)


if __name__ == "__main__":
    main()
