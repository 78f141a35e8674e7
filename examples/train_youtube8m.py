"""Runs the YouTube-8M recipe, from records to a served artifact, on a small set of real speech frames.

python examples/train_youtube8m.py [--epochs 20] [--output youtube8m]

Writes the Japanese vowels as YouTube-8M's frame-level records, trains a published model on them and publishes it. For
YouTube-8M itself, call `train` with its files and without the sizes given here. If the program is killed, start it
again: training resumes.
"""

import argparse
from pathlib import Path

from keras_netvlad.data import load_japanese_vowels, write_youtube8m, youtube8m
from keras_netvlad.metrics import GlobalAveragePrecision
from keras_netvlad.models import load_model
from keras_netvlad.training import train


def main():
    """Writes records, trains, publishes, and computes the GAP of the saved model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("youtube8m"), help="default: %(default)s")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1. Received: {options.epochs}")

    for name, (inputs, speakers) in zip(("train", "validate"), load_japanese_vowels(), strict=True):
        path = options.output / "records" / f"{name}0000.tfrecord"
        if not path.exists():
            videos = (
                {"id": f"{name} {n}", "labels": [speaker], "frames": inputs["frames"][n, : inputs["num_frames"][n]]}
                for n, speaker in enumerate(speakers)
            )
            print(f"{path}: {write_youtube8m(path, videos)} utterances")

    report = train(
        options.output / "records" / "train*.tfrecord",
        options.output / "run",
        preset="gated_netvlad",
        validation_files=options.output / "records" / "validate*.tfrecord",
        num_classes=9,
        feature_sizes={"frames": 12},
        # The preset averages the statistics of thousands of batches. Here an epoch has nine.
        overrides={"num_clusters": 16, "hidden_units": 32, "batch_normalization_momentum": 0.9},
        epochs=options.epochs,
        batch_size=30,
        learning_rate=0.005,
        ema_momentum=0.9,
        patience=10,
    )
    print(report)

    # The saved model takes floats. This variant takes the bytes of the records.
    model = load_model(options.output / "run" / "model.keras").with_input_dtype("uint8")
    model.compile(metrics={"scores": [GlobalAveragePrecision()]})
    records = options.output / "records" / "validate*.tfrecord"
    scores = model.evaluate(
        youtube8m(records, 100, num_classes=9, feature_sizes={"frames": 12}), verbose=0, return_dict=True
    )
    print(f"GAP of the saved model: {next(value for name, value in scores.items() if 'gap' in name):.3f}")


if __name__ == "__main__":
    main()
