"""Pools a live stream: frames arrive one by one, and the descriptor so far is available at any time.

    python examples/live_stream.py [--epochs 30] [--seed 0]

A classifier is trained on utterances of nine speakers. Then the frames of a few test utterances arrive one after the
other, as from a microphone. `NetVLADStream` keeps two sums, whose size does not depend on the number of frames. After
each frame, the classifier names the speaker. After the last frame, the descriptor is that of the whole utterance.
"""

import argparse

import keras
import numpy as np

from keras_netvlad import NetVLADStream, VideoClassifier
from keras_netvlad.data import load_japanese_vowels


def frames_of(data, utterance):
    """Yields the real frames of an utterance one at a time, each `(1, 1, D)`."""
    for frame in data["frames"][utterance, : data["num_frames"][utterance]]:
        yield frame[None, None]


def listen(model, frames):
    """Pools frames one by one. Yields the descriptor so far `(1, K * D)` and the scores `(C,)` after each frame."""
    stream = NetVLADStream(model.get_layer("frames_netvlad"))
    classifier = model.get_layer("scores")
    for frame in frames:
        stream.update(frame)
        descriptor = stream.descriptor()
        yield descriptor, keras.ops.convert_to_numpy(classifier(descriptor))[0]


def main():
    """Trains, pools a few test utterances frame by frame, and compares with pooling them at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30, help="epochs of training (default: %(default)s)")
    parser.add_argument("--utterances", type=int, default=5, help="number of test utterances (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice and training (default: %(default)s)")
    options = parser.parse_args()
    if options.epochs < 1 or not 1 <= options.utterances <= 370 or options.seed < 0:
        parser.error("expected --epochs of at least 1, --utterances from 1 to 370, and --seed of at least 0")

    keras.utils.set_random_seed(options.seed)
    train, (x_test, y_test) = load_japanese_vowels()
    model = VideoClassifier({"frames": 12}, num_classes=9, num_clusters=16, hidden_units=None, activation="softmax")
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy")
    model.fit(*train, epochs=options.epochs, verbose=0)

    print("Who speaks, after each frame (one digit per frame):")
    chosen = np.random.default_rng(options.seed).choice(len(y_test), options.utterances, replace=False)
    largest = 0.0
    for utterance in chosen:
        answers = list(listen(model, frames_of(x_test, utterance)))
        heard = "".join(str(scores.argmax()) for _, scores in answers)
        print(f"  speaker {y_test[utterance]}: {heard:29}  score {answers[-1][1].max():.2f} at the end")
        whole = model.predict({name: values[[utterance]] for name, values in x_test.items()}, verbose=0)
        largest = max(largest, np.abs(whole["descriptor"] - answers[-1][0]).max())
    print(f"Largest difference to the descriptors of whole utterances: {largest:.1e}")


if __name__ == "__main__":
    main()
