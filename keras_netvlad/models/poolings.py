"""The pooling layers of a model's streams: given by name, as layers, or as a dict of either."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_netvlad.base.validation import check_integer, check_name
from keras_netvlad.layers import (
    SALAD,
    AttentionPooling,
    GeMPooling,
    MaxPooling,
    MeanPooling,
    MeanStdPooling,
    NetFV,
    NetRVLAD,
    NetVLAD,
    NeXtVLAD,
    SoftDBoW,
)
from keras_netvlad.layers.batch_normalization import MOMENTUM

POOLINGS: dict[str, type] = {
    "netvlad": NetVLAD,
    "netrvlad": NetRVLAD,
    "netfv": NetFV,
    "soft_dbow": SoftDBoW,
    "nextvlad": NeXtVLAD,
    "salad": SALAD,
    "mean": MeanPooling,
    "mean_std": MeanStdPooling,
    "max": MaxPooling,
    "gem": GeMPooling,
    "attention": AttentionPooling,
}


def argument_names(layer_class: type) -> list[str]:
    """Returns the names of the arguments of a constructor, without `*args` and `**kwargs`."""
    parameters = inspect.signature(layer_class.__init__).parameters.values()  # type: ignore[misc]  # read, not called
    return [p.name for p in parameters if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def check_keywords(model_class: type, keywords: Mapping[str, Any], positional: Sequence[Any] = ()) -> None:
    """Raises if a model gets other arguments than those of its constructor. Keras would ignore them."""
    unknown = [*sorted(set(keywords) - {"name", "trainable"}), *map(repr, positional)]
    if unknown:
        raise TypeError(
            f"`{model_class.__name__}` takes the arguments {[*argument_names(model_class), 'name', 'trainable']}. "
            f"Received: {unknown}"
        )
    name = check_name(keywords.get("name"))
    if name is not None and "/" in name:
        raise ValueError(f"`name` of a model must not contain '/'. Received: name={name!r}")


def pooling_by_stream(pooling: Any, streams: Sequence[str]) -> dict[str, Any]:
    """Returns the pooling of each stream, a name or a layer.

    Args:
        pooling: A name, a layer, or a dict of either for each stream. One layer for several streams is copied from
            its configuration, because streams may have different feature sizes.
        streams: Names of the streams.

    Raises:
        ValueError: If a pooling is neither a name nor a layer with a mask, or if it cannot serve the streams.
    """
    if isinstance(pooling, Mapping):
        if set(pooling) != set(streams):
            raise ValueError(
                f"A dict of `pooling` must have an entry for each stream of {sorted(streams)}. "
                f"Received: {sorted(map(str, pooling))}"
            )
        poolings = {stream: _check_pooling(pooling[stream]) for stream in streams}
        layers = [value for value in poolings.values() if isinstance(value, keras.Layer)]
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("A dict of `pooling` must have a different layer for each stream. Received: a layer twice")
        return poolings
    pooling = _check_pooling(pooling)
    if isinstance(pooling, str) or len(streams) == 1:
        return dict.fromkeys(streams, pooling)
    if pooling.weights:
        raise ValueError(
            "A `pooling` layer that already has weights can pool one stream only; give a dict with a layer for each "
            f"stream of {sorted(streams)}. Received: {pooling.name!r}, which is built"
        )
    return {
        stream: type(pooling).from_config({**pooling.get_config(), "name": f"{stream}_{pooling.name}"})
        for stream in streams
    }


def _check_pooling(pooling: Any) -> Any:
    if isinstance(pooling, keras.Layer):
        if "mask" not in inspect.signature(pooling.call).parameters:
            raise ValueError(
                "A `pooling` layer must have an argument `mask` in `call(frames, mask=None)` and ignore frames where "
                f"it is False; otherwise padding changes the descriptor. Received: {type(pooling).__name__}"
            )
        return pooling
    if not isinstance(pooling, str) or pooling not in POOLINGS:
        raise ValueError(
            f"`pooling` must be one of {list(POOLINGS)}, a Keras layer, or a dict of either for each stream. "
            f"Received: pooling={pooling!r}"
        )
    return pooling


def check_num_clusters(num_clusters: Any, streams: Sequence[str]) -> dict[str, int]:
    """Returns the number of clusters of each stream."""
    if not isinstance(num_clusters, Mapping):
        return dict.fromkeys(streams, check_integer("num_clusters", num_clusters, 1))
    if set(num_clusters) != set(streams):
        raise ValueError(
            f"`num_clusters` must be an integer or a dict with an entry for each stream of {sorted(streams)}. "
            f"Received: {sorted(num_clusters)}"
        )
    return {name: check_integer(f"num_clusters[{name!r}]", num_clusters[name], 1) for name in streams}


def check_pooling_options(
    poolings: Mapping[str, Any], pooling_options: Any, product_dtype: str | None, momentum: float = MOMENTUM
) -> dict[str, dict[str, Any]]:
    """Returns the further arguments of the pooling layer of each stream, with `product_dtype` and the momentum.

    Args:
        poolings: The pooling of each stream, as `pooling_by_stream` returns it.
        pooling_options: Dict of arguments, one such dict for each stream, or `None`.
        product_dtype: `None` or `"bfloat16"`.
        momentum: `batch_normalization_momentum` of the poolings that have one and whose options do not set it.

    Raises:
        ValueError: If an option is not an argument of the pooling.
    """
    if pooling_options is not None and not isinstance(pooling_options, Mapping):
        raise ValueError(
            "`pooling_options` must be a dict of arguments of the pooling layer, or one such dict for each stream. "
            f"Received: pooling_options={pooling_options!r}"
        )
    options = plain(pooling_options) or {}
    if set(options) != set(poolings):
        options = dict.fromkeys(poolings, options)
    for stream, pooling in poolings.items():
        if isinstance(pooling, keras.Layer):
            if options[stream] or product_dtype is not None:
                raise ValueError(
                    "`pooling_options` and `product_dtype` are for poolings given by name; set the options of a layer "
                    f"when you make it. Received: pooling_options={pooling_options!r}, product_dtype={product_dtype!r}"
                )
            continue
        known = argument_names(POOLINGS[pooling])
        allowed = sorted(set(known) - {"num_clusters", "product_dtype"})
        if not isinstance(options[stream], Mapping) or not set(options[stream]) <= set(allowed):
            raise ValueError(
                f"`pooling_options` of {pooling!r} must be some of {allowed}, or a dict of such dicts with an entry "
                f"for each stream of {sorted(poolings)}. Received: pooling_options={pooling_options!r}"
            )
        if "batch_normalization_momentum" in known:
            options[stream] = {"batch_normalization_momentum": momentum, **options[stream]}
        if product_dtype is None:
            continue
        if "product_dtype" not in known:
            raise ValueError(
                f"`product_dtype` must be None for pooling={pooling!r}, which has no such option. "
                f"Received: product_dtype={product_dtype!r}"
            )
        options[stream] = {**options[stream], "product_dtype": product_dtype}
    return options


def pooling_layer(stream: str, pooling: Any, num_clusters: int, options: Mapping[str, Any], dtype: Any) -> keras.Layer:
    """Returns the pooling layer of a stream: the given layer, or a new one named `<stream>_<pooling>`."""
    if isinstance(pooling, keras.Layer):
        return pooling
    layer_class = POOLINGS[pooling]
    clusters = {"num_clusters": num_clusters} if "num_clusters" in argument_names(layer_class) else {}
    return layer_class(name=f"{stream}_{pooling}", dtype=dtype, **clusters, **options)


def serialize_pooling(pooling: Any) -> Any:
    """Returns a pooling as JSON: a name, the configuration of a layer, or a dict of either."""
    if isinstance(pooling, Mapping):
        return {stream: serialize_pooling(value) for stream, value in pooling.items()}
    if isinstance(pooling, keras.Layer):
        config = keras.saving.serialize_keras_object(pooling)
        # The model builds the layer when it calls it.
        config.pop("build_config", None)
        return config
    return pooling


def deserialize_pooling(pooling: Any) -> Any:
    """Returns the pooling that `serialize_pooling` described."""
    if isinstance(pooling, Mapping) and "class_name" in pooling and "config" in pooling:
        return keras.saving.deserialize_keras_object(pooling)
    if isinstance(pooling, Mapping):
        return {stream: deserialize_pooling(value) for stream, value in pooling.items()}
    return pooling


def plain(options: Any) -> Any:
    """Returns nested dicts as plain ones. Keras wraps the dicts that are attributes of a model."""
    if isinstance(options, Mapping):
        return {key: plain(value) for key, value in options.items()}
    return options
