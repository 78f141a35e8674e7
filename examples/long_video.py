"""Pools an hour of video features chunk by chunk, in constant memory.

    python examples/long_video.py --minutes 60

An hour of video at 25 frames per second has 90 000 frames; with 1024 features per frame, this is 369 MB in float32.
`NetVLADStream` pools it with one chunk in memory at a time. After each chunk the descriptor so far is available.
"""

import argparse
import sys
import time

import keras
import numpy as np

from keras_netvlad import NetVLAD
from keras_netvlad.stream import NetVLADStream

FRAMES_PER_SECOND = 25
SCENE = 250  # frames


def read_chunks(num_frames, feature_size, chunk_size):
    """Yields the features of a synthetic video of ten-second scenes, `(1, T, D)` with `T` up to `chunk_size`."""
    for start in range(0, num_frames, chunk_size):
        frames = np.empty((1, min(chunk_size, num_frames - start), feature_size), "float32")
        for offset in range(frames.shape[1]):
            scene, position = divmod(start + offset, SCENE)
            if position == 0 or offset == 0:
                look = np.random.default_rng((0, scene)).standard_normal(feature_size, "float32")
            frames[0, offset] = look
        frames += 0.5 * np.random.default_rng((1, start)).standard_normal(frames.shape, "float32")
        yield frames


def peak_memory():
    """Returns the peak memory of this process in MB, or NaN if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def main(arguments=None):
    """Pools the video, prints time and memory, and returns the difference to pooling the first frames at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the video (default: %(default)s)")
    parser.add_argument("--features", type=int, default=1024, help="features per frame (default: %(default)s)")
    parser.add_argument("--clusters", type=int, default=64, help="clusters of NetVLAD (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=1024, help="frames held at a time (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        if not 0 < value < float("inf"):
            parser.error(f"--{name} must be above 0. Received: {value}")
    num_frames = max(1, round(options.minutes * 60 * FRAMES_PER_SECOND))

    layer = NetVLAD(options.clusters)
    stream = NetVLADStream(layer)
    # Two chunks for warming up, so that memory that the backend allocates once is not counted.
    for frames in read_chunks(min(num_frames, 2 * options.chunk), options.features, options.chunk):
        stream.update(frames)
        stream.descriptor()
    stream.reset()

    before, start = peak_memory(), time.perf_counter()
    for frames in read_chunks(num_frames, options.features, options.chunk):
        stream.update(frames)
    descriptor = stream.descriptor()
    seconds, growth = time.perf_counter() - start, peak_memory() - before
    megabytes = num_frames * options.features * 4 / 1e6
    print(f"{num_frames} frames ({options.minutes:g} min, {megabytes:.0f} MB) pooled to {descriptor.shape[1]} numbers")
    print(f"time {seconds:.1f} s, {num_frames / seconds:.0f} frames per second; peak memory grew by {growth:.1f} MB")

    num_prefix = min(num_frames, 5 * options.chunk)
    prefix = list(read_chunks(num_prefix, options.features, options.chunk))
    stream.reset()
    for frames in prefix:
        stream.update(frames)
    at_once = keras.ops.convert_to_numpy(layer(np.concatenate(prefix, axis=1)))
    difference = float(np.abs(stream.descriptor() - at_once).max())
    relative = difference / np.abs(at_once).max()
    print(f"largest difference between chunks and all at once, first {num_prefix} frames: {relative:.1e} (relative)")
    return relative


if __name__ == "__main__":
    main()
