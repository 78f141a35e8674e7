"""`FeatureExtractor`: decodes video files and computes the features of their frames at the same time."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_netvlad.base.video_decoding import UnreadableVideoError
from keras_netvlad.data import read_video
from keras_netvlad.videos.read_ahead import read_ahead


@dataclass
class _Batch:
    """Frames that are encoded together. They may belong to several videos.

    Attributes:
        frames: The frames, each `(size, size, 3)`.
        owners: For each frame, the number of its video.
        ended: Numbers of the videos that have no frames after this batch, each with its error or `None`.
    """

    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    ended: list[tuple[int, Exception | None]] = field(default_factory=list)


class FeatureExtractor:
    """Computes the frame features of video files. A thread decodes the next frames while the encoder computes.

    Args:
        encode: Function from frames `(B, size, size, 3)`, `uint8`, to features `(B, D)` or maps `(B, H, W, D)`.
        size: Integer, height and width of the frames, which are cropped to a square.
        fps: Number of frames per second, or `None` for every frame of a file.
        max_seconds: Seconds of each video to read, or `None` for all.
        batch_size: Integer, number of frames to encode at once. Frames of several short videos share a batch.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.videos.feature_extractor import FeatureExtractor
    >>> extractor = FeatureExtractor(lambda frames: frames.mean(axis=(1, 2)), size=32, fps=1)
    >>> list(extractor.extract([]))
    []
    """

    def __init__(
        self,
        encode: Callable[[NDArray[np.uint8]], NDArray[np.floating]],
        size: int,
        fps: float | None = 1,
        max_seconds: float | None = None,
        batch_size: int = 32,
    ) -> None:
        self.encode, self.size, self.fps = encode, size, fps
        self.max_seconds, self.batch_size = max_seconds, batch_size

    def extract(self, videos: Iterable[Path]) -> Iterator[tuple[int, NDArray[np.floating] | Exception]]:
        """Yields `(number, features)` for each video, in order.

        Args:
            videos: Paths of video files.

        Yields:
            The number of the video and its features, `(T, D)` or `(T, H, W, D)`; or, if it cannot be read, the error.
        """
        parts: defaultdict[int, list[NDArray[np.floating]]] = defaultdict(list)
        for batch in read_ahead(self._batches(videos)):
            if batch.frames:
                features = self.encode(np.stack(batch.frames))
                owners = np.array(batch.owners)
                for number in dict.fromkeys(batch.owners):
                    parts[number].append(features[owners == number])
            for number, error in batch.ended:
                found = parts.pop(number, [])
                yield number, error or np.concatenate(found)

    def _batches(self, videos: Iterable[Path]) -> Iterator[_Batch]:
        batch = _Batch()
        for number, video in enumerate(videos):
            error = None
            try:
                for frame in read_video(
                    video, self.fps, self.size, crop_to_aspect_ratio=True, max_seconds=self.max_seconds
                ):
                    batch.frames.append(frame)
                    batch.owners.append(number)
                    if len(batch.frames) == self.batch_size:
                        yield batch
                        batch = _Batch()
            except (UnreadableVideoError, OSError) as problem:
                error = problem
            batch.ended.append((number, error))
        yield batch
