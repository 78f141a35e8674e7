"""`read_video`: the frames of a video file."""

import numbers
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from keras_netvlad.base.validation import check_boolean, check_number, check_path
from keras_netvlad.base.video_decoding import decode, frame_rate, sample, to_array


def read_video(
    path: str | os.PathLike[str],
    fps: float | None = 1,
    size: int | tuple[int, int] | None = None,
    crop_to_aspect_ratio: bool = False,
    max_seconds: float | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Reads the frames of a video file, sampled by time.

    Frame `i` is the frame that a player shows `i / fps` seconds after the first frame. This holds for files with a
    constant and with a variable frame rate. A frame may stay on screen for up to an hour. The rotation that phones
    store in a file is applied. Only about one frame is in memory at a time, however long the video is. An image file is
    a video of one frame.

    Needs PyAV, which includes FFmpeg's decoders: `pip install 'keras_netvlad[video]'`.

    Args:
        path: Path of a file in any format that FFmpeg reads: mp4, mkv, webm, avi, mpeg, gif, jpeg, ...
        fps: Number of frames per second, above 0, such as 1, 29.97 or 0.1; or `None` for every frame of the file.
        size: `(height, width)` to scale frames to, one integer for both, or `None` for the size of the video.
        crop_to_aspect_ratio: Boolean. `False` stretches frames to `size`. `True` keeps the aspect ratio: it scales
            frames to cover `size` and crops them around the center.
        max_seconds: Number of seconds above 0 to read from the beginning, or `None` for the whole file.

    Returns:
        An iterator over the frames, `uint8` arrays `(height, width, 3)` of RGB.

    Example:

    >>> import os, tempfile
    >>> import av, numpy as np
    >>> from keras_netvlad.data import read_video
    >>> path = os.path.join(tempfile.mkdtemp(), "three_seconds.mp4")
    >>> with av.open(path, "w") as file:
    ...     stream = file.add_stream("mpeg4", rate=10)
    ...     stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    ...     for i in range(30):
    ...         picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * i, "uint8"), format="rgb24")
    ...         file.mux(stream.encode(picture))
    ...     file.mux(stream.encode())
    >>> frames = list(read_video(path, fps=2, size=(24, 32)))
    >>> len(frames), frames[0].shape, frames[0].dtype.name
    (6, (24, 32, 3), 'uint8')

    Raises:
        TypeError: If `path` is not a path.
        FileNotFoundError: If the file does not exist.
        ValueError: If an argument is invalid. Also, while frames are read, if the file holds no video, is not a video,
            is damaged, is cut off, or has a time stamp more than an hour after that of the frame before. The message
            names the file, the second and the byte. The iterator yields all frames before that position first.
        ImportError: If PyAV is not installed.
    """
    return _read(*check_reading(path, fps, size, crop_to_aspect_ratio), check_seconds(max_seconds))


def _read(av, path, fps, size, crop, max_seconds):
    for frame in sample(decode(av, path), fps, max_seconds):
        yield to_array(frame, size, crop)


def check_reading(
    path: str | os.PathLike[str], fps: float | None, size: int | tuple[int, int] | None, crop_to_aspect_ratio: bool
) -> tuple[ModuleType, Path, Fraction | None, tuple[int, int] | None, bool]:
    """Checks the arguments of `read_video`.

    Returns:
        The module PyAV, and the arguments in the form in which `decode`, `sample` and `to_array` take them.
    """
    path = check_path("path", path)
    rate = check_fps(fps)
    sides = _check_size(size)
    check_boolean("crop_to_aspect_ratio", crop_to_aspect_ratio)
    if crop_to_aspect_ratio and sides is None:
        raise ValueError("`crop_to_aspect_ratio` needs a size to crop to; give `size`. Received: size=None")
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Reading videos needs PyAV, which is not installed. Install it with `pip install 'keras_netvlad[video]'`."
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"The video must be a file; check the path. Received: {path}, which is not a file")
    return av, path, rate, sides, crop_to_aspect_ratio


def check_fps(fps: float | None) -> Fraction | None:
    """Returns the frame rate as a fraction, or `None`; raises `ValueError` if it is not a number above 0."""
    if fps is None:
        return None
    check_number("fps", fps, 0, exclusive=True, alternative="None for every frame")
    if not frame_rate(fps):
        raise ValueError(f"`fps` must be at least 1e-6. Received: {fps}")
    return frame_rate(fps)


def check_seconds(max_seconds: float | None) -> float | None:
    """Returns the seconds to read, or `None`; raises `ValueError` if they are not a number above 0."""
    if max_seconds is None:
        return None
    return check_number("max_seconds", max_seconds, 0, exclusive=True, alternative="None for the whole video")


def _check_size(size):
    if size is None:
        return None
    sides = (size, size) if isinstance(size, numbers.Integral) else size
    is_pair = isinstance(sides, (tuple, list)) and len(sides) == 2
    if not is_pair or any(isinstance(s, bool) or not isinstance(s, numbers.Integral) or s < 1 for s in sides):
        raise ValueError(
            "`size` must be (height, width) in pixels, one integer for both, or None for the size of the video. "
            f"Received: size={size!r}"
        )
    return tuple(int(side) for side in sides)
