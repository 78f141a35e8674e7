"""`make_picture_encoder`: an image model, with its preprocessing, as one model from pictures to features."""

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

import keras
from keras import ops

from keras_netvlad.models import load_model
from keras_netvlad.models.declared_weights import check_declared_weights
from keras_netvlad.videos.encoder_file import FEATURES, IMAGES

IN_KERAS_HUB = (
    "a model of `keras.applications`, a `.keras` file, or a preset of keras-hub, which `pip install "
    "'keras_netvlad[hub]'` adds"
)


class BackboneError(ValueError):
    """The backbone, its weights and the image size do not make a model."""


def make_picture_encoder(
    backbone: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = "imagenet",
    size: int = 224,
    pooling: Literal["avg", "max"] | None = "avg",
) -> keras.Model:
    """Makes a model that turns pictures into features and includes the preprocessing of its backbone.

    Args:
        backbone: One of

            - the name of a model of `keras.applications`, such as `"MobileNetV2"`;
            - the path of a `.keras` file: a model from pictures `(B, H, W, 3)` with values from 0 to 255 to features
              `(B, D)` or maps `(B, H', W', D)`, which includes its own preprocessing;
            - a preset of keras-hub, such as `"vit_base_patch16_224_imagenet"`, or the directory of one. Its image
              converter gives the preprocessing.
        weights: For a model of `keras.applications`: `"imagenet"`, the path of a weights file without its top, or
            `None` for random weights. The others have their own weights.
        size: Integer, height and width of the pictures.
        pooling: `"avg"` or `"max"` over the positions of a map or the tokens of a transformer, or `None` to return
            them all.

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
    images = keras.Input((size, size, 3), dtype="uint8", name=IMAGES)
    name = os.fspath(backbone)
    check_backbone(name)
    pictures = ops.cast(images, "float32")
    if is_application(name):
        features = _of_application(name, weights, size, pictures)
    elif name.endswith(".keras"):
        features = _of_file(name, size, pictures)
    else:
        features = _of_preset(name, size, pictures)
    rank = len(getattr(features, "shape", ()))
    if rank not in (2, 3, 4) or features.shape[-1] is None:
        shape = tuple(getattr(features, "shape", ()))
        raise BackboneError(
            "`backbone` must return features (batch, D), tokens (batch, N, D) or maps (batch, height, width, D). "
            f"Received: {name}, which returns {shape or type(features).__name__}"
        )
    if rank > 2 and pooling is not None:
        reduce = ops.mean if pooling == "avg" else ops.max
        features = reduce(features, axis=tuple(range(1, rank - 1)))
    elif rank == 3:
        features = ops.expand_dims(features, 1)  # tokens, as a map of one row
    features = keras.layers.Activation("linear", dtype="float32", name=FEATURES)(features)
    return keras.Model({IMAGES: images}, {FEATURES: features}, name="encoder")


def is_application(backbone: str) -> bool:
    """Returns whether a name is that of a model of `keras.applications`."""
    return callable(getattr(keras.applications, backbone, None))


def check_backbone(backbone: str) -> None:
    """Raises if a backbone can be found nowhere, before anything else is done.

    Raises:
        FileNotFoundError: If the `.keras` file does not exist.
        ImportError: If the backbone is neither a model of `keras.applications` nor a `.keras` file, and keras-hub is
            not installed.
    """
    if is_application(backbone):
        return
    if backbone.endswith(".keras"):
        if not Path(backbone).is_file():
            raise FileNotFoundError(f"`backbone` must be {IN_KERAS_HUB}. Received: {backbone!r}, which is no file")
    elif importlib.util.find_spec("keras_hub") is None:
        raise ImportError(f"`backbone` must be {IN_KERAS_HUB}. Received: {backbone!r}")


def _of_application(name: str, weights: Any, size: int, pictures: keras.KerasTensor) -> Any:
    try:
        if weights not in (None, "imagenet"):
            check_declared_weights(weights)
        make = getattr(keras.applications, name)
        model = make(input_shape=(size, size, 3), include_top=False, weights=weights)
    except Exception as error:  # Keras raises ValueError, OSError, and plain Exception where there is no network.
        raise BackboneError(
            f"`backbone`, `weights` and `size` must make a model. Received: backbone={name!r}, "
            f"weights={weights!r}, size={size}. Reason: {error}"
        ) from error
    # The module that defines a model also defines its preprocessing.
    preprocess = importlib.import_module(make.__module__).preprocess_input
    return model(preprocess(pictures), training=False)


def _of_file(name: str, size: int, pictures: keras.KerasTensor) -> Any:
    model = load_model(name)
    try:
        return model(pictures, training=False)
    except Exception as error:  # The layers of a user's model may raise exceptions of every class.
        shape = getattr(model, "input_shape", None)
        raise BackboneError(
            f"`backbone` must take pictures (batch, {size}, {size}, 3) with values from 0 to 255; give the `size` that "
            f"it was made for. Received: {name}, a model of {shape} ({(str(error).splitlines() or [''])[0]})"
        ) from error


def _of_preset(name: str, size: int, pictures: keras.KerasTensor) -> Any:
    import keras_hub

    try:
        model = keras_hub.models.Backbone.from_preset(name)
        converter = keras_hub.layers.ImageConverter.from_preset(name)
        # Of the converter only the values are used: the frames already have the size.
        scaled = pictures * ops.cast(1.0 if converter.scale is None else converter.scale, "float32")
        shifted = scaled + ops.cast(0.0 if converter.offset is None else converter.offset, "float32")
        return model(shifted, training=False)
    except Exception as error:  # keras-hub raises exceptions of many classes, also where there is no network.
        raise BackboneError(
            f"`backbone` must be {IN_KERAS_HUB}, which takes pictures of {size} pixels. Received: {name!r}. "
            f"Reason: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error
