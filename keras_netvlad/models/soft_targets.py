"""`soft_targets`: mixes labels with the scores of a teacher, for distillation with an ordinary `fit`."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras

from keras_netvlad.base.names import SCORES
from keras_netvlad.base.validation import check_number

if TYPE_CHECKING:
    import tensorflow as tf


def soft_targets(teacher: keras.Model, factor: float = 0.5) -> "Callable[[tf.data.Dataset], tf.data.Dataset]":
    """Returns a transformation of datasets that mixes the labels with the scores of a teacher.

        labels = (1 - factor) * labels + factor * teacher(inputs)

    Binary cross-entropy is linear in the labels, so the loss of a student is the same mixture of two losses: that of
    the labels and that of the scores. The teacher scores each batch when it is requested, on the device that Keras
    uses. Append `.cache()` to score once and not in every epoch. The metrics of `fit` also receive the soft targets:
    `GlobalAveragePrecision` counts labels of 0.5 and more as positive, so with a factor below 0.5 it is that of the
    labels. Validation data are not changed.

    Args:
        teacher: Model that scores the inputs of the dataset, such as an `ensemble`. Its output `scores` is used or, if
            it has no dict of outputs, its only output. It is not trained.
        factor: Number from 0 to 1, share of the teacher's scores.

    Returns:
        A function for `dataset.apply`: takes a batched `tf.data.Dataset` of `(inputs, labels)` or
        `(inputs, labels, sample_weights)` with labels `(B, C)`, and returns a dataset of the same length with soft
        labels.

    Example:

    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from keras_netvlad import VideoClassifier
    >>> from keras_netvlad.models import soft_targets
    >>> teacher, student = (VideoClassifier({"rgb": 8}, num_classes=3, num_clusters=k) for k in (4, 2))
    >>> videos = {"rgb": np.ones((6, 5, 8), "float32"), "num_frames": np.full(6, 5, "int32")}
    >>> data = tf.data.Dataset.from_tensor_slices((videos, np.eye(6, 3, dtype="float32"))).batch(2)
    >>> student.compile("adam", "binary_crossentropy")
    >>> history = student.fit(data.apply(soft_targets(teacher)), verbose=0)

    Raises:
        ValueError: If `factor` is out of range; when applied, if the dataset yields something else or inputs that the
            teacher does not accept.
        TypeError: If `teacher` is not a model.

    Reference:
        - [Hinton et al. 2015](https://arxiv.org/abs/1503.02531).
        - [Skalic & Austin 2018](https://github.com/miha-skalic/youtube8mchallenge), `train_distill.py`, factor 0.5.
    """
    if not isinstance(teacher, keras.Model):
        raise TypeError(f"The teacher must be a Keras model that scores videos. Received: a {type(teacher).__name__}")
    factor = check_number("factor", factor, 0, 1)

    def transform(dataset: Any) -> Any:
        import tensorflow as tf

        spec = dataset.element_spec
        if not isinstance(spec, tuple) or len(spec) not in (2, 3):
            raise ValueError(f"Soft targets are made of batches of (inputs, labels). Received: a dataset of {spec}")
        labels_spec, num_classes = spec[1], _scores(teacher.output).shape[-1]
        if not isinstance(labels_spec, tf.TensorSpec) or labels_spec.shape.rank != 2:
            raise ValueError(f"Soft targets are made of labels (batch, classes). Received: labels {labels_spec}")
        if labels_spec.shape[1] not in (None, num_classes):
            raise ValueError(
                f"The teacher must score the classes of the labels, {labels_spec.shape[1]}. Received: {num_classes}"
            )
        _check_inputs(teacher, spec[0])
        dtype = labels_spec.dtype.as_numpy_dtype if labels_spec.dtype.is_floating else "float32"

        def batches() -> Any:
            for inputs, labels, *sample_weights in dataset.as_numpy_iterator():
                scores = keras.ops.convert_to_numpy(_scores(teacher.predict_on_batch(_known(teacher, inputs))))
                yield inputs, (1 - factor) * labels.astype(dtype) + factor * scores.astype(dtype), *sample_weights

        soft_spec = tf.TensorSpec(labels_spec.shape, dtype)
        soft = tf.data.Dataset.from_generator(batches, output_signature=(spec[0], soft_spec, *spec[2:]))
        length = dataset.cardinality()
        return soft.apply(tf.data.experimental.assert_cardinality(length)) if length >= 0 else soft

    return transform


def _scores(outputs: Any) -> Any:
    return outputs[SCORES] if isinstance(outputs, Mapping) else outputs


def _check_inputs(teacher: keras.Model, spec: Any) -> None:
    """Raises if an input is missing, or if Keras would cast bytes to features without a warning."""
    if not isinstance(teacher.input, Mapping):
        return
    taken = {name: keras.backend.standardize_dtype(tensor.dtype) for name, tensor in teacher.input.items()}
    given = {name: tensor.dtype.name for name, tensor in spec.items()} if isinstance(spec, Mapping) else {}
    bytes_differ = [name for name in taken if "uint8" in (taken[name], given.get(name)) and taken[name] != given[name]]
    if not set(taken) <= set(given) or bytes_differ:
        raise ValueError(
            "The teacher must take what the dataset yields; `with_input_dtype` changes the dtype of a VideoClassifier. "
            f"Received: a dataset of {given or spec}, a teacher of {taken}"
        )


def _known(teacher: keras.Model, inputs: Any) -> Any:
    """Returns the inputs that the teacher takes. A student may take more."""
    return {name: inputs[name] for name in teacher.input} if isinstance(teacher.input, Mapping) else inputs
