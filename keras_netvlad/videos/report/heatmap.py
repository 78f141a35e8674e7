"""Heat maps as small PNG images, which page and phone stretch, on a background of any color."""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import ArrayLike

from keras_netvlad.videos.report.markup import Markup, element

# A blue that is readable on white and on black. The value of a cell is its opacity.
COLOR = (47, 128, 237)
LEVELS = 64


def heat_map(values: ArrayLike, description: str) -> Markup:
    """Draws a matrix as an image with one pixel per value, which style sheets stretch.

    Args:
        values: `(rows, columns)` from 0, transparent, to 1.
        description: Text that describes the image to readers who do not see it.

    Returns:
        An `img` element.
    """
    return element("img", src=png_uri(values), alt=description, class_="map")


def png_uri(values: ArrayLike) -> str:
    """Returns a matrix as a data URI of a PNG image with a palette of opacities.

    Example:

    >>> png_uri([[0.0, 1.0]])[:22]
    'data:image/png;base64,'
    """
    levels = np.rint(np.clip(np.asarray(values, "float64"), 0, 1) * (LEVELS - 1)).astype("uint8")
    height, width = levels.shape
    # Each row begins with the number of its filter, 0 for none.
    rows = np.pad(levels, ((0, 0), (1, 0))).tobytes()
    opacities = np.rint(np.linspace(0, 255, LEVELS)).astype("uint8").tobytes()
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(COLOR) * LEVELS),
        (b"tRNS", opacities),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    content = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
