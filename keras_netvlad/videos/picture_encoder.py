"""`make_picture_encoder`: an image model, with its preprocessing, as one model from pictures to features."""

import importlib.util
import os
import textwrap
from pathlib import Path
from typing import Any, Literal

import keras
from keras import ops

from keras_netvlad.layers import FrameEncoder
from keras_netvlad.layers.backbones import model_up_to, picture_shape, resized, vision_model
from keras_netvlad.models import load_model
from keras_netvlad.models.declared_weights import check_declared_weights
from keras_netvlad.videos.encoder_file import FEATURES, IMAGES

# In front of the name of a preset of keras-hub.
HUB = "hub:"
KINDS = (
    "a model of `keras.applications`, a `.keras` file, or `hub:` and a preset of keras-hub, which `pip install "
    "'keras_netvlad[hub]'` adds"
)


class BackboneError(ValueError):
    """The backbone, its weights and the image size do not make a model."""


def make_picture_encoder(
    backbone: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = "imagenet",
    size: int = 224,
    pooling: Literal["avg", "max", "token"] | None = "avg",
    layer: str | None = None,
) -> keras.Model:
    """Makes a model that turns pictures into features and includes the preprocessing of its backbone.

    Args:
        backbone: See `make_frame_encoder`.
        weights: See `make_frame_encoder`.
        size: Integer, height and width of the pictures.
        pooling: `"avg"` or `"max"` over the positions of a map, or over the patches of a vision transformer; `"token"`
            for the class token of a transformer; or `None` to return the map.
        layer: See `make_frame_encoder`.

    Returns:
        A functional model with the input `images`, `uint8` `(B, size, size, 3)`, and the output `features`, `(B, D)`
        or, for `pooling=None`, `(B, H', W', D)`. It runs in inference mode.

    Example:

    >>> from keras_netvlad.videos.picture_encoder import make_picture_encoder
    >>> encoder = make_picture_encoder("MobileNetV2", weights=None, size=96)
    >>> {name: tuple(port.shape) for name, port in encoder.output.items()}
    {'features': (None, 1280)}

    Raises:
        BackboneError: If these arguments do not make a model.
        FileNotFoundError: If the `.keras` file does not exist.
        ImportError: If the backbone is a preset and keras-hub is not installed.
    """
    encoder = make_frame_encoder(backbone, weights, size, layer, return_class_token=pooling == "token")
    return picture_encoder_of(encoder, pooling)


def picture_encoder_of(encoder: FrameEncoder, pooling: Literal["avg", "max", "token"] | None = None) -> keras.Model:
    """Returns the model of `make_picture_encoder` that shares the backbone of a frame encoder."""
    images = keras.Input(encoder.picture_shape, dtype="uint8", name=IMAGES)
    features = encoder.encode_pictures(ops.cast(images, "float32"))
    if pooling == "token":
        _, prefix = features
        features = prefix[:, 0]
    elif pooling is not None and len(features.shape) == 4:
        reduce = ops.mean if pooling == "avg" else ops.max
        features = reduce(features, axis=(1, 2))
    features = keras.layers.Activation("linear", dtype="float32", name=FEATURES)(features)
    return keras.Model({IMAGES: images}, {FEATURES: features}, name="encoder")


def make_frame_encoder(
    backbone: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = "imagenet",
    size: int = 224,
    layer: str | None = None,
    return_class_token: bool = False,
) -> FrameEncoder:
    """Makes a `FrameEncoder` of a backbone that a string names, with its preprocessing.

    Args:
        backbone: One of

            - the name of a model of `keras.applications`, such as `"MobileNetV2"`;
            - the path of a `.keras` file: a functional or Sequential model from pictures `(B, H, W, 3)` with values
              from 0 to 255 to features `(B, D)`, maps `(B, H', W', D)` or tokens `(B, N, D)`, which includes its own
              preprocessing;
            - `"hub:"` and a preset of keras-hub, such as `"hub:dinov2_small"`, or the directory of one. Its image
              converter gives the preprocessing.
        weights: For a model of `keras.applications`: `"imagenet"`, the path of a weights file without its top, or
            `None` for random weights. The others have their own weights.
        size: Integer, height and width of the pictures.
        layer: Name of the layer whose output is used, see `FrameEncoder`; or `None` for the last one.
        return_class_token: Boolean, whether to return the prefix tokens of a transformer as well.

    Returns:
        The layer. Its backbone has a fixed size of pictures.

    Example:

    >>> from keras_netvlad.videos.picture_encoder import make_frame_encoder
    >>> encoder = make_frame_encoder("MobileNetV2", weights=None, size=96, layer="block_13_expand_relu")
    >>> encoder.picture_shape, encoder.compute_output_shape((1, 5, 96, 96, 3))
    ((96, 96, 3), (1, 5, 6, 6, 576))

    Raises:
        BackboneError: If these arguments do not make a layer.
        FileNotFoundError: If the `.keras` file does not exist.
        ImportError: If the backbone is a preset and keras-hub is not installed.
    """
    name = os.fspath(backbone)
    check_backbone(name)
    preprocessing: str | dict[str, Any] | None = None
    if is_application(name):
        model, preprocessing = _of_application(name, weights, size), name
    elif name.endswith(".keras"):
        model = _of_file(name, size)
    else:
        model, preprocessing = _of_preset(name.removeprefix(HUB), size)
    try:
        encoder = FrameEncoder(model, preprocessing, layer, return_prefix_tokens=return_class_token)
    except ValueError as error:
        raise BackboneError(f"{error} (backbone {name}, pictures of {size} pixels)") from error
    if None in encoder.compute_output_shape((None, 1, size, size, 3))[-1:]:
        raise BackboneError(f"`backbone` must return features of a fixed size. Received: {name}")
    return encoder


def is_application(backbone: str) -> bool:
    """Returns whether a name is that of a model of `keras.applications`."""
    return callable(getattr(keras.applications, backbone, None))


def check_backbone(backbone: str) -> None:
    """Raises if a backbone can be found nowhere, before anything else is done.

    Raises:
        FileNotFoundError: If the `.keras` file does not exist.
        BackboneError: If the name is of none of these kinds.
        ImportError: If the backbone is a preset and keras-hub is not installed.
    """
    if is_application(backbone):
        return
    if backbone.endswith(".keras"):
        if not Path(backbone).is_file():
            raise FileNotFoundError(f"`backbone` must be {KINDS}. Received: {backbone!r}, which does not exist")
    elif not backbone.startswith(HUB):
        raise BackboneError(f"`backbone` must be {KINDS}. Received: {backbone!r}")
    elif importlib.util.find_spec("keras_hub") is None:
        raise ImportError(f"`backbone` must be {KINDS}. Received: {backbone!r}, and keras-hub is not installed")


def _of_application(name: str, weights: Any, size: int) -> keras.Model:
    try:
        if weights not in (None, "imagenet"):
            check_declared_weights(weights)
        return getattr(keras.applications, name)(input_shape=(size, size, 3), include_top=False, weights=weights)
    except Exception as error:  # Keras raises ValueError, OSError, and plain Exception where there is no network.
        raise BackboneError(
            f"`backbone`, `weights` and `size` must make a model. Received: backbone={name!r}, "
            f"weights={weights!r}, size={size}. Reason: {error}"
        ) from error


def _of_file(name: str, size: int) -> keras.Model:
    model = load_model(name)
    shape = picture_shape(model)
    try:
        if shape is None or shape[1] not in (None, size) or shape[2] not in (None, size):
            raise ValueError("it takes other inputs")
        return model if shape == (None, size, size, 3) else resized(model_up_to(model, None), (size, size, 3))
    except ValueError as error:
        raise BackboneError(
            f"`backbone` must take pictures (batch, {size}, {size}, 3) with values from 0 to 255; give the `size` that "
            f"it was made for. Received: {name}, a model of {shape} ({error})"
        ) from error


def _of_preset(name: str, size: int) -> tuple[keras.Model, dict[str, Any]]:
    """Returns the vision model of a preset for pictures of a size, and the preprocessing of its image converter."""
    import keras_hub

    try:
        model = vision_model(keras_hub.models.Backbone.from_preset(name))
        if picture_shape(model) not in ((None, size, size, 3), (None, None, None, 3)):
            # DINOv2 and convolutional networks accept another size, for which DINOv2 interpolates its positions.
            model = keras_hub.models.Backbone.from_preset(name, image_shape=(size, size, 3))
        converter = keras_hub.layers.ImageConverter.from_preset(name)
    except Exception as error:  # keras-hub raises exceptions of many classes, also where there is no network.
        raise BackboneError(
            f"`backbone` must be {KINDS}, and accept pictures of {size} pixels. Received: {HUB}{name}. "
            f"Reason: {textwrap.shorten(str(error), 300, placeholder=' ...') or type(error).__name__}"
        ) from error
    values = {"scale": converter.scale, "offset": converter.offset}
    # Of the converter only the values are used: the frames already have the size.
    return model, {name: value for name, value in values.items() if value is not None}
