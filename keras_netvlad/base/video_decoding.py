"""Decodes video files and samples their frames by time.

This file imports NumPy only; callers pass the module PyAV. It is copied next to the stand-alone `predict.py`, so that a
predictor reads exactly the frames that the features for training were made of.
"""

import contextlib
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Frame = TypeVar("Frame")

# Formats that refer to other files or render text as images. A video file of a user has none of these formats.
FOREIGN_FORMATS = ("concat", "dash", "hls", "imf", "lavfi", "sdp", "tty")
# Formats whose header states the duration. For other formats FFmpeg estimates it from the bit rate.
FORMATS_WITH_DURATION = ("matroska", "mov", "avi")
# Seconds by which a header may overstate a complete file, because its last packet may have no duration.
DURATION_SLACK = 1.0
# Seconds that a frame may stay on screen. A damaged time stamp would otherwise repeat a frame millions of times.
LONGEST_FRAME = 3600
# Lines from which a video that names no color matrix is read as BT.709, as browsers and players read it. FFmpeg reads
# all of them as BT.601.
HD_LINES = 720
UNSPECIFIED, BT709 = 2, 1  # color matrices, numbered by ITU-T H.273
CONVERTED_MATRICES = (0, BT709, UNSPECIFIED, 4, 5, 6, 7, 9)  # those that FFmpeg converts to RGB


class UnreadableVideoError(ValueError):
    """A file is not a complete video that FFmpeg decodes. The message names the file, the second and the byte."""


def frame_rate(fps: float) -> Fraction:
    """Returns a frame rate as the fraction that was meant: 29.97 for 30000 / 1001, for instance."""
    return Fraction(fps).limit_denominator(1001 * 1000)


def sample(
    timed_frames: Iterable[tuple[Frame, Fraction, Fraction]], fps: Fraction | None, max_seconds: float | None = None
) -> Iterator[Frame]:
    """Yields the frame that is on screen at each multiple of 1 / fps.

    Args:
        timed_frames: Iterable of `(frame, time, duration)`, at least one. Times are exact fractions of a second, and
            durations are above 0.
        fps: Frames per second, or `None` for every frame.
        max_seconds: Seconds from the first frame after which sampling ends, or `None` for the whole video. The rest is
            not decoded.

    Yields:
        Frames. A frame is repeated if it stays on screen for several multiples.
    """
    if fps is None:
        first = None
        for frame, time, _ in timed_frames:
            first = time if first is None else first
            if max_seconds is not None and time - first >= max_seconds:
                return
            yield frame
    elif max_seconds is None:
        yield from _sample(timed_frames, fps)
    else:
        most = min(math.ceil(Fraction(max_seconds) * fps), sys.maxsize)
        yield from itertools.islice(_sample(timed_frames, fps), most)


def _sample(timed_frames, fps):
    frames = iter(timed_frames)
    shown, start, duration = next(frames)
    number, end = 0, start + duration
    for frame, time, duration in frames:
        while number < (time - start) * fps:
            yield shown
            number += 1
        shown, end = frame, time + duration
    # The last frame stays for its duration.
    while number < (end - start) * fps:
        yield shown
        number += 1


def decode(av: ModuleType, path: Path) -> Iterator[tuple[Any, Fraction, Fraction]]:
    """Decodes the first video stream of a file.

    Args:
        av: The module PyAV.
        path: Path of the file.

    Yields:
        `(frame, time, duration)`: a frame of PyAV, its time stamp and its duration in seconds, in display order.

    Raises:
        UnreadableVideoError: If the file is not a complete video.
    """
    place = _Place(path)
    with contextlib.ExitStack() as closing, place.errors(av):
        # FFmpeg receives a file object instead of the path, so that the file cannot refer to other files.
        file = closing.enter_context(open(path, "rb"))
        # A title in another encoding is no reason to refuse a video. PyAV 19 has no such argument and needs none.
        options = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        container = closing.enter_context(av.open(file, **options))
        formats = container.format.name.split(",")
        if set(formats) & set(FOREIGN_FORMATS):
            raise place.error(f"a {container.format.name} file, which holds no frames")
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            kinds = sorted({stream.type for stream in container.streams}) or ["no streams"]
            raise place.error(f"a file without video ({', '.join(kinds)})")
        stream = streams[0]
        if stream.codec_context is None:
            raise place.error("a video that this FFmpeg has no decoder for")
        stream.thread_type = "AUTO"
        # FFmpeg would otherwise make up a damaged frame from its neighbors.
        stream.codec_context.options = {"err_detect": "explode"}
        last_packet_end = Fraction(0)
        place.time = None
        for packet in container.demux():
            if packet.pos is not None and packet.pos >= 0:
                place.byte = packet.pos
            if packet.is_corrupt:
                raise place.error("a damaged packet")
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * packet.time_base
                last_packet_end = max(last_packet_end, end)
            if packet.stream is not stream:
                continue
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise place.error("a damaged frame")
                if frame.colorspace not in CONVERTED_MATRICES:
                    raise place.error(f"color matrix {int(frame.colorspace)}, which FFmpeg does not convert")
                time, duration = _times(frame, stream, place)
                _check_times(time, duration, place)
                place.time, place.end = time, time + duration
                yield frame, time, duration
        if place.time is None:
            raise place.error("no frame that can be decoded")
        announced = Fraction(container.duration or 0, av.time_base)
        if "avi" in formats and stream.frames and stream.average_rate:
            announced = stream.frames / stream.average_rate  # FFmpeg fits the duration to the size of the file
        if set(formats) & set(FORMATS_WITH_DURATION) and last_packet_end < announced - DURATION_SLACK:
            place.byte = path.stat().st_size
            raise place.error(f"an end of the file before the announced {float(announced):.2f} s")
        if stream.duration and "mov" in formats:
            announced = stream.duration * stream.time_base
            began = (stream.start_time or 0) * stream.time_base
            if place.end - began < announced - max(2 * duration, Fraction(1, 5)):
                place.byte = path.stat().st_size
                raise place.error(f"an end of the video before the announced {float(announced):.2f} s")


class _Place:
    """The position up to which a file has been read, for messages."""

    def __init__(self, path):
        self.path, self.byte, self.time, self.end = path, 0, None, Fraction(0)

    def error(self, problem):
        when = "the first frame" if self.time is None else f"second {float(self.time):.2f}"
        return UnreadableVideoError(
            "A video must be a complete file that FFmpeg decodes; copy or convert it again. "
            f"Received: {problem}, in {self.path} at {when}, byte {self.byte}"
        )

    @contextlib.contextmanager
    def errors(self, av):
        """Turns errors of FFmpeg into one that names the position."""
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:  # PyAV passes on errors of the file object.
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise self.error(reason) from error


def _times(frame, stream, place):
    """Returns the time stamp and the duration of a frame in seconds; without time stamps, frames are evenly spaced."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    duration = Fraction(frame.duration) * frame.time_base if frame.duration else 1 / Fraction(rate)
    time = place.end if frame.pts is None else frame.pts * Fraction(frame.time_base)
    # Time stamps jump back in files that were cut. The frames keep their order.
    return (time if place.time is None else max(time, place.time)), duration


def _check_times(time, duration, place):
    """Raises if a frame comes too late after the frame before it, or stays too long on screen."""
    if place.time is not None and time - place.time > LONGEST_FRAME:
        raise place.error(f"a time stamp of {float(time):.2f} s, more than an hour after the frame before it")
    if duration > LONGEST_FRAME:
        place.time = time
        raise place.error(f"a frame that lasts {float(duration):.2f} s, more than an hour")


def color_matrix(frame: Any) -> int:
    """Returns the color matrix of a frame of PyAV, numbered by ITU-T H.273, also where the file names none."""
    if frame.colorspace == UNSPECIFIED and frame.height >= HD_LINES:
        return BT709
    return int(frame.colorspace)


def to_array(frame: Any, size: tuple[int, int] | None, crop: bool) -> NDArray[np.uint8]:
    """Converts a frame of PyAV to an upright RGB array.

    Args:
        frame: A `av.VideoFrame`.
        size: `(height, width)` of the array, or `None` for the size of the frame.
        crop: Boolean, whether to crop instead of stretching.

    Returns:
        `uint8` array `(height, width, 3)`.
    """
    turn = _turn(frame)
    height, width = frame.height, frame.width
    if size is not None:
        upright = (width, height) if turn[0] % 2 else (height, width)
        scaled = size
        if crop:
            scale = max(size[0] / upright[0], size[1] / upright[1])
            scaled = tuple(max(wanted, round(have * scale)) for wanted, have in zip(size, upright, strict=True))
        height, width = scaled[::-1] if turn[0] % 2 else scaled
    # Averaging over the area of a pixel keeps thin lines when frames shrink.
    shrinks = height <= frame.height and width <= frame.width
    image = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        interpolation="AREA" if shrinks else "BICUBIC",
        src_colorspace=color_matrix(frame),
    ).to_ndarray()
    quarters, is_mirrored = turn
    if is_mirrored:
        image = image[:, ::-1]
    image = np.rot90(image, quarters)
    if crop and size is not None:
        top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
        image = image[top : top + size[0], left : left + size[1]]
    return np.ascontiguousarray(image)


def _turn(frame):
    """Reads the display matrix: counterclockwise quarter turns, and whether the frame is mirrored first."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    # x' = a x + c y, y' = b x + d y, with y pointing down.
    a, b, _, c, d = np.frombuffer(bytes(matrix), "int32")[:5].astype(float)
    if a * d - b * c == 0:
        return 0, False
    is_mirrored = a * d - b * c < 0
    if is_mirrored:
        a, b = -a, -b
    return round(-math.atan2(b, a) / (math.pi / 2)) % 4, is_mirrored
