"""`draw`: random values for the inputs of a model."""

from typing import NamedTuple

import numpy as np

from keras_netvlad.base.quantization import LEVELS
from keras_netvlad.export.port import Port


class Size(NamedTuple):
    """Sizes of one batch.

    Attributes:
        batch: Number of videos.
        frames: Length of each video.
        num_frames: Number of real frames of each video.
        extents: Sizes of unknown axes other than batch and frames: height and width.
        is_unit: Whether floats are drawn from 0 to 1 instead of a normal distribution.
    """

    batch: int
    frames: int
    num_frames: tuple[int, ...]
    extents: tuple[int, int] = (8, 8)
    is_unit: bool = False


def draw(generator: np.random.Generator, port: Port, size: Size) -> np.ndarray:
    """Returns random values for an input.

    Floats are normal. An input with one float for each frame holds weights from 0 to 1, of which some are 0.

    Args:
        generator: The source of the values.
        port: The input.
        size: Size of the batch, for the unknown axes.
    """
    shape = [axis if axis is not None else size.batch for axis in port.shape[:1]]
    shape += [axis if axis is not None else size.frames for axis in port.shape[1:2] if port.has_frames]
    free = iter(size.extents * len(port.shape))
    shape += [axis if axis is not None else next(free) for axis in other_sizes(port)]
    if "int" in port.dtype:
        return generator.integers(0, LEVELS if port.dtype == "uint8" else 2, shape).astype(port.dtype)
    if port.dtype == "string":
        return generator.choice(np.array([b"0", b"1", b"two"], object), shape)
    if port.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if len(shape) == 2 and port.has_frames and port.shape[1] is None:
        weights = generator.uniform(size=shape)
        weights[:, 1::4] = 0
        return weights.astype(port.dtype)
    return (generator.uniform(size=shape) if size.is_unit else generator.normal(size=shape)).astype(port.dtype)


def other_sizes(port: Port) -> tuple[int | None, ...]:
    """Returns the sizes of the axes other than batch and frames."""
    return port.shape[2 if port.has_frames else 1 :]
