"""`from_pixels`: a classifier of features, and what makes the features of pictures, as one model."""

from collections.abc import Mapping

import keras
from keras import ops

from keras_netvlad.base.names import NUM_FRAMES
from keras_netvlad.layers import FrameEncoder, FrameMask
from keras_netvlad.models.scoring_model import ScoringModel
from keras_netvlad.models.video_classifier import VideoClassifier


def from_pixels(encoders, classifier, name="from_pixels"):
    """Joins frame encoders and a `VideoClassifier` into one model, from pictures to scores, trainable end to end.

    Maps are pooled over time and space: each position of each real frame is a descriptor. The classifier is not
    changed and not copied. Alone, behind an encoder's artefact, it gives the same answers: its streams are then
    the features `(B, T, D)`, or the maps with time and space in one axis, `(B, T * H' * W', D)`, and its
    `num_frames` is the number of real frames times `H' * W'`.

    Two streams, such as ActionVLAD's appearance and motion, are two encoders and a classifier of two streams; for
    their late fusion, join a model of each with `ensemble`.

    Args:
        encoders: Dict from each stream of the classifier to its `FrameEncoder`, or for one stream the encoder alone.
            Encoders of several streams give maps of equal size.
        classifier: A `VideoClassifier` whose `feature_sizes` are those that the encoders give.
        name: Name of the model.

    Returns:
        A functional `keras.Model`. Inputs: pictures `uint8` `(B, T, H, W, C)`, named as the streams, or `images` of an
        encoder alone, and `num_frames`, integer `(B,)`. Outputs: the classifier's. Frames beyond
        `num_frames` may hold anything. Zero frames give a descriptor of zeros.

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
        TypeError: If an encoder is no `FrameEncoder`, or the classifier no `VideoClassifier` of floats.
        ValueError: If streams, feature sizes or sizes of maps don't fit.

    Reference:
        - [Girdhar et al. 2017](https://arxiv.org/abs/1704.02895), sections 3.1 and 3.3 (two streams).
    """
    if not isinstance(classifier, VideoClassifier) or classifier.stream_dtype == "uint8":
        raise TypeError(
            "`classifier` must be a VideoClassifier that takes floats; `with_input_dtype` makes one of one for bytes. "
            f"Received: {type(classifier).__name__}"
        )
    streams = list(classifier.feature_sizes)
    is_alone = not isinstance(encoders, Mapping)
    if is_alone:
        encoders = dict.fromkeys(streams[:1], encoders)
    if set(encoders) != set(streams):
        raise ValueError(f"`encoders` must have one for each stream of {streams}. Received: {list(encoders)}")
    for encoder in encoders.values():
        if not isinstance(encoder, FrameEncoder):
            raise TypeError(f"`encoders` must be FrameEncoder layers. Received: {type(encoder).__name__}")
    num_frames = keras.Input((), name=NUM_FRAMES, dtype="int32")
    inputs, features, positions = {}, {}, {}
    for stream in streams:
        key = "images" if is_alone else stream
        images = keras.Input((None, *encoders[stream].backbone.input_shape[1:]), name=key, dtype="uint8")
        encoded = encoders[stream](images)
        size, space = encoded.shape[-1], encoded.shape[2:-1]
        if size != classifier.feature_sizes[stream]:
            raise ValueError(
                f"The encoder of {stream!r} must give the classifier's feature size. "
                f"Received: {size}, where the classifier has {classifier.feature_sizes[stream]}"
            )
        if None in space:
            raise ValueError(
                "The backbone of a model from pixels must say its picture size, such as input_shape=(224, 224, 3). "
                f"Received: a backbone of {encoders[stream].backbone.input_shape}"
            )
        positions[stream] = space[0] * space[1] if space else 1
        inputs[key] = images
        features[stream] = keras.layers.Reshape((-1, size))(encoded) if space else encoded
    if len(set(positions.values())) > 1:
        raise ValueError(f"Encoders of several streams must give maps of equal size. Received: positions {positions}")
    # Real frames counted from a mask: the product can't overflow, whatever count a client sends.
    real = ops.sum(ops.cast(FrameMask()(num_frames, images), "int32"), axis=1) * positions[streams[0]]
    outputs = classifier({**features, NUM_FRAMES: real})
    return ScoringModel({**inputs, NUM_FRAMES: num_frames}, dict(outputs), name=name)
