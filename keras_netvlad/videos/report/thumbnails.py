"""Small pictures of video frames, as data URIs."""

import base64
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from keras_netvlad.base.video_decoding import color_matrix
from keras_netvlad.videos.report.markup import Markup, element

WIDTH = 160
# Of a key frame every 10 seconds at 30 frames per second.
MOST_FRAMES_TO_DECODE = 300
# Quantizer of the JPEG encoder, from 2 (best) to 31: about 4 kB per picture.
QUANTIZER = 5


class Thumbnails:
    """Reads pictures of the videos in a folder, and counts the videos that it could not read.

    Args:
        folder: The folder, or `None` if there is none.

    Attributes:
        reason: Why there are no pictures at all, as a sentence; or `None`.
        unreadable: Ids of the videos that could not be read.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.unreadable: set[str] = set()
        self.reason = None
        if folder is None:
            self.reason = "The run does not name the folder of its videos."
        elif not folder.is_dir():
            self.reason = f"The folder of the videos does not exist: {folder}."
        else:
            try:
                import av  # noqa: F401
            except ImportError:
                self.reason = "PyAV is not installed; `pip install 'keras_netvlad[video]'` installs it."

    def pictures(self, name: str, times: Sequence[float]) -> list[Markup]:
        """Returns pictures of a video.

        Args:
            name: Path of the video, relative to the folder.
            times: Times of the frames in seconds after the first frame, from 0.

        Returns:
            An `img` element for each time; nothing if the video cannot be read.
        """
        if self.reason is not None or self.folder is None:
            return []
        place = PurePosixPath(name)
        path = self.folder / place
        if place.is_absolute() or ".." in place.parts or not path.is_file():
            self.unreadable.add(name)
            return []
        images = read_pictures(path, times)
        if not images:
            self.unreadable.add(name)
        return [
            element(
                "img",
                src=f"data:image/jpeg;base64,{base64.b64encode(image).decode()}",
                alt=f"Frame of {name} after {time:.3g} s",
            )
            for image, time in zip(images, times, strict=False)
        ]


def read_pictures(path: Path, times: Sequence[float]) -> list[bytes]:
    """Reads frames of a video as small JPEG images.

    Args:
        path: Path of the video.
        times: Times in seconds after the first frame. For a time after the end, the last frame is read.

    Returns:
        An image for each time; an empty list if FFmpeg cannot read the video.
    """
    import av

    try:
        # A file object instead of the path: FFmpeg must not follow references in the file to other files. A title in
        # another encoding is no reason to fail. PyAV 19 has no such argument and needs none.
        options: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        with open(path, "rb") as file, av.open(file, **options) as container:
            stream = container.streams.video[0]
            return [_jpeg(av, _frame_at(container, stream, time)) for time in times]
    except (av.error.FFmpegError, IndexError, OSError, ValueError, StopIteration):
        return []


def _frame_at(container: Any, stream: Any, time: float) -> Any:
    """Returns the frame that is on screen at a time after the first frame."""
    start = float((stream.start_time or 0) * stream.time_base)
    container.seek(int((start + time) / stream.time_base), stream=stream)
    frames = container.decode(stream)
    shown = next(frames)
    for _ in range(MOST_FRAMES_TO_DECODE):
        following = next(frames, None)
        if following is None or following.time is None or following.time > start + time + 1e-6:
            break
        shown = following
    return shown


def _jpeg(av, frame):
    """Encodes a frame, scaled to the width of a thumbnail and turned upright."""
    quarters = round(frame.rotation / 90) % 4
    side = frame.height if quarters % 2 else frame.width
    scale = WIDTH / side
    # The encoder stores colors for pairs of pixels.
    width, height = (max(2, 2 * round(length * scale / 2)) for length in (frame.width, frame.height))
    picture = frame.reformat(
        width=width, height=height, format="rgb24", interpolation="AREA", src_colorspace=color_matrix(frame)
    )
    if quarters:
        turned = np.ascontiguousarray(np.rot90(picture.to_ndarray(), quarters))
        picture = av.VideoFrame.from_ndarray(turned, format="rgb24")
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = picture.width, picture.height, "yuvj420p"
    encoder.time_base = Fraction(1)
    encoder.qmin = encoder.qmax = QUANTIZER
    encoded = picture.reformat(format="yuvj420p")
    encoded.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(encoded), *encoder.encode(None)])
