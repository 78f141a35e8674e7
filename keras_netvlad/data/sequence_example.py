"""`serialize_example`: serializes the frames of one video as a record."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


def serialize_example(
    streams: Mapping[str, NDArray[np.uint8] | NDArray[np.floating]],
    context: Mapping[str, tf.train.Feature] | None = None,
) -> bytes:
    """Serializes the frames of one video in YouTube-8M's frame-level schema.

    `youtube8m` reads such records, and so does the signature `serve_examples` of an exported model.

    Args:
        streams: Dict from the name of each stream to its frames `(T, D)`, `uint8`, `float16` or `float32`.
        context: Dict of features of the whole video, such as its `id` and `labels`; `None` for none.

    Returns:
        A serialized `tf.train.SequenceExample`: one feature list per stream, one feature per frame, which is bytes, or
        a list of floats for `float32`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.export import serialize_example
    >>> record = serialize_example({"rgb": np.zeros((5, 1024), "uint8"), "audio": np.zeros((5, 128), "uint8")})
    >>> len(tf.train.SequenceExample.FromString(record).feature_lists.feature_list["rgb"].feature)
    5
    """
    lists = {
        name: tf.train.FeatureList(feature=[_feature(frame) for frame in frames]) for name, frames in streams.items()
    }
    return tf.train.SequenceExample(
        context=tf.train.Features(feature=context), feature_lists=tf.train.FeatureLists(feature_list=lists)
    ).SerializeToString()


def _feature(frame):
    if frame.dtype == np.float32:
        return tf.train.Feature(float_list=tf.train.FloatList(value=frame))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[frame.tobytes()]))
