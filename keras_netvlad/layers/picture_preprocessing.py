"""`PicturePreprocessing`: bytes of pictures as the values that an image model was trained on."""

import importlib
import json
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_netvlad.base.validation import check_choice
from keras_netvlad.layers.frame_pooling import Shape

LAYOUTS = ("nhwc", "nchw")


@keras.saving.register_keras_serializable(package="keras_netvlad")
class PicturePreprocessing(keras.Layer):
    """Turns bytes of pictures into the values that an image model takes.

    A model that starts with this layer takes pictures as a camera or a decoder returns them, so its clients need no
    preprocessing. The cast to float32 comes first: TensorRT has no other operation on bytes.

    Args:
        preprocessing: The name of a model of `keras.applications`, `"torchvision"`, a dict with `"scale"` and
            `"offset"`, or `None`; see `FrameEncoder`.
        layout: Order of the axes of the inputs: `"nhwc"` (channels last) or `"nchw"` (channels first).
        **kwargs: `name` and `dtype`, as for any Keras layer.

    Call arguments:
        inputs: Pictures with RGB values from 0 to 255, such as `uint8`.

    Input shape:
        `(B, H, W, C)`, or `(B, C, H, W)` if `layout` is `"nchw"`.

    Output shape:
        `(B, H, W, C)`, float32.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import PicturePreprocessing
    >>> values = PicturePreprocessing("MobileNetV2", layout="nchw")(np.full((1, 3, 2, 4), 255, "uint8"))
    >>> tuple(values.shape), float(values[0, 0, 0, 0])
    ((1, 2, 4, 3), 1.0)

    Raises:
        ValueError: If an argument is invalid, or the inputs do not have rank 4.
    """

    def __init__(
        self,
        preprocessing: str | Mapping[str, Any] | None = None,
        layout: Literal["nhwc", "nchw"] = "nhwc",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.preprocessing = dict(preprocessing) if isinstance(preprocessing, Mapping) else preprocessing
        self.layout = check_choice("layout", layout, LAYOUTS)
        self._preprocess = preprocessing_function(preprocessing)

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        _check_rank(inputs.shape)
        pictures = ops.cast(inputs, "float32")
        if self.layout == "nchw":
            pictures = ops.transpose(pictures, (0, 2, 3, 1))
        return self._preprocess(pictures)  # (B, H, W, C)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        _check_rank(input_shape)
        batch, *sizes = input_shape
        return (batch, *sizes) if self.layout == "nhwc" else (batch, *sizes[1:], sizes[0])

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "preprocessing": self.preprocessing, "layout": self.layout}


def preprocessing_function(preprocessing: str | Mapping[str, Any] | None) -> Callable[[Any], Any]:
    """Returns the function from float pictures of 0 to 255, channels last, to the values that a backbone takes.

    Args:
        preprocessing: See `FrameEncoder`.

    Raises:
        ValueError: If the name is unknown, or the dict has other values.
    """
    if preprocessing is None:
        return lambda pictures: pictures
    if isinstance(preprocessing, Mapping):
        scale, offset = _scale_and_offset(preprocessing)
        return lambda pictures: pictures * ops.cast(scale, "float32") + ops.cast(offset, "float32")
    if preprocessing == "torchvision":
        mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return lambda pictures: (pictures / 255.0 - ops.array(mean)) / ops.array(deviation)
    application = getattr(keras.applications, preprocessing, None) if isinstance(preprocessing, str) else None
    if application is None or not callable(application):
        raise ValueError(
            "`preprocessing` must be the name of a model of `keras.applications`, 'torchvision', a dict with 'scale' "
            f"and 'offset', or None. Received: preprocessing={preprocessing!r}"
        )
    # The module that defines the model also defines its preprocessing.
    return importlib.import_module(application.__module__).preprocess_input


def preprocessing_text(preprocessing: str | Mapping[str, Any] | None) -> str:
    """Returns a preprocessing as a string for metadata: the name, JSON of the scale and the offset, or `"none"`."""
    if isinstance(preprocessing, Mapping):
        scale, offset = _scale_and_offset(preprocessing)
        return json.dumps({"scale": scale, "offset": offset})
    return preprocessing or "none"


def _scale_and_offset(preprocessing):
    """Returns the scale and the offset of a dict, each a number or a list with a number for each channel."""
    values = {"scale": 1.0, "offset": 0.0, **preprocessing}
    if len(values) == 2 and all(_is_numbers(value) for value in values.values()):
        return tuple(list(map(float, v)) if isinstance(v, Sequence) else float(v) for v in values.values())
    raise ValueError(
        "`preprocessing` as a dict must have 'scale' and 'offset', each a number or a list with one number per "
        f"channel. Received: preprocessing={preprocessing!r}"
    )


def _is_numbers(value):
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return bool(items) and all(isinstance(item, numbers.Real) and not isinstance(item, bool) for item in items)


def _check_rank(shape):
    if len(shape) != 4:
        raise ValueError(f"`inputs` must be pictures of rank 4, with the batch first. Received: shape {tuple(shape)}")
