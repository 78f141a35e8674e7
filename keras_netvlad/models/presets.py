"""Published models of YouTube-8M as arguments of `VideoClassifier`: data, no class each.

What each is, where the settings stand, and what its authors measured: docs/presets.md.
"""

from collections.abc import Mapping

import keras

YOUTUBE_8M = {"rgb": 1024, "audio": 128}

# Miech et al. 2017: everything but the pooling. Their penalty `l2` is half a sum of squares.
_GATED = {
    "feature_sizes": YOUTUBE_8M,
    "hidden_units": 1024,
    "input_batch_normalization": True,
    "hidden_activation": None,
    "gate_features": True,
    "gate_scores": True,
    "num_mixtures": 2,
    "classifier_regularizer": keras.regularizers.L2(0.5e-6),
}
_NETVLAD = {"pooling": "netvlad", "pooling_options": {"assignment_batch_normalization": True}}

PRESETS = {
    "gated_netvlad": {**_GATED, **_NETVLAD, "num_clusters": {"rgb": 256, "audio": 128}},
    "skalic_austin_2018_netvlad_1": {**_GATED, **_NETVLAD, "num_clusters": {"rgb": 256, "audio": 128}},
    "skalic_austin_2018_netvlad_2": {
        **_GATED,
        **_NETVLAD,
        "num_clusters": {"rgb": 192, "audio": 96},
        "hidden_units": 992,
    },
}


def preset_settings(preset, feature_sizes=None):
    """The arguments of `VideoClassifier` that a preset stands for.

    Args:
        preset: String, one of `PRESETS`.
        feature_sizes: The streams, if they are not YouTube-8M's; one that is not called `audio` takes what the preset
            has for `rgb`.

    Returns:
        Dict of arguments.

    Raises:
        ValueError: If there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"The preset must be one of {list(PRESETS)}. Received: {preset!r}")
    settings = PRESETS[preset]
    streams = list(feature_sizes) if isinstance(feature_sizes, Mapping) else list(YOUTUBE_8M)
    return {
        argument: {stream: value.get(stream, value["rgb"]) for stream in streams} if _is_by_stream(value) else value
        for argument, value in settings.items()
    }


def _is_by_stream(value):
    return isinstance(value, Mapping) and set(value) == set(YOUTUBE_8M)
