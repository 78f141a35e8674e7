"""Video files as frames."""

import contextlib
import math
import numbers
from fractions import Fraction

import numpy as np

from keras_netvlad.base.validation import check_path

# Formats that stand for other files or make pictures of text: a file of a user's folder is none of them.
FOREIGN_FORMATS = ("concat", "dash", "hls", "imf", "lavfi", "sdp", "tty")
# Formats whose header says how long the file is; elsewhere the length is a guess from the bit rate.
FORMATS_WITH_DURATION = ("matroska", "mov", "avi")
# Seconds by which a header may overstate a whole file, whose last packet may have no duration.
DURATION_SLACK = 1.0


def read_video(path, fps=1, size=None, crop_to_aspect_ratio=False):
    """Reads the frames of a video file by time, one at a time.

    Frame `i` is what a viewer sees `i / fps` seconds after the first frame, whatever rate the file was recorded at,
    constant or not: a frame stays until the next one's time stamp. A rotation that the file asks for, as phones'
    files do, is applied. However long the video is, about one frame is in memory. A picture is a video of one frame.

    Needs PyAV, which brings FFmpeg's decoders: `pip install 'keras_netvlad[video]'`.

    Args:
        path: Path of a file of any format that FFmpeg reads: mp4, mkv, webm, avi, mpeg, gif, jpeg, ...
        fps: Number above 0, frames a second, such as 1, 29.97 or 0.1; or `None` for every frame of the file.
        size: `(height, width)` to scale frames to, or one integer for both; `None` leaves them as they are.
        crop_to_aspect_ratio: Boolean, whether to scale to cover `size` and cut what stands out, evenly on both sides,
            instead of stretching.

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
        TypeError: If `path` is no path.
        FileNotFoundError: If there is no such file.
        ValueError: On an argument that is none of the above; and, while frames are read, if the file holds no video,
            is none, is damaged, or ends before its time. The message names the file, the second and the byte. Frames
            from before that place have been given by then.
        ImportError: If PyAV is not installed.
    """
    return _read(*check_reading(path, fps, size, crop_to_aspect_ratio))


def _read(av, path, fps, size, crop):
    for frame in sample(decode(av, path), fps):
        yield to_array(frame, size, crop)


def sample(timed_frames, fps):
    """Picks the frame that is on screen at each multiple of 1 / fps; times are exact fractions."""
    if fps is None:
        for frame, _, _ in timed_frames:
            yield frame
        return
    number, shown, start, end = 0, None, None, None
    for frame, time, duration in timed_frames:
        start = time if start is None else start
        while shown is not None and number < (time - start) * fps:
            yield shown
            number += 1
        shown, end = frame, time + duration
    # The last frame stays for its duration; a picture, of no duration, is there at second 0.
    while number < (end - start) * fps or number == 0:
        yield shown
        number += 1


def decode(av, path):
    """Decodes a file's video; yields `(frame, time, duration)` in seconds, in the order of display."""
    place = _Place(path)
    with contextlib.ExitStack() as closing, place.errors(av):
        # A file object, not the path: nothing else on this machine can be reached through what the file says.
        file = closing.enter_context(open(path, "rb"))
        # Titles in another encoding are no reason to refuse a video. PyAV 19 has no such argument, and needs none.
        options = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        container = closing.enter_context(av.open(file, **options))
        formats = container.format.name.split(",")
        if set(formats) & set(FOREIGN_FORMATS):
            raise place.error(f"a {container.format.name} file, which holds no frames of its own")
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            kinds = sorted({stream.type for stream in container.streams}) or ["no streams"]
            raise place.error(f"a file without video ({', '.join(kinds)})")
        stream = streams[0]
        if stream.codec_context is None:
            raise place.error("a video that this FFmpeg has no decoder for")
        stream.thread_type = "AUTO"
        # What can't be decoded is an error, not a picture made up from its neighbours.
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
                time, duration = _times(frame, stream, place)
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
    """How far the reading of a file has come, for messages."""

    def __init__(self, path):
        self.path, self.byte, self.time, self.end = path, 0, None, Fraction(0)

    def error(self, what):
        when = "the first frame" if self.time is None else f"second {float(self.time):.2f}"
        return ValueError(
            "A video must be a whole file that FFmpeg decodes; copy or convert it again. "
            f"Received: {what}, in {self.path} at {when}, byte {self.byte}"
        )

    @contextlib.contextmanager
    def errors(self, av):
        """Turns FFmpeg's errors into one that says where."""
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:  # PyAV passes on what the file object raises
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise self.error(reason) from error


def _times(frame, stream, place):
    """Time stamp and duration of a frame in seconds; where the file has none, the frames are taken as even."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    duration = Fraction(frame.duration) * frame.time_base if frame.duration else 1 / Fraction(rate)
    time = place.end if frame.pts is None else frame.pts * Fraction(frame.time_base)
    # Time stamps that jump back, as in files that were cut, don't bring frames back.
    return (time if place.time is None else max(time, place.time)), duration


def to_array(frame, size, crop):
    """RGB, upright, of the size asked for."""
    turn = _turn(frame)
    height, width = frame.height, frame.width
    if size is not None:
        upright = (width, height) if turn[0] % 2 else (height, width)
        scaled = size
        if crop:
            scale = max(size[0] / upright[0], size[1] / upright[1])
            scaled = tuple(max(wanted, round(have * scale)) for wanted, have in zip(size, upright, strict=True))
        height, width = scaled[::-1] if turn[0] % 2 else scaled
    # Area averaging where frames shrink: what a pixel covers counts, and thin lines don't come and go.
    shrinks = height <= frame.height and width <= frame.width
    image = frame.reformat(
        width=width, height=height, format="rgb24", interpolation="AREA" if shrinks else "BICUBIC"
    ).to_ndarray()
    quarters, is_mirrored = turn
    if is_mirrored:
        image = image[:, ::-1]
    image = np.rot90(image, quarters)
    if crop:
        top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
        image = image[top : top + size[0], left : left + size[1]]
    return np.ascontiguousarray(image)


def _turn(frame):
    """Quarter turns against the clock, and whether the frame is mirrored before, of the file's display matrix."""
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


def check_reading(path, fps, size, crop_to_aspect_ratio):
    """PyAV, and the arguments of `read_video` as they are used; raises if one is wrong."""
    path = check_path("path", path)
    fps = check_fps(fps)
    size = _check_size(size)
    if not isinstance(crop_to_aspect_ratio, bool):
        raise ValueError(f"`crop_to_aspect_ratio` must be True or False. Received: {crop_to_aspect_ratio!r}")
    if crop_to_aspect_ratio and size is None:
        raise ValueError("`crop_to_aspect_ratio` needs a size to crop to; give `size`. Received: size=None")
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Reading videos needs PyAV, which is not installed. Install it with `pip install 'keras_netvlad[video]'`."
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"The video must be a file; check the path. Received: {path}, no file")
    return av, path, fps, size, crop_to_aspect_ratio


def check_fps(fps):
    """The rate as a fraction, or `None`; raises if it is neither."""
    if fps is None:
        return None
    if isinstance(fps, bool) or not isinstance(fps, numbers.Real) or not math.isfinite(fps) or fps <= 0:
        raise ValueError(f"`fps` must be a number above 0, or None for every frame. Received: fps={fps!r}")
    return Fraction(fps).limit_denominator(1001 * 1000)


def _check_size(size):
    if size is None:
        return None
    sides = (size, size) if isinstance(size, numbers.Integral) and not isinstance(size, bool) else size
    is_pair = isinstance(sides, (tuple, list)) and len(sides) == 2
    if not is_pair or not all(isinstance(s, numbers.Integral) and not isinstance(s, bool) and s > 0 for s in sides):
        raise ValueError(
            "`size` must be (height, width) in pixels, one integer for both, or None for the video's own. "
            f"Received: size={size!r}"
        )
    return tuple(int(side) for side in sides)
