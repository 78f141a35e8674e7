"""`FeatureExtractor`: a backbone of `keras.applications` that turns a video file into frame features."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import keras
import numpy as np
from numpy.typing import NDArray

from keras_netvlad.data import read_video
from keras_netvlad.layers import FrameEncoder
from keras_netvlad.models.declared_weights import check_declared_weights
from keras_netvlad.videos.read_ahead import read_ahead


class BackboneError(ValueError):
    """The backbone, its weights and the image size do not make a model."""


class FeatureExtractor:
    """Computes the frame features of video files. A thread decodes while the backbone computes.

    Args:
        backbone: Name of a model of `keras.applications`.
        weights: `"imagenet"`, the path of a weights file of the backbone without its top, or `None` for random weights.
        size: Integer, height and width of the images, cropped to a square.
        pooling: `"avg"` or `"max"` for one vector per frame; `None` for the backbone's last feature maps.
        fps: Number of frames per second, or `None` for every frame of a file.
        batch_size: Integer, number of frames that the backbone computes at once.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.videos.feature_extractor import FeatureExtractor
    >>> extractor = FeatureExtractor("MobileNet", weights=None, size=32, pooling="avg", fps=1, batch_size=8)
    >>> extractor.encode(np.zeros((3, 32, 32, 3), "uint8")).shape
    (3, 1024)

    Raises:
        BackboneError: If Keras cannot make the backbone from these arguments.
    """

    def __init__(
        self,
        backbone: str,
        weights: str | os.PathLike[str] | None,
        size: int,
        pooling: Literal["avg", "max"] | None,
        fps: float | None,
        batch_size: int,
    ) -> None:
        self.size, self.fps, self.batch_size = size, fps, batch_size
        try:
            if weights not in (None, "imagenet"):
                check_declared_weights(weights)
            model = getattr(keras.applications, backbone)(
                input_shape=(size, size, 3), include_top=False, weights=weights, pooling=pooling
            )
        except Exception as error:  # Keras raises ValueError, OSError, and plain Exception where there is no network.
            raise BackboneError(
                f"`backbone`, `weights` and `size` must make a model. Received: backbone={backbone!r}, "
                f"weights={weights!r}, size={size}. Reason: {error}"
            ) from error
        images = keras.Input((None, size, size, 3), dtype="uint8")
        self.model = keras.Model(images, FrameEncoder(model, backbone)(images))

    def extract(self, video: Path) -> NDArray[np.floating]:
        """Returns the features of a video: vectors `(T, D)`, or maps `(T, H, W, D)`."""
        return np.concatenate([self.encode(batch) for batch in read_ahead(self.read_batches(video))])

    def read_batches(self, video: Path) -> Iterator[NDArray[np.uint8]]:
        """Yields the frames of a video, `(T, size, size, 3)` with `T` up to `batch_size`."""
        batch = []
        for frame in read_video(video, self.fps, self.size, crop_to_aspect_ratio=True):
            batch.append(frame)
            if len(batch) == self.batch_size:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)

    def encode(self, frames: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Returns the features of up to `batch_size` frames."""
        # Black frames fill the batch up to a power of two: there are few shapes to compile, and a short video stays
        # cheap.
        length = min(self.batch_size, 1 << (len(frames) - 1).bit_length())
        padded = np.zeros((1, length, *frames.shape[1:]), "uint8")
        padded[0, : len(frames)] = frames
        return self.model.predict_on_batch(padded)[0, : len(frames)]
