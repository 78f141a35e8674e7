"""`EncoderFile`: the exported picture encoder of a folder of features, run by onnxruntime."""

import math
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# The names of the input and the output.
IMAGES, FEATURES = "images", "features"


class EncoderFile:
    """Computes features of pictures with an encoder that `write_encoder` exported. Needs neither Keras nor TensorFlow.

    Args:
        path: Path of `encoder.onnx`.
        num_threads: Integer, number of processor threads; 0 for one per core.

    Attributes:
        size: Height and width of the pictures.
        feature_size: Number of features of a picture, or of a position of its map.
        positions: Number of positions of the map of a picture; 1 if the encoder pools it.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not such an encoder.
    """

    def __init__(self, path: str | os.PathLike[str], num_threads: int = 0) -> None:
        import onnxruntime

        self.path = Path(path)
        expected = "`encoder.onnx` must be the encoder that `extract` wrote; copy it again, or run `extract` again"
        if not self.path.is_file():
            raise FileNotFoundError(f"{expected}. Received: {path}, which does not exist")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3  # errors only
        # A CUDA device is used where onnxruntime's package for GPUs is installed.
        providers = [
            name
            for name in ("CUDAExecutionProvider", "CPUExecutionProvider")
            if name in onnxruntime.get_available_providers()
        ]
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # the exceptions of onnxruntime have no other base class
            raise ValueError(f"{expected}. Received: {path}, which onnxruntime cannot load") from error
        shapes = {port.name: port.shape for port in (*self._session.get_inputs(), *self._session.get_outputs())}
        images, features = shapes.get(IMAGES, []), shapes.get(FEATURES, [None])
        is_fixed = all(isinstance(side, int) for side in (*images[1:], *features[1:]))
        if len(shapes) != 2 or len(images) != 4 or images[1] != images[2] or len(features) < 2 or not is_fixed:
            raise ValueError(f"{expected}. Received: {path} with inputs and outputs {shapes}")
        self.size: int = images[1]
        self.feature_size: int = features[-1]
        self.positions: int = math.prod(features[1:-1])

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the features of pictures `(B, size, size, 3)`: vectors `(B, D)`, or maps `(B, H, W, D)`."""
        return self._session.run([FEATURES], {IMAGES: images})[0]


def write_encoder(
    path: str | os.PathLike[str],
    backbone: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None,
    size: int,
    pooling: Literal["avg", "max", "token"] | None,
    layer: str | None = None,
) -> None:
    """Exports a picture encoder with its preprocessing as ONNX, verified.

    Args:
        path: Path of a file that does not exist yet.
        backbone: See `make_picture_encoder`.
        weights: See `make_picture_encoder`.
        size: See `make_picture_encoder`.
        pooling: See `make_picture_encoder`.
        layer: See `make_picture_encoder`.

    Raises:
        ValueError: If the backbone is invalid or cannot be exported.
        ParityError: If the file does not compute what the model computes.
    """
    # They load Keras and TensorFlow, which running the encoder does not need.
    from keras_netvlad.export import export_onnx
    from keras_netvlad.videos.picture_encoder import make_picture_encoder

    encoder = make_picture_encoder(backbone, weights, size, pooling, layer)
    export_onnx(encoder, path, metadata={"backbone": os.fspath(backbone)})
