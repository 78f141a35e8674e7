"""Published models of YouTube-8M as arguments of `VideoClassifier`.

docs/presets.md describes each model, the source of its settings, and what its authors measured.
"""

from collections.abc import Mapping
from typing import Any

import keras

from keras_netvlad.base.validation import check_choice

YOUTUBE_8M = {"rgb": 1024, "audio": 128}

# Miech et al. 2017, all settings except the pooling. Their penalty `l2` is half a sum of squares.
_GATED: dict[str, Any] = {
    "feature_sizes": YOUTUBE_8M,
    "hidden_units": 1024,
    "input_batch_normalization": True,
    "hidden_activation": None,
    "gate_features": True,
    "gate_scores": True,
    "num_mixtures": 2,
    "classifier_regularizer": keras.regularizers.L2(0.5e-6),
}
_NORMALIZED: dict[str, Any] = {"pooling_options": {"assignment_batch_normalization": True}}
# Skalic & Austin's Soft-DBoWs gate neither projection nor scores.
_SOFT_DBOW = {**_GATED, **_NORMALIZED, "pooling": "soft_dbow", "gate_features": False, "gate_scores": False}

PRESETS: dict[str, dict[str, Any]] = {
    "gated_netvlad": {**_GATED, **_NORMALIZED, "pooling": "netvlad", "num_clusters": {"rgb": 256, "audio": 128}},
    "gated_netrvlad": {**_GATED, **_NORMALIZED, "pooling": "netrvlad", "num_clusters": {"rgb": 256, "audio": 128}},
    "gated_netfv": {**_GATED, **_NORMALIZED, "pooling": "netfv", "num_clusters": {"rgb": 128, "audio": 64}},
    "gated_soft_dbow": {**_GATED, **_NORMALIZED, "pooling": "soft_dbow", "num_clusters": {"rgb": 4096, "audio": 512}},
    "nextvlad": {
        "feature_sizes": YOUTUBE_8M,
        "pooling": "nextvlad",
        "num_clusters": {"rgb": 128, "audio": 64},
        # Batch normalization of the descriptor replaces its L2 normalization.
        "pooling_options": {
            "rgb": {"groups": 8, "expansion": 2, "output_normalization": False},
            "audio": {"groups": 4, "expansion": 2, "output_normalization": False},
        },
        "descriptor_batch_normalization": True,
        "dropout": 0.5,
        "hidden_units": 2048,
        "hidden_activation": None,
        "hidden_batch_normalization": True,
        "gate_features": True,
        "gating_reduction": 8,
        "classifier_regularizer": keras.regularizers.L2(0.5e-5),
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
    "skalic_austin_2018_netvlad_1": {
        **_GATED,
        **_NORMALIZED,
        "pooling": "netvlad",
        "num_clusters": {"rgb": 256, "audio": 128},
    },
    "skalic_austin_2018_netvlad_2": {
        **_GATED,
        **_NORMALIZED,
        "pooling": "netvlad",
        "num_clusters": {"rgb": 192, "audio": 96},
        "hidden_units": 992,
    },
    "skalic_austin_2018_netfv": {
        **_GATED,
        **_NORMALIZED,
        "pooling": "netfv",
        "num_clusters": {"rgb": 96, "audio": 48},
        "hidden_units": 1540,
    },
    "skalic_austin_2018_soft_dbow_1": {**_SOFT_DBOW, "num_clusters": {"rgb": 4096, "audio": 512}},
    "skalic_austin_2018_soft_dbow_2": {**_SOFT_DBOW, "num_clusters": {"rgb": 6144, "audio": 768}, "hidden_units": 1536},
    "skalic_austin_2018_soft_dbow_3": {**_SOFT_DBOW, "num_clusters": {"rgb": 3684, "audio": 460}, "hidden_units": 920},
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
