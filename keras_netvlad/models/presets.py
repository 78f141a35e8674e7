"""Published models of YouTube-8M as arguments of `VideoClassifier`.

docs/presets.md describes each model, the source of its settings, and what its authors measured.
"""

from collections.abc import Mapping
from typing import Any

import keras

from keras_netvlad.base.validation import check_choice

YOUTUBE_8M = {"rgb": 1024, "audio": 128}


def _initializer(name: str, **config: Any) -> dict[str, Any]:
    """Returns an initializer as Keras serializes it. An object would draw a seed now, and share it among all models."""
    config = {**config, "seed": None}
    return {"module": "keras.initializers", "class_name": name, "config": config, "registered_name": None}


# The standard deviation of LeCun's initializer, but not truncated.
_GATES = _initializer("VarianceScaling", scale=1.0, mode="fan_in", distribution="untruncated_normal")
# The centroids `(K, S)` are a kernel of `S` inputs and `K` outputs.
_HE = {
    "kernel_initializer": "he_normal",
    "centroids_initializer": _initializer(
        "VarianceScaling", scale=2.0, mode="fan_out", distribution="truncated_normal"
    ),
}
_NORMALIZED: dict[str, Any] = {"assignment_batch_normalization": True}


def _miech(
    pooling: str, rgb: int, audio: int, *, hidden: int = 1024, l2: float = 1e-6, **further: Any
) -> dict[str, Any]:
    """Returns the settings that all models of Miech et al. 2017 share, with a number of clusters for each stream."""
    return {
        "feature_sizes": YOUTUBE_8M,
        "pooling": pooling,
        "num_clusters": {"rgb": rgb, "audio": audio},
        "pooling_options": _NORMALIZED,
        "hidden_units": hidden,
        "joint_input_normalization": True,
        "input_batch_normalization": True,
        "batch_normalization_momentum": 0.999,
        "hidden_activation": None,
        "hidden_initializer": _initializer("RandomNormal", mean=0.0, stddev=rgb**-0.5),
        "gating_initializer": _GATES,
        "num_mixtures": 2,
        # Their penalty `l2` is half a sum of squares.
        "classifier_regularizer": keras.regularizers.L2(l2 / 2),
        **further,
    }


def _gated(pooling: str, rgb: int, audio: int, **further: Any) -> dict[str, Any]:
    """Returns the settings of a model that gates its projection and its scores."""
    return _miech(pooling, rgb, audio, gate_features=True, gate_scores=True, **further)


def _gated_fisher_vector(rgb: int, audio: int, **further: Any) -> dict[str, Any]:
    """Returns the settings of `NetFVModelLF`, which normalizes the two orders separately."""
    return _gated("netfv", rgb, audio, pooling_options={**_NORMALIZED, "separate_orders": True}, **further)


def _gated_counts(rgb: int, audio: int, **further: Any) -> dict[str, Any]:
    """Returns the settings of `GatedDbofModelLF`, which gates the counts of `rgb` and nothing else."""
    options = {"rgb": {**_NORMALIZED, "gate_counts": True}, "audio": _NORMALIZED}
    return _miech("soft_dbow", rgb, audio, pooling_options=options, **further)


PRESETS: dict[str, dict[str, Any]] = {
    "gated_netvlad": _gated("netvlad", 256, 128),
    "gated_netrvlad": _gated("netrvlad", 256, 128),
    "gated_netfv": _gated_fisher_vector(128, 64),
    "gated_soft_dbow": _gated_counts(4096, 512),
    "soft_dbow": _miech("soft_dbow", 8000, 1000, l2=1e-8),
    "nextvlad": {
        "feature_sizes": YOUTUBE_8M,
        "pooling": "nextvlad",
        "num_clusters": {"rgb": 128, "audio": 64},
        # Batch normalization of the descriptor replaces its L2 normalization.
        "pooling_options": {
            "rgb": {"groups": 8, "expansion": 2, "output_normalization": False, **_HE},
            "audio": {"groups": 4, "expansion": 2, "output_normalization": False, **_HE},
        },
        "batch_normalization_momentum": 0.999,
        "descriptor_batch_normalization": True,
        "dropout": 0.5,
        "hidden_units": 2048,
        "hidden_activation": None,
        "hidden_batch_normalization": True,
        "hidden_initializer": "he_normal",
        "gate_features": True,
        "gating_reduction": 8,
        "gating_initializer": "he_normal",
        "classifier_initializer": "he_normal",
        "classifier_regularizer": keras.regularizers.L2(0.5e-5),
        "classifier_bias_regularizer": keras.regularizers.L2(0.5e-5),
    },
    # `MoeModel` of google/youtube-8m; `train.py` there scales the features to unit norm. `l2` is half a sum of squares.
    "youtube8m_moe": {
        "feature_sizes": YOUTUBE_8M,
        "pooling": "mean",
        "descriptor_normalization": True,
        "hidden_units": None,
        "hidden_activation": None,
        "num_mixtures": 2,
        "classifier_regularizer": keras.regularizers.L2(0.5e-8),
    },
    "skalic_austin_2018_netvlad_1": _gated("netvlad", 256, 128),
    "skalic_austin_2018_netvlad_2": _gated("netvlad", 192, 96, hidden=992),
    "skalic_austin_2018_netfv": _gated_fisher_vector(96, 48, hidden=1540),
    "skalic_austin_2018_soft_dbow_1": _gated_counts(4096, 512),
    "skalic_austin_2018_soft_dbow_2": _gated_counts(6144, 768, hidden=1536),
    "skalic_austin_2018_soft_dbow_3": _gated_counts(3684, 460, hidden=920),
}


def preset_settings(preset: Any, feature_sizes: Any = None) -> dict[str, Any]:
    """Returns the arguments of `VideoClassifier` for a preset.

    Args:
        preset: String, one of `PRESETS`.
        feature_sizes: The streams, if they are not YouTube-8M's. A stream that is not named `audio` takes the settings
            of `rgb`.

    Returns:
        Dict of arguments.

    Raises:
        ValueError: If the preset does not exist.
    """
    check_choice("preset", preset, PRESETS)
    settings = PRESETS[preset]
    streams = list(feature_sizes) if isinstance(feature_sizes, Mapping) else list(YOUTUBE_8M)
    return {
        argument: {stream: value.get(stream, value["rgb"]) for stream in streams} if _is_by_stream(value) else value
        for argument, value in settings.items()
    }


def _is_by_stream(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == set(YOUTUBE_8M)
