"""Checks of the arguments of `VideoClassifier`."""

import inspect
from typing import Any

import keras

from keras_netvlad.base.validation import check_boolean, check_choice, check_integer
from keras_netvlad.models.video_encoder import VideoEncoder


def encoder_from(feature_sizes: Any, **options: Any) -> VideoEncoder:
    """Returns the given `VideoEncoder`, or makes one for the given feature sizes.

    Args:
        feature_sizes: Dict of feature sizes, or a `VideoEncoder`.
        **options: Further arguments of `VideoEncoder`.

    Raises:
        ValueError: If an encoder is given together with options that describe an encoder.
    """
    if not isinstance(feature_sizes, VideoEncoder):
        return VideoEncoder(feature_sizes, **options)
    parameters = inspect.signature(VideoEncoder.__init__).parameters
    given = [name for name, value in options.items() if value != parameters[name].default]
    if given:
        raise ValueError(
            "A classifier of a VideoEncoder takes its inputs, pooling and dtype from the encoder; leave these "
            f"arguments out. Received: {given}"
        )
    return feature_sizes


def check_projection(
    hidden_units: Any, hidden_activation: Any, hidden_batch_normalization: Any, gate_features: Any
) -> int | None:
    """Returns `hidden_units`, or raises if the options of the hidden projection are invalid."""
    if hidden_units is not None:
        hidden_units = check_integer("hidden_units", hidden_units, 1)
    check_boolean("hidden_batch_normalization", hidden_batch_normalization)
    check_boolean("gate_features", gate_features)
    if hidden_units is None and (hidden_batch_normalization or gate_features):
        raise ValueError(
            "`hidden_batch_normalization` and `gate_features` apply to the hidden projection; give `hidden_units`. "
            "Received: hidden_units=None"
        )
    try:
        keras.activations.get(hidden_activation)
    except (ValueError, TypeError):
        raise ValueError(
            "`hidden_activation` must be an activation of Keras, its name, or None. "
            f"Received: hidden_activation={hidden_activation!r}"
        ) from None
    return hidden_units


def check_scores(activation: Any, gate_scores: Any, num_mixtures: Any) -> None:
    """Raises if the options of the classifier are invalid."""
    check_choice("activation", activation, ("sigmoid", "softmax"))
    check_boolean("gate_scores", gate_scores)
    if num_mixtures is not None:
        check_integer("num_mixtures", num_mixtures, 1)
    if activation != "sigmoid" and (num_mixtures is not None or gate_scores):
        raise ValueError(
            "`num_mixtures` and `gate_scores` score each class independently; leave `activation` 'sigmoid'. "
            f"Received: activation={activation!r}"
        )


def check_gating(gating_batch_normalization: Any, gating_reduction: Any) -> None:
    """Raises if the options of the context gating are invalid."""
    check_boolean("gating_batch_normalization", gating_batch_normalization)
    if gating_reduction is not None:
        check_integer("gating_reduction", gating_reduction, 1)


def check_regularizer(name: str, regularizer: Any) -> keras.Regularizer | None:
    """Returns the regularizer, or raises if Keras does not know it."""
    try:
        return keras.regularizers.get(regularizer)
    except (ValueError, TypeError):
        raise ValueError(
            f"`{name}` must be a regularizer of Keras, its name, or None. Received: {name}={regularizer!r}"
        ) from None


def check_initializer(name: str, initializer: Any) -> keras.Initializer | None:
    """Returns the initializer, or raises if Keras does not know it."""
    try:
        return keras.initializers.get(initializer)
    except (ValueError, TypeError):
        raise ValueError(
            f"`{name}` must be an initializer of Keras, its name, or None. Received: {name}={initializer!r}"
        ) from None
