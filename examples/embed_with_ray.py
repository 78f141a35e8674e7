"""Computes descriptors of any number of videos with Ray Data: a pool of actors reads and writes Parquet.

    pip install 'keras_netvlad[ray]'
    python examples/embed_with_ray.py MODEL.onnx VIDEOS OUTPUT [--actors 2]

VIDEOS is a Parquet file or folder with the columns `id` and, for each stream of the model, the `uint8` frames of a
video as bytes. OUTPUT receives `id` and `descriptor`. Ray replaces an actor that dies and processes its videos again.
On a cluster, all machines need a shared file system or object store.
"""

import argparse
import sys
from pathlib import Path

import ray

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))  # on a cluster: runtime_env={"py_modules": [...]}
from embed import Embed


class Embedder:
    """An actor: Ray makes one object for many batches."""

    def __init__(self, embed):
        self.embed = embed

    def __call__(self, batch):
        """Adds descriptors to a batch of columns."""
        return {"id": batch["id"], "descriptor": self.embed(batch)}


def embed_videos(embed, source, target, num_actors=2, batch_size=64):
    """Reads videos, embeds them in `num_actors` processes, and writes descriptors."""
    videos = ray.data.read_parquet(str(source))
    described = videos.map_batches(
        Embedder,
        fn_constructor_args=(embed,),
        batch_size=batch_size,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=num_actors),
    )
    described.write_parquet(str(target))


def main():
    """Parses the command line and computes the descriptors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="ONNX file of `keras_netvlad.export.export_onnx`")
    parser.add_argument("videos", help="Parquet file or folder")
    parser.add_argument("output", help="folder for Parquet files")
    parser.add_argument("--actors", type=int, default=2, help="processes (default %(default)s)")
    options = parser.parse_args()
    embed_videos(Embed(options.model, num_threads=1), options.videos, options.output, options.actors)


if __name__ == "__main__":
    main()
