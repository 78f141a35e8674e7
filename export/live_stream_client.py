"""Sends live videos to TensorFlow Serving, chunk by chunk. Needs only the standard library and NumPy.

    python live_stream_client.py http://127.0.0.1:8501/v1/models/NAME INPUTS.npz [--chunk 30] [--output OUTPUTS.npz]

The server keeps no state: `accumulate` adds a chunk of frames to sums that travel back and forth, and `describe` turns
the sums into the answer at any time. So a stream of any length takes constant memory at either end. INPUTS.npz plays
the stream: `frames` (batch, frames, features), or what the model's streams are named, and `num_frames` (batch,) where
videos end before others. Prints the best class after every chunk.
"""

import argparse
import re
import sys

import numpy as np
from tf_serving_client import NUM_FRAMES, predict, print_best, read_inputs, read_signature


class LiveStream:
    """Videos whose frames arrive over time.

    All requests go to the version that served the model at the start, because sums of different versions do not mix.

    Args:
        url: `http://host:port/v1/models/NAME`, with `/versions/N` or `/labels/LABEL` to start with that version.
        batch: Integer, number of videos in the batch.
        timeout: Seconds to wait for an answer.

    Attributes:
        url: URL of the version asked.
        streams: Names of the streams of frames.
        sums: Dict from name to array: the sums of all frames so far.

    Raises:
        OSError: If the server cannot be reached or refuses the request. The message contains the server's answer.
        ValueError: If the model has no signatures for live streams.
    """

    def __init__(self, url, batch=1, timeout=30):
        accumulate = read_signature(url, "accumulate", timeout)
        self.url = f"{re.sub('/(versions|labels)/[^/]*$', '', url)}/versions/{accumulate['version']}"
        self.timeout = timeout
        self.sums = {
            name: np.zeros([batch, *shape[1:]], dtype) for name, (shape, dtype) in accumulate["outputs"].items()
        }
        self.streams = sorted(set(accumulate["inputs"]) - set(self.sums) - {NUM_FRAMES})

    def update(self, chunk, num_frames=None):
        """Adds a chunk of each video.

        Args:
            chunk: Dict from the name of each stream to frames `(batch, frames, features)`.
            num_frames: Array `(batch,)`, real frames of each video in this chunk, not of the stream; by default all.
        """
        if set(chunk) != set(self.streams):
            raise ValueError(f"A chunk must hold the model's streams, {self.streams}. Received: {sorted(chunk)}")
        if num_frames is None:
            batch, frames = next(iter(chunk.values())).shape[:2]
            num_frames = np.full(batch, frames)
        self.sums = predict(
            self.url, {**chunk, NUM_FRAMES: np.asarray(num_frames), **self.sums}, "accumulate", self.timeout
        )

    def describe(self):
        """Returns a dict from output name to array: the model's answer to all frames so far."""
        return predict(self.url, self.sums, "describe", self.timeout)


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("inputs", help="an .npz file")
    parser.add_argument("--chunk", type=int, default=30, help="frames sent at once (default %(default)s)")
    parser.add_argument("--output", help="an .npz file to write, the answer to all frames")
    parser.add_argument("--timeout", type=float, default=30, help="seconds (default %(default)s)")
    options = parser.parse_args()
    if options.chunk < 1:
        parser.error(f"--chunk must be a positive integer. Received: {options.chunk}")
    try:
        videos = read_inputs(options.inputs)
        num_frames = videos.pop(NUM_FRAMES, None)
        if not videos or any(values.ndim != 3 for values in videos.values()):
            raise ValueError(f"The file must hold frames (batch, frames, features). Received: {sorted(videos)}")
        batch, frames = next(iter(videos.values())).shape[:2]
        num_frames = np.full(batch, frames) if num_frames is None else np.minimum(num_frames, frames)
        stream = LiveStream(options.url, batch, options.timeout)
        for start in range(0, frames, options.chunk):
            chunk = {name: values[:, start : start + options.chunk] for name, values in videos.items()}
            left = np.clip(num_frames - start, 0, next(iter(chunk.values())).shape[1])
            stream.update(chunk, left)
            print(f"after {min(start + options.chunk, frames)} frames")
            print_best(stream.describe(), top=1)
        if options.output:
            np.savez(options.output, **stream.describe())
    except (OSError, ValueError) as error:
        print(f"live_stream_client: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
