"""`from_pixels`: frame encoders and a model of features, joined into one model of pictures."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_netvlad.base.names import NUM_FRAMES, SCORES
from keras_netvlad.layers import FrameEncoder, FrameMask
from keras_netvlad.models.scoring_model import ScoringModel
from keras_netvlad.models.video_classifier import VideoClassifier
from keras_netvlad.models.video_encoder import VideoEncoder


def from_pixels(
    encoders: FrameEncoder | Mapping[str, FrameEncoder],
    model: VideoClassifier | VideoEncoder,
    name: str = "from_pixels",
) -> keras.Model:
    """Joins frame encoders and a `VideoClassifier` or `VideoEncoder` into one model that trains end to end.

    The result maps pictures to the outputs of `model`. Maps are pooled over time and space: each position of each real
    frame is a feature. The result contains `model` itself, not a copy. `model` alone, fed with the output of an
    exported frame encoder, gives the same answers: its streams are then the features `(B, T, D)`, or the maps
    with time and space in one axis, `(B, T * H' * W', D)`, and its `num_frames` is the number of real frames times
    `H' * W'`.

    Two streams, such as appearance and motion in ActionVLAD, need two frame encoders and a model with two streams. For
    late fusion, make a model of each stream and join them with `ensemble`.

    Save the result as `.keras`. Keras cannot load operations of a functional model from `.h5`, its legacy format.

    Args:
        encoders: Dict from each stream of the model to its `FrameEncoder`; for one stream, the frame encoder itself.
            The encoders of several streams must return maps of equal size.
        model: A `VideoClassifier` or `VideoEncoder` whose `feature_sizes` are those that the frame encoders return.
        name: Name of the result.

    Returns:
        A functional `keras.Model`. Inputs: pictures `uint8` `(B, T, H, W, C)`, named after the streams, or `images` if
        the frame encoder was given alone, and `num_frames`, integer `(B,)`. Outputs: those of `model`. Frames beyond
        `num_frames` may contain anything. Zero frames give a descriptor of zeros.

    Example:

    >>> import keras, numpy as np
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.layers import FrameEncoder
    >>> from keras_netvlad.models import from_pixels
    >>> backbone = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(8, 3, strides=4)])
    >>> classifier = VideoClassifier({"frames": 8}, num_classes=3, num_clusters=4, hidden_units=None)
    >>> model = from_pixels(FrameEncoder(backbone, "MobileNetV2"), classifier)
    >>> outputs = model({"images": np.zeros((2, 5, 32, 32, 3), "uint8"), "num_frames": np.array([5, 3], "int32")})
    >>> tuple(outputs["scores"].shape), tuple(outputs["descriptor"].shape)
    ((2, 3), (2, 32))

    Raises:
        TypeError: If an encoder is not a `FrameEncoder`, or `model` not a `VideoClassifier` or `VideoEncoder` that
            takes floats.
        ValueError: If streams, feature sizes or sizes of maps do not match, or an encoder returns prefix tokens.

    Reference:
        - [Girdhar et al. 2017](https://arxiv.org/abs/1704.02895), sections 3.1 and 3.3 (two streams).
    """
    if not isinstance(model, (VideoClassifier, VideoEncoder)) or model.stream_dtype == "uint8":
        raise TypeError(
            "`model` must be a VideoClassifier or VideoEncoder that takes floats; `with_input_dtype` converts one that "
            f"takes bytes. Received: {type(model).__name__}"
        )
    streams = list(model.feature_sizes)
    is_alone = not isinstance(encoders, Mapping)
    if not isinstance(encoders, Mapping):
        encoders = dict.fromkeys(streams[:1], encoders)
    if set(encoders) != set(streams):
        raise ValueError(
            f"`encoders` must have a FrameEncoder for each stream of {streams}. Received: {list(encoders)}"
        )
    for encoder in encoders.values():
        if not isinstance(encoder, FrameEncoder):
            raise TypeError(f"`encoders` must be FrameEncoder layers. Received: {type(encoder).__name__}")
        if encoder.return_prefix_tokens:
            raise ValueError(
                "`encoders` must return maps or features alone; leave `return_prefix_tokens` out, or connect the "
                f"tokens in a functional model of your own. Received: `{encoder.name}` with return_prefix_tokens=True"
            )
    num_frames = keras.Input((), name=NUM_FRAMES, dtype="int32")
    inputs: dict[str, Any] = {}
    features: dict[str, Any] = {}
    positions: dict[str, int] = {}
    for stream in streams:
        key = "images" if is_alone else stream
        images = keras.Input((None, *encoders[stream].picture_shape), name=key, dtype="uint8")
        encoded = encoders[stream](images)
        size, space = encoded.shape[-1], encoded.shape[2:-1]
        if size != model.feature_sizes[stream]:
            raise ValueError(
                f"The encoder of {stream!r} must return features of the model's size. "
                f"Received: {size}, where the model has {model.feature_sizes[stream]}"
            )
        if None in space:
            raise ValueError(
                "The backbone of a model from pixels must have a fixed picture size, such as (224, 224, 3). "
                f"Received: a backbone of {encoders[stream].picture_shape}"
            )
        positions[stream] = space[0] * space[1] if space else 1
        inputs[key] = images
        features[stream] = keras.layers.Reshape((-1, size))(encoded) if space else encoded
    if len(set(positions.values())) > 1:
        raise ValueError(f"Encoders of several streams must return maps of equal size. Received: positions {positions}")
    # The mask limits the count to T, so that the product cannot overflow.
    real = ops.sum(ops.cast(FrameMask()(num_frames, encoded), "int32"), axis=1) * positions[streams[0]]
    outputs = dict(model({**features, NUM_FRAMES: real}))
    make_model = ScoringModel if SCORES in outputs else keras.Model
    return make_model({**inputs, NUM_FRAMES: num_frames}, outputs, name=name)
