"""`spot`: finds events in a long video."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.base.validation import check_integer, check_number


class Spot(NamedTuple):
    """A moment of a video at which a class was found.

    Attributes:
        time: Seconds from the first frame.
        label: Index of the class.
        score: Score of the class. A higher score is more certain.

    Example:

    >>> from keras_netvlad.videos import Spot
    >>> Spot(time=60.0, label=0, score=0.9).time
    60.0
    """

    time: float
    label: int
    score: float


def spot(
    score: Callable[[dict[str, NDArray]], ArrayLike],
    streams: Mapping[str, ArrayLike],
    fps: float,
    *,
    window_seconds: float,
    stride: int = 1,
    threshold: float = 0.5,
    distance_seconds: float = 15.0,
    batch_size: int = 64,
) -> list[Spot]:
    """Finds events in a long video: slides a classifier of short clips over it, and returns times and classes.

    The window moves `stride` frames at a time. The time of a window is that of its frame `T // 2`, where
    `TemporalPooling` separates before from after. At both ends of the video the window is filled with copies of the
    first and the last frame, so every frame can be the middle. Then, for each class, the best window is kept and all
    that are near it are dropped, until none is left (non-maximum suppression).

    A spotter is a `VideoClassifier` with one class for each kind of event and, if its scores add up to 1, another for
    everything else; drop that column in `score`.

    Args:
        score: Function from a dict of windows, each stream `(B, T, D)` and `num_frames` `(B,)`, to scores `(B, C)`.
            With a model: `lambda inputs: model.predict(inputs, verbose=0)["scores"]`.
        streams: Features of the whole video, a dict from the name of each stream to `(F, D)`. The streams of a model
            have the same frames.
        fps: Number, frames per second of the features.
        window_seconds: Number, length of the windows. Their number of frames `T` is `window_seconds * fps`, rounded.
            Take the length of the clips that the classifier was trained on.
        stride: Integer, number of frames from one window to the next.
        threshold: Number, the lowest score of a spot.
        distance_seconds: Number, the smallest distance of two spots of the same class. The default is that of the
            published code of NetVLAD++, whose window of suppression is 30 seconds, 15 at each side of a spot.
        batch_size: Integer, number of windows to score at once, which bounds the memory.

    Returns:
        List of `Spot(time, label, score)`, sorted by time.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.videos import spot
    >>> frames = np.zeros((200, 1))
    >>> frames[120] = 1.0
    >>> middle = lambda inputs: inputs["frames"][:, 2]  # in place of a model: the frame in the middle
    >>> spot(middle, {"frames": frames}, fps=2, window_seconds=2.0)
    [Spot(time=60.0, label=0, score=1.0)]

    Raises:
        ValueError: If an argument is out of range, if the streams differ in length or have no frames, or if `score`
            returns other shapes or NaN.

    Reference:
        - [Giancola et al. 2018](https://arxiv.org/abs/1804.04527) (spotting).
        - [Giancola & Ghanem 2021](https://arxiv.org/abs/2104.06779) (NetVLAD++).
    """
    fps = check_number("fps", fps, 0, exclusive=True)
    window_seconds = check_number("window_seconds", window_seconds, 0, exclusive=True)
    distance = check_number("distance_seconds", distance_seconds, 0)
    threshold = check_number("threshold", threshold)
    stride, batch_size = check_integer("stride", stride, 1), check_integer("batch_size", batch_size, 1)
    arrays = _check_streams(streams)
    num_frames = max(round(window_seconds * fps), 1)
    middles = np.arange(0, len(next(iter(arrays.values()))), stride)
    parts = [
        _scores(score, arrays, middles[start : start + batch_size], num_frames)
        for start in range(0, len(middles), batch_size)
    ]
    scores = np.concatenate(parts)  # (S, C)
    times = middles / fps
    spots = [
        Spot(float(times[index]), label, float(scores[index, label]))
        for label in range(scores.shape[1])
        for index in _suppressed(times, scores[:, label], threshold, distance)
    ]
    return sorted(spots)


def _check_streams(streams: Mapping[str, ArrayLike]) -> dict[str, NDArray]:
    if not isinstance(streams, Mapping) or not streams:
        raise ValueError(
            "`streams` must be a dict from the name of each stream to its features (frames, values). "
            f"Received: {type(streams).__name__}"
        )
    arrays = {name: np.asarray(values) for name, values in streams.items()}
    lengths = {len(values) if values.ndim == 2 else 0 for values in arrays.values()}
    if len(lengths) > 1 or 0 in lengths:
        shapes = {name: values.shape for name, values in arrays.items()}
        raise ValueError(
            f"`streams` must hold features (frames, values) of the same frames, at least one. Received: shapes {shapes}"
        )
    return arrays


def _scores(score, arrays, middles, num_frames):
    """Returns the scores `(B, C)` of the windows with these frames in the middle."""
    rows = middles[:, None] + np.arange(num_frames) - num_frames // 2  # (B, T)
    inputs = {name: values[np.clip(rows, 0, len(values) - 1)] for name, values in arrays.items()}
    scores = np.asarray(score({**inputs, NUM_FRAMES: np.full(len(rows), num_frames, "int32")}))
    if scores.ndim != 2 or len(scores) != len(rows):
        raise ValueError(
            f"`score` must return an array (windows, classes) for {len(rows)} windows. Received: shape {scores.shape}"
        )
    is_broken = np.isnan(scores).any(axis=1)
    if is_broken.any():
        raise ValueError(
            "`score` must return numbers; check the features. "
            f"Received: NaN in {is_broken.sum()} of {len(scores)} windows"
        )
    return scores


def _suppressed(times, scores, threshold, distance):
    """Returns the positions of scores that are the best of all that are nearer than a distance, the best first."""
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] < threshold:
            break
        if all(abs(times[index] - times[other]) >= distance for other in kept):
            kept.append(int(index))
    return kept
