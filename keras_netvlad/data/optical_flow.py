"""Motion between the frames of a video file, for models of two streams."""

import collections
import itertools
import numbers

import numpy as np

from keras_netvlad.data.video import check_reading, decode, sample, to_array

STILL, STEPS = 128, 127


def read_flow(path, fps=1, size=None, crop_to_aspect_ratio=False, stack=10, bound=20):
    """Reads the motion in a video file as stacks of optical flow, one at a time.

    Stack `i` belongs to frame `i` of `read_video` with the same arguments: it holds the motion from that frame of the
    file to the next, and so on, `stack` times. At the end of the video it is the last `stack` motions; a video of fewer
    has stillness behind them. Motion is Dense Inverse Search's optical flow, in pixels of the frames as scaled. About
    `stack` frames are in memory.

    Needs PyAV and OpenCV: `pip install 'keras_netvlad[flow]'`.

    Args:
        path, fps, size, crop_to_aspect_ratio: As of `read_video`. Frames have at least 16 pixels in height and width.
        stack: Integer, motions in a stack, `L`.
        bound: Number, pixels of motion from one frame to the next that are kept; what is faster counts as that.

    Returns:
        An iterator over stacks, `uint8` arrays `(height, width, 2 * L)`: to the right, downwards, to the right of the
        next, ... 128 is stillness, 1 and 255 are `bound` pixels.

    Example:

    >>> import os, tempfile
    >>> import av, numpy as np
    >>> from keras_netvlad.data import read_flow
    >>> path = os.path.join(tempfile.mkdtemp(), "two_seconds.mp4")
    >>> picture = np.random.default_rng(0).integers(0, 256, (12, 16, 3), "uint8").repeat(8, 0).repeat(8, 1)
    >>> with av.open(path, "w") as file:
    ...     stream = file.add_stream("mpeg4", rate=10)
    ...     stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
    ...     for i in range(20):
    ...         moved = np.roll(picture, 2 * i, axis=1)  # to the right, two pixels a frame
    ...         file.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
    ...     file.mux(stream.encode())
    >>> stacks = list(read_flow(path, fps=2, stack=5))
    >>> len(stacks), stacks[0].shape, int(np.median(stacks[0][..., 0])) - 128, int(np.median(stacks[0][..., 1])) - 128
    (4, (96, 128, 10), 13, 0)

    Raises:
        TypeError, FileNotFoundError, ValueError: As `read_video`; and on `stack` or `bound` that are none of the above,
            or smaller frames.
        ImportError: If PyAV or OpenCV is not installed.

    Reference:
        - [Simonyan & Zisserman 2014](https://arxiv.org/abs/1406.2199), section 3.1: optical flow stacking.
        - [Girdhar et al. 2017](https://arxiv.org/abs/1704.02895), section 3.3: a motion stream, pooled by NetVLAD.
        - [Kroeger et al. 2016](https://arxiv.org/abs/1603.03590): Dense Inverse Search.
    """
    av, *reading = check_reading(path, fps, size, crop_to_aspect_ratio)
    if isinstance(stack, bool) or not isinstance(stack, numbers.Integral) or stack < 1:
        raise ValueError(f"`stack` must be an integer of at least 1. Received: stack={stack!r}")
    if isinstance(bound, bool) or not isinstance(bound, numbers.Real) or not 0 < bound < float("inf"):
        raise ValueError(f"`bound` must be a number of pixels above 0. Received: bound={bound!r}")
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "Optical flow needs OpenCV, which is not installed. Install it with `pip install 'keras_netvlad[flow]'`."
        ) from error
    return _read(av, cv2, *reading, int(stack), float(bound))


def _read(av, cv2, path, fps, size, crop, stack, bound):
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def grey_frames():
        for number, (frame, time, duration) in enumerate(decode(av, path)):
            picture = to_array(frame, size, crop)
            if min(picture.shape[:2]) < 16:
                raise ValueError(
                    "Optical flow needs frames of at least 16 pixels in height and width; give `size`. "
                    f"Received: {picture.shape[0]} x {picture.shape[1]}, in {path}"
                )
            yield (number, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)), time, duration

    motions = {}  # by the number of the first frame: neighbouring stacks share them
    for window in sample(_windows(grey_frames(), stack + 1), fps):
        for (number, first), (_, second) in itertools.pairwise(window):
            if number not in motions:
                motions[number] = _to_bytes(estimator.calc(first, second, None), bound)
        motions = {number: motion for number, motion in motions.items() if number >= window[0][0]}
        still = np.full((*window[0][1].shape, 2 * (stack + 1 - len(window))), STILL, "uint8")
        yield np.concatenate([*(motions[number] for number, _ in window[:-1]), still], axis=-1)


def _windows(timed_frames, length):
    """Each frame with those after it, `length` in all; at the end of the video its last ones. Times are the frame's."""
    frames, times = collections.deque(maxlen=length), collections.deque()
    for frame, *time in timed_frames:
        frames.append(frame)
        times.append(time)
        if len(frames) == length:
            yield tuple(frames), *times.popleft()
    for time in times:
        yield tuple(frames), *time


def _to_bytes(motion, bound):
    return np.rint(np.clip(motion / bound, -1, 1) * STEPS + STILL).astype("uint8")
