"""`read_flow`: the motion between the frames of a video file, for two-stream models."""

import collections
import itertools
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from keras_netvlad.base.validation import check_integer, check_number
from keras_netvlad.base.video_decoding import UnreadableVideoError, decode, sample, to_array
from keras_netvlad.data.video import check_reading

# The byte of no motion, and the number of levels in each direction.
STILL, STEPS = 128, 127
MIN_SIDE = 16


def read_flow(
    path: str | os.PathLike[str],
    fps: float | None = 1,
    size: int | tuple[int, int] | None = None,
    crop_to_aspect_ratio: bool = False,
    stack: int = 10,
    bound: float = 20,
) -> Iterator[NDArray[np.uint8]]:
    """Reads the motion in a video file as stacks of optical flow.

    A two-stream model takes these stacks next to the frames of `read_video`. Stack `i` belongs to frame `i` of
    `read_video` with the same arguments. It holds `stack` consecutive motions, each from one frame of the file to the
    next, starting at that frame. Near the end of the video the stack holds the last `stack` motions; if the video has
    fewer, the rest is filled with no motion. The motion is Dense Inverse Search optical flow, measured in pixels of the
    scaled frames. About `stack` frames are in memory at a time.

    Needs PyAV and OpenCV: `pip install 'keras_netvlad[flow]'`.

    Args:
        path: Path of a video file, as for `read_video`.
        fps: Number of stacks per second, or `None` for one per frame of the file.
        size: `(height, width)` to scale frames to, one integer for both, or `None` for the size of the video. Frames
            must have at least 16 pixels in height and width.
        crop_to_aspect_ratio: Boolean, whether to crop to `size` instead of stretching, as for `read_video`.
        stack: Integer, number of motions in a stack, `L`.
        bound: Number of pixels per frame. Faster motion is clipped to it.

    Returns:
        An iterator over stacks, `uint8` arrays `(height, width, 2 * L)`. The channels are motion to the right, motion
        downwards, motion to the right in the next pair of frames, and so on. 128 is stillness; 1 and 255 are `bound`
        pixels to the left and right, or up and down.

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
    ...         moved = np.roll(picture, 2 * i, axis=1)  # to the right, two pixels per frame
    ...         file.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
    ...     file.mux(stream.encode())
    >>> stacks = list(read_flow(path, fps=2, stack=5))
    >>> len(stacks), stacks[0].shape, int(np.median(stacks[0][..., 0])) - 128, int(np.median(stacks[0][..., 1])) - 128
    (4, (96, 128, 10), 13, 0)

    Raises:
        TypeError: If `path` is not a path.
        FileNotFoundError: If the file does not exist.
        ValueError: If an argument is invalid. Also, while stacks are read, if the frames are too small or the file is
            not a complete video.
        ImportError: If PyAV or OpenCV is not installed.

    Reference:
        - [Simonyan & Zisserman 2014](https://arxiv.org/abs/1406.2199), section 3.1: optical flow stacking.
        - [Girdhar et al. 2017](https://arxiv.org/abs/1704.02895), section 3.3: a motion stream, pooled by NetVLAD.
        - [Kroeger et al. 2016](https://arxiv.org/abs/1603.03590): Dense Inverse Search.
    """
    av, path, rate, sides, crop = check_reading(path, fps, size, crop_to_aspect_ratio)
    stack = check_integer("stack", stack, 1)
    bound = check_number("bound", bound, 0, exclusive=True)
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "Optical flow needs OpenCV, which is not installed. Install it with `pip install 'keras_netvlad[flow]'`."
        ) from error
    return _read(av, cv2, path, rate, sides, crop, stack, bound)


def _read(av, cv2, path, fps, size, crop, stack, bound):
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def gray_frames():
        for number, (frame, time, duration) in enumerate(decode(av, path)):
            picture = to_array(frame, size, crop)
            if min(picture.shape[:2]) < MIN_SIDE:
                raise UnreadableVideoError(
                    f"Optical flow needs frames of at least {MIN_SIDE} pixels in height and width; give `size`. "
                    f"Received: {picture.shape[0]} x {picture.shape[1]}, in {path}"
                )
            yield (number, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)), time, duration

    motions = {}  # by the number of the first frame; neighboring stacks share them
    for window in sample(_windows(gray_frames(), stack + 1), fps):
        for (number, first), (_, second) in itertools.pairwise(window):
            if number not in motions:
                motions[number] = _to_bytes(estimator.calc(first, second, None), bound)
        motions = {number: motion for number, motion in motions.items() if number >= window[0][0]}
        still = np.full((*window[0][1].shape, 2 * (stack + 1 - len(window))), STILL, "uint8")
        yield np.concatenate([*(motions[number] for number, _ in window[:-1]), still], axis=-1)


def _windows(timed_frames, length):
    """Yields a window of `length` frames for each frame, which starts there or, near the end, ends with the video."""
    frames: collections.deque = collections.deque(maxlen=length)
    times: collections.deque = collections.deque()
    for frame, *time in timed_frames:
        frames.append(frame)
        times.append(time)
        if len(frames) == length:
            yield tuple(frames), *times.popleft()
    for time in times:
        yield tuple(frames), *time


def _to_bytes(motion, bound):
    return np.rint(np.clip(motion / bound, -1, 1) * STEPS + STILL).astype("uint8")
