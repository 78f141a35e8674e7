"""The baseline of YouTube-8M, a mixture of experts on mean features: checkpoints of Google's `MoeModel`."""

import keras

from keras_netvlad.convert.networks.tensors import Tensors
from keras_netvlad.convert.networks.youtube8m import MIXTURE, assign_classifier, read_classifier
from keras_netvlad.models.presets import YOUTUBE_8M
from keras_netvlad.models.video_classifier import VideoClassifier


def is_youtube8m_moe(tensors: Tensors) -> bool:
    """Returns whether the checkpoint contains a mixture of experts and nothing before it."""
    return bool(tensors.names) and tensors.names <= set(MIXTURE.values())


def youtube8m_moe(tensors: Tensors) -> keras.Model:
    """Returns the `VideoClassifier` of a checkpoint of `MoeModel`, the preset `youtube8m_moe`.

    Args:
        tensors: Weights of the checkpoint, as `weights_of_checkpoint` returns them. They must be those of the features
            `mean_rgb` and `mean_audio`, in this order, or of one of them.

    Raises:
        ValueError: If the checkpoint is of another network or of other features.
    """
    tensors.check_names(MIXTURE.values())
    classifier, weights = read_classifier(tensors, MIXTURE)
    size = len(weights["gate_kernel"])
    feature_sizes = {
        stream: length for stream, length in YOUTUBE_8M.items() if size in (length, sum(YOUTUBE_8M.values()))
    }
    if not feature_sizes:
        raise ValueError(
            f"`{MIXTURE['gate_kernel']}` must have {sum(YOUTUBE_8M.values())} rows, for the features rgb and audio, or "
            f"{' or '.join(map(str, YOUTUBE_8M.values()))} rows, for one of them. Received: {size} rows"
        )
    model = VideoClassifier.from_preset("youtube8m_moe", feature_sizes=feature_sizes, **classifier)
    assign_classifier(model, MIXTURE, weights)
    return model
