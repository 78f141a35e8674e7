"""`picture_model`: a model of videos from pixels, or of pictures, as a model of pictures in another layout or size."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.base.validation import check_choice, check_integer
from keras_netvlad.layers import FrameEncoder, PicturePreprocessing
from keras_netvlad.layers.backbones import resized
from keras_netvlad.layers.picture_preprocessing import LAYOUTS
from keras_netvlad.layers.smallest_picture import nan_if_smaller, smallest_picture
from keras_netvlad.models.video_classifier import VideoClassifier
from keras_netvlad.models.video_encoder import VideoEncoder

# More positions than a picture has, so that all of them are real.
ALL_POSITIONS = 2**31 - 1
NUM_CHANNELS = 3


def picture_model(
    model: keras.Model,
    layout: Literal["nhwc", "nchw"] = "nhwc",
    size: Sequence[int] | None = None,
    name: str | None = None,
) -> keras.Model:
    """Turns a model of videos from pixels into a model of single pictures, for programs that describe places.

    The result takes bytes as a camera or a decoder returns them, and gives the outputs that `model` gives for a video
    of this one frame. The backbone runs at the picture's own size, as in the paper: a larger picture has more
    positions, and nothing is resized. The result shares its layers with `model`. Layers behind the model, such as
    `PCAWhitening`, are part of it.

    A model that already takes pictures, such as a converted place model, gets the layout and the size.

    Args:
        model: A model that `from_pixels` returned, with one stream, or a functional model that continues it; or a
            functional or Sequential model whose only input is pictures, `uint8` `(B, H, W, 3)` of any or one size.
        layout: Order of the axes of a picture: `"nhwc"` (channels last) or `"nchw"` (channels first).
        size: Height and width of all pictures, in pixels; or `None` for any size, up to what the backbone accepts. A
            picture that is too small for one position of the map gives NaN in every format, or the error of the runtime
            if it is smaller than the kernel of a convolution.
        name: Name of the result. The default is the model's own name.

    Returns:
        A functional `keras.Model`. Input: the pictures, RGB as `uint8`, `(B, H, W, C)` or `(B, C, H, W)`, under the
        name that they have in `model`, such as `images`. Outputs: those of `model`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_netvlad import VideoEncoder
    >>> from keras_netvlad.layers import FrameEncoder
    >>> from keras_netvlad.models import from_pixels, picture_model
    >>> backbone = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(8, 3, strides=4)])
    >>> pixels = from_pixels(FrameEncoder(backbone, "MobileNetV2"), VideoEncoder({"frames": 8}, num_clusters=4))
    >>> model = picture_model(pixels, layout="nchw")
    >>> tuple(model({"images": np.zeros((1, 3, 48, 64), "uint8")})["descriptor"].shape)
    (1, 32)

    Raises:
        TypeError: If `model` is not such a model.
        ValueError: If `layout` or `size` is invalid, or the backbone or the model does not accept the size.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 3 (a pooling layer on the map of a
          convolutional network cropped at its last convolution).
    """
    check_choice("layout", layout, LAYOUTS)
    height, width = _check_size(size)
    if takes_pictures(model):
        return _with_layout(model, layout, (height, width), name or model.name)
    encoder, stream = _find_encoder(model)
    channels = encoder.picture_shape[-1]
    backbone = resized(encoder.backbone, (height, width, channels))
    shape = (height, width, channels) if layout == "nhwc" else (channels, height, width)
    images = keras.Input(shape, dtype="uint8", name=stream)
    pictures = PicturePreprocessing(encoder.preprocessing, layout, name="picture_preprocessing")(images)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer is encoder:
            outputs = backbone(pictures, training=False)
            features = encoder.arrange(outputs, height, width)  # (B, H', W', D) or (B, D)
            return ops.expand_dims(features, 1) if len(features.shape) == 2 else features
        if isinstance(layer, (VideoClassifier, VideoEncoder)):
            inputs = dict(args[0])
            # Of the pictures, because their maps may have no positions.
            inputs[NUM_FRAMES] = ops.full_like(pictures[:, 0, 0, 0], ALL_POSITIONS, dtype="int32")
            return layer(inputs)
        return layer(*args, **kwargs)

    # The number of frames of the video is calculated as well, but nothing reads it.
    inputs = {stream: images, NUM_FRAMES: keras.Input((), dtype="int32", name=NUM_FRAMES)}
    copy = keras.models.clone_model(
        model, {key: inputs[key] for key in model.input}, clone_function=lambda layer: layer, call_function=call
    )
    smallest = smallest_picture(encoder.backbone) if size is None else (1, 1)
    outputs = nan_if_smaller(copy.output, pictures, smallest)
    return keras.Model({stream: images}, outputs, name=name or model.name)


def takes_pictures(model: keras.Model, layout: str = "nhwc") -> bool:
    """Returns whether the only input of a model is pictures, `uint8` `(B, H, W, 3)`, or `(B, 3, H, W)` for `nchw`."""
    inputs = getattr(model, "inputs", None) or []
    axis = -1 if layout == "nhwc" else 1
    shapes = [tuple(tensor.shape) for tensor in inputs if tensor.dtype == "uint8"]
    return len(inputs) == len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][axis] == NUM_CHANNELS


def _with_layout(model: keras.Model, layout: str, size: tuple[int | None, int | None], name: str) -> keras.Model:
    """Returns a model of pictures with another layout and size."""
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    (pictures,) = model.inputs
    expected = pictures.shape[1:3]
    height, width = (one if given is None else given for one, given in zip(expected, size, strict=True))
    if any(one not in (None, given) for one, given in zip(expected, (height, width), strict=True)):
        raise ValueError(
            f"`size` must be the size of the model's pictures, {'x'.join(map(str, expected))}, or None. "
            f"Received: size={size}"
        )
    stream = next(iter(model.input)) if isinstance(model.input, Mapping) else pictures.name
    channels_last = (height, width, NUM_CHANNELS)
    shape = channels_last if layout == "nhwc" else (NUM_CHANNELS, height, width)
    images = keras.Input(shape, dtype="uint8", name=stream)
    given = images if layout == "nhwc" else ops.transpose(images, (0, 2, 3, 1))

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, PicturePreprocessing) and args and args[0] is images and layout != layer.layout:
            # It casts before it transposes; TensorRT has no other operation on bytes than a cast.
            return PicturePreprocessing.from_config({**layer.get_config(), "layout": layout})(images)
        args, kwargs = keras.tree.map_structure(lambda value: given if value is images else value, (args, kwargs))
        return layer(*args, **kwargs)

    copy = keras.models.clone_model(
        model,
        keras.tree.map_structure(lambda _: images, model.input),
        clone_function=lambda layer: layer,
        call_function=call,
    )
    return keras.Model({stream: images}, copy.output, name=name)


def _check_size(size: Sequence[int] | None) -> tuple[int | None, int | None]:
    if size is None:
        return None, None
    if isinstance(size, str) or not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"`size` must be height and width in pixels, or None for any size. Received: size={size!r}")
    return check_integer("size", size[0], 1), check_integer("size", size[1], 1)


def _find_encoder(model: keras.Model) -> tuple[FrameEncoder, str]:
    """Returns the frame encoder of a model of videos from pixels and the name of the input that it reads."""
    layers = getattr(model, "layers", [])
    encoders = [layer for layer in layers if isinstance(layer, FrameEncoder)]
    inputs = getattr(model, "input", None)
    streams = [key for key in inputs if key != NUM_FRAMES] if isinstance(inputs, Mapping) else []
    num_poolings = sum(isinstance(layer, (VideoClassifier, VideoEncoder)) for layer in layers)
    if (len(encoders), num_poolings, len(streams)) != (1, 1, 1):
        raise TypeError(
            "`model` must be a model that `from_pixels` returned, with one stream of pictures, or a functional model "
            "from its inputs to layers on its outputs; or a model with one input of pictures, uint8 (B, H, W, 3). "
            f"Received: {type(model).__name__} with {len(encoders)} frame encoders and the inputs {streams}"
        )
    return encoders[0], streams[0]
