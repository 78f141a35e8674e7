"""`compare_chunks`: compares videos that are sent chunk by chunk with the same videos in one request."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.export.serving_signatures import ACCUMULATE, DESCRIBE, frame_streams
from keras_netvlad.export.signature import SERVING_DEFAULT, Signature
from keras_netvlad.export.verification.comparison import Comparison
from keras_netvlad.export.verification.verification_inputs import Arrays, empty_sums

# Numbers of frames of the chunks. 0 stands for a chunk of one frame that is not real.
CUTS = {
    "in one chunk": (11,),
    "frame by frame": (1,) * 11,
    "in uneven chunks": (2, 6, 3),
    "with empty chunks": (0, 4, 0, 7, 0),
}
# Real frames of each video: all, some, none.
NUM_REAL = (11, 5, 0)


def compare_chunks(
    run: Callable[[Arrays, str], Arrays],
    signatures: Mapping[str, Signature],
    exact_signatures: Mapping[str, Signature],
    seed: int = 0,
    name: str = DESCRIBE,
) -> Iterator[Comparison]:
    """Cuts videos into chunks, sends them through `accumulate` and `describe`, and compares with `serving_default`.

    Args:
        run: Function that runs a signature of the artifact, or of the model if the artifact does not offer it.
        signatures: The model's signatures. Without `accumulate`, there is nothing to compare.
        exact_signatures: The signatures of the model's float64 copy. Empty if there is no copy.
        seed: Seed of the random frames.
        name: Name of the signature that the comparisons name.

    Yields:
        A `Comparison` for each cut and output.
    """
    if ACCUMULATE not in signatures:
        return
    default, accumulate = signatures[SERVING_DEFAULT], signatures[ACCUMULATE]
    generator = np.random.default_rng(seed)
    videos: Arrays = {}
    for port in frame_streams(default):
        values = generator.normal(size=(len(NUM_REAL), max(NUM_REAL), port.shape[2] or 0))
        # The frames change over time, so that the comparison finds a layer that reads other frames.
        values += np.linspace(-1, 1, max(NUM_REAL))[:, None]
        is_float = port.dtype.startswith("float")
        videos[port.name] = (values if is_float else np.clip(64 * values + 128, 0, 255)).astype(port.dtype)
    count_dtype = next(port.dtype for port in default.inputs if port.name == NUM_FRAMES)
    whole = {**videos, NUM_FRAMES: np.array(NUM_REAL, count_dtype)}
    expected = {output: np.asarray(value) for output, value in default.compute(whole).items()}
    exact: Arrays = {}
    if exact_signatures:
        floats = {stream: values.astype("float64") for stream, values in whole.items() if values.dtype.kind == "f"}
        outputs = exact_signatures[SERVING_DEFAULT].compute({**whole, **floats})
        exact = {output: np.asarray(value) for output, value in outputs.items()}
    for cut, lengths in CUTS.items():
        sums = empty_sums(accumulate, len(NUM_REAL))
        for chunk in cut_video(videos, NUM_REAL, lengths):
            sums = run({**chunk, NUM_FRAMES: chunk[NUM_FRAMES].astype(count_dtype), **sums}, ACCUMULATE)
        received = run(sums, DESCRIBE)
        case = f"videos of {list(NUM_REAL)} frames {cut}"
        for output, value in expected.items():
            yield Comparison.of(name, output, case, value, received[output], exact.get(output))


def cut_video(streams: Mapping[str, np.ndarray], num_frames: Sequence[int], lengths: Sequence[int]) -> Iterator[Arrays]:
    """Cuts a batch of videos into chunks of the given lengths.

    Args:
        streams: Dict from the name of each stream to frames `(B, T, ...)`.
        num_frames: Number of real frames of each video.
        lengths: Number of frames of each chunk. A chunk of 0 frames holds one frame that is not real, because servers
            take no empty tensors.

    Yields:
        Dict of each stream and `num_frames`, the number of real frames of each video in the chunk.
    """
    start = 0
    for length in lengths:
        # The last frame fills an empty chunk, because all frames may have been sent.
        part = slice(start, start + length) if length else slice(-1, None)
        chunk = {name: values[:, part] for name, values in streams.items()}
        yield {**chunk, NUM_FRAMES: np.clip(np.array(num_frames) - start, 0, length)}
        start += length
