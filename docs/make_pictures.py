"""Draws NetVLAD, and the pictures of docs/pictures.md from packaged speech frames and a photograph of scikit-learn's.

python docs/make_pictures.py [--output docs/pictures] [--epochs 30]
"""

import argparse
import io
from pathlib import Path

import keras
import numpy as np
from draw_netvlad import draw_netvlad
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_netvlad import NetVLAD, VideoClassifier
from keras_netvlad.data import load_japanese_vowels
from keras_netvlad.plot import plot_assignment_maps, plot_assignments, plot_cluster_usage, plot_similarity


def patches(image, size=16):
    """Mean and spread of the colors of each patch, a map `(1, H, W, 6)`."""
    rows, columns = image.shape[0] // size, image.shape[1] // size
    tiles = image[: rows * size, : columns * size].reshape(rows, size, columns, size, 3) / 255.0
    return np.concatenate([tiles.mean(axis=(1, 3)), tiles.std(axis=(1, 3))], axis=-1)[None].astype("float32")


def real_frames(inputs):
    """Returns the mask `(B, T)` of the frames that are not padding."""
    return np.arange(inputs["frames"].shape[1]) < inputs["num_frames"][:, None]


def main():
    """Trains on Japanese Vowels, draws five pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=str(Path(__file__).parent / "pictures"), help="directory to write to")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of training (default: %(default)s)")
    options = parser.parse_args()
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)

    keras.utils.set_random_seed(0)
    (x_train, y_train), (x_test, y_test) = load_japanese_vowels()
    model = VideoClassifier({"frames": 12}, num_classes=9, num_clusters=16, hidden_units=None, activation="softmax")
    layer = model.get_layer("frames_netvlad")
    # Clusters that start where the features are share few frames: the pictures show which cluster takes which frame.
    layer.adapt(x_train["frames"], mask=real_frames(x_train), seed=0, verbose=0)
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy")
    model.fit(x_train, y_train, epochs=options.epochs, verbose=0)

    mask = real_frames(x_test)
    assignments = np.asarray(layer.assign(x_test["frames"], mask=mask))
    utterance = int(x_test["num_frames"].argmax())
    # Ten of each speaker: 90 rows can be told apart.
    chosen = np.concatenate([np.flatnonzero(y_test == speaker)[:10] for speaker in range(9)])
    descriptors = model.predict(x_test, verbose=0)["descriptor"][chosen]
    count = int(x_test["num_frames"][utterance])
    photograph = load_sample_image("china.jpg")  # of scikit-learn: CC BY 2.0, (427, 640, 3)
    maps = patches(photograph)
    places = NetVLAD(8)
    places.adapt(maps, seed=0, verbose=0)
    pictures = {
        "netvlad": draw_netvlad(),
        "assignments": plot_assignments(
            assignments[utterance],
            f"The longest test utterance, of speaker {y_test[utterance]}",
            num_frames=count,
            seconds_per_frame=0.0064,
        ),
        "usage": plot_cluster_usage(assignments, "Use of the clusters on 370 test utterances"),
        "similarity": plot_similarity(
            descriptors, [f"speaker {label}" for label in y_test[chosen]], "Descriptors of 90 test utterances"
        ),
        "maps": plot_assignment_maps(
            np.asarray(places.assign(maps))[0],
            photograph,
            "Where colors and textures of a photograph are assigned",
            map_shape=maps.shape[1:3],
            max_clusters=5,
            num_columns=3,
        ),
    }
    for name, figure in pictures.items():
        with io.BytesIO() as buffer:
            figure.savefig(buffer, dpi=120 if name == "netvlad" else 80)
            # 256 colors: a third of the bytes.
            Image.open(buffer).convert("RGB").quantize(256).save(output / f"{name}.png", optimize=True)
        print(output / f"{name}.png")


if __name__ == "__main__":
    main()
