"""A video as a record: YouTube-8M's frame-level `SequenceExample`."""

import tensorflow as tf


def serialize_example(streams):
    """Writes the frames of one video as a record that the signature `serve_examples` reads.

    Args:
        streams: Dict from the name of each stream to its `uint8` frames `(T, D)`.

    Returns:
        The serialized `tf.train.SequenceExample`, bytes: one feature list a stream, one bytes feature a frame.

    Example:

    >>> import numpy as np
    >>> record = serialize_example({"rgb": np.zeros((5, 1024), "uint8"), "audio": np.zeros((5, 128), "uint8")})
    >>> len(tf.train.SequenceExample.FromString(record).feature_lists.feature_list["rgb"].feature)
    5
    """
    lists = {
        name: tf.train.FeatureList(
            feature=[tf.train.Feature(bytes_list=tf.train.BytesList(value=[frame.tobytes()])) for frame in frames]
        )
        for name, frames in streams.items()
    }
    return tf.train.SequenceExample(feature_lists=tf.train.FeatureLists(feature_list=lists)).SerializeToString()
