"""`ScoringModel`: a functional model whose labels, unless they say otherwise, are those of `scores`."""

from collections.abc import Mapping

import keras

from keras_netvlad.base.names import SCORES


@keras.saving.register_keras_serializable(package="keras_netvlad")
class ScoringModel(keras.Model):
    """A functional `keras.Model` with a dict of outputs, one of them `scores`, that takes plain labels.

    Keras wants labels in the structure of the outputs. Here, labels that are no dict belong to `scores`.
    """

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """As Keras's, but labels that are no dict are those of `scores`: the descriptor has none."""
        return super().compute_loss(x, *_labelled(y, y_pred), sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As Keras's, but labels that are no dict are those of `scores`."""
        return super().compute_metrics(x, *_labelled(y, y_pred), sample_weight)


def _labelled(y, y_pred):
    """The labels by output, and the outputs that they speak of."""
    y = y if isinstance(y, Mapping) else {SCORES: y}
    return y, {name: y_pred[name] for name in y}
