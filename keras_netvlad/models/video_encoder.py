"""`VideoEncoder`: frame features in, a descriptor out."""

from collections.abc import Mapping
from typing import Any, Literal

import keras
from keras import ops

from keras_netvlad.base.names import DESCRIPTOR, NUM_FRAMES, SCORES
from keras_netvlad.base.validation import check_boolean, check_choice, check_integer
from keras_netvlad.layers import Dequantize, FrameMask
from keras_netvlad.layers.batch_normalization import MOMENTUM, BatchNormalization, check_momentum
from keras_netvlad.layers.vlad_ops import SQUARED_EPSILON, inverse_root, squared_norm
from keras_netvlad.models.model_registration import register_model
from keras_netvlad.models.poolings import (
    check_keywords,
    check_num_clusters,
    check_pooling_options,
    deserialize_pooling,
    plain,
    pooling_by_stream,
    pooling_layer,
    serialize_pooling,
)
from keras_netvlad.models.weights import copy_weights

INPUT_DTYPES = ("float32", "uint8")
PoolingName = Literal[
    "netvlad", "netrvlad", "netfv", "soft_dbow", "nextvlad", "salad", "mean", "mean_std", "max", "gem", "attention"
]


@register_model
class VideoEncoder(keras.Model):
    """Turns the frame features of a video into one descriptor: a pooling layer for each stream, concatenated.

    Use it alone for retrieval, with `index_records`, `Embed` and `from_pixels`; or as the first part of a
    `VideoClassifier`. It is a functional `keras.Model` with one input for each stream and the input `num_frames`, the
    number of real frames of each video:

        frames -> dequantize -> L2 norm -> batch norm -> pooling -> descriptor

    Limits: `keras.models.clone_model` returns a plain `keras.Model` of the same graph with new weights;
    `VideoEncoder.from_config(encoder.get_config())` returns a new `VideoEncoder`.

    Args:
        feature_sizes: Dict from the name of each stream to its feature size, such as `{"frames": 1152}` or
            `{"rgb": 1024, "audio": 128}`. All streams share the time axis and `num_frames`.
        pooling: The pooling layer of the streams. One of:

            - A name: `"netvlad"`, `"netrvlad"`, `"netfv"`, `"soft_dbow"`, `"nextvlad"`, `"salad"`, `"mean"`,
              `"mean_std"`, `"max"`, `"gem"` or `"attention"`. The layer is named `<stream>_<pooling>`.
            - A layer with `call(frames, mask=None)` that maps `(B, T, D)` and a boolean mask `(B, T)` to `(B, F)`, for
              example `keras.layers.GlobalAveragePooling1D()` or your own. It must ignore frames where the mask is
              `False`. Your own class should set `supports_masking = True` and return `None` from `compute_mask`, and be
              registered with `keras.saving.register_keras_serializable`, so that files of the model load. One stream
              uses the layer itself, with its weights and name. Several streams use new copies made from its
              configuration, named `<stream>_<name>`.
            - A dict with a name or a layer for each stream. Each layer is used itself.
        num_clusters: Integer, `K`; or a dict with the number of clusters of each stream. Poolings without clusters
            and given layers ignore it.
        pooling_options: Dict of further arguments of poolings given by name, such as
            `{"assignment_batch_normalization": True}`; or a dict of such dicts, one for each stream.
        product_dtype: `None` or `"bfloat16"`, as in `NetVLAD`.
        input_dtype: `"float32"` (float64 under a float64 policy), or `"uint8"` for streams of bytes, which
            `Dequantize` turns into features. Bytes are a quarter of the traffic to a training device.
        joint_input_normalization: Boolean, whether to scale the features of each frame, those of all streams together,
            to unit L2 norm, as the winners of YouTube-8M did. Bytes are dequantized first.
        input_batch_normalization: Boolean, whether to batch-normalize the features of each stream. The statistics
            exclude padding.
        batch_normalization_momentum: Number from 0 to below 1, the share of the moving statistics that a training step
            keeps, in every batch normalization, also those of poolings given by name.
        num_frames_per_stream: Boolean. `True` replaces the input `num_frames` by `num_frames_<stream>` for each stream,
            for streams of different rates and videos that lack a stream, as `youtube8m(..., frame_counts="each")` reads
            them. A missing stream has 0 frames and the descriptor 0.
        dtype: Dtype or dtype policy of the layers.
        **kwargs: `name` and `trainable` of the model.

    Call arguments:
        inputs: Dict of each stream, `(B, T, D)` of `input_dtype`, and `num_frames`, integer `(B,)`; or
            `num_frames_<stream>` for each stream, whose `T` may then differ. A `num_frames` of
            zero or less gives a descriptor of zeros; more than `T` means `T`. Send the true number to a server that
            merges requests: it pads, so that `T` grows. Frames beyond `num_frames` may contain anything.

    Output shape:
        Dict of `descriptor` `(B, F)`, float32 or better. `F` is the sum of the sizes that the poolings return, `K * D`
        for `NetVLAD`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad import VideoEncoder
    >>> encoder = VideoEncoder({"frames": 64}, num_clusters=8)
    >>> frames = np.random.default_rng(0).normal(size=(2, 30, 64)).astype("float32")
    >>> tuple(encoder({"frames": frames, "num_frames": np.array([30, 12], "int32")})["descriptor"].shape)
    (2, 512)

    Raises:
        ValueError: If an argument is invalid.
        TypeError: If an argument is unknown.

    Reference:
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 3 (the descriptor).
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905), figure 1 (one pooling for each stream).
    """

    def __init__(
        self,
        feature_sizes: Mapping[str, int],
        pooling: PoolingName | keras.Layer | Mapping[str, PoolingName | keras.Layer] = "netvlad",
        *,
        num_clusters: int | Mapping[str, int] = 64,
        pooling_options: Mapping[str, Any] | None = None,
        product_dtype: Literal["bfloat16"] | None = None,
        input_dtype: Literal["float32", "uint8"] = "float32",
        joint_input_normalization: bool = False,
        input_batch_normalization: bool = False,
        batch_normalization_momentum: float = MOMENTUM,
        num_frames_per_stream: bool = False,
        dtype: str | keras.DTypePolicy | None = None,
        **kwargs: Any,
    ) -> None:
        check_keywords(type(self), kwargs)
        feature_sizes = check_feature_sizes(feature_sizes)
        clusters = check_num_clusters(num_clusters, list(feature_sizes))
        poolings = pooling_by_stream(pooling, list(feature_sizes))
        momentum = check_momentum(batch_normalization_momentum)
        options = check_pooling_options(poolings, pooling_options, product_dtype, momentum)
        check_choice("input_dtype", input_dtype, INPUT_DTYPES)
        check_boolean("joint_input_normalization", joint_input_normalization)
        check_boolean("input_batch_normalization", input_batch_normalization)
        check_boolean("num_frames_per_stream", num_frames_per_stream)
        dtype_policy = check_dtype(dtype)
        # The outputs of a mixed-precision model are float32: float16 has three digits.
        output_dtype = "float64" if dtype_policy.compute_dtype == "float64" else "float32"

        # === Inputs ===
        stream_dtype = "uint8" if input_dtype == "uint8" else output_dtype
        streams = {
            name: keras.Input((None, size), name=name, dtype=stream_dtype) for name, size in feature_sizes.items()
        }
        count_names = {name: f"{NUM_FRAMES}_{name}" if num_frames_per_stream else NUM_FRAMES for name in feature_sizes}
        if taken := set(count_names.values()) & set(feature_sizes):
            raise ValueError(f"A stream must not have the name of another input. Received: {sorted(taken)}")
        counts = {name: keras.Input((), name=name, dtype="int32") for name in dict.fromkeys(count_names.values())}

        # === Features of each stream ===
        masks, features = {}, {}
        for name, frames in streams.items():
            masks[name] = FrameMask(name=f"{name}_mask")(counts[count_names[name]], frames)
            if input_dtype == "uint8":
                frames = Dequantize(dtype=output_dtype, name=f"{name}_dequantize")(frames)
            if joint_input_normalization or input_batch_normalization:
                # The pooling selects real frames itself, but only after the normalizations have seen the padding, and
                # the gradient of their weights would be 0 * NaN.
                frames = ops.where(ops.expand_dims(masks[name], -1), frames, 0.0)
            features[name] = frames
        if joint_input_normalization:
            features = _jointly_normalized(features)

        # === Pooling of each stream ===
        pooled, layers = [], {}
        for name, frames in features.items():
            if input_batch_normalization:
                normalize = BatchNormalization(
                    momentum=momentum, dtype=output_dtype, name=f"{name}_batch_normalization"
                )
                frames = normalize(frames, mask=masks[name])
            layers[name] = pooling_layer(name, poolings[name], clusters[name], options[name], dtype_policy)
            pooled.append(_pooled(layers[name], frames, masks[name]))

        # === Descriptor ===
        joined = pooled[0] if len(pooled) == 1 else keras.layers.Concatenate(dtype=dtype_policy)(pooled)
        descriptor = keras.layers.Activation("linear", dtype=output_dtype, name=DESCRIPTOR)(joined)
        super().__init__(inputs={**streams, **counts}, outputs={DESCRIPTOR: descriptor}, **kwargs)

        # === Configuration ===
        self.feature_sizes = feature_sizes
        self.num_clusters = dict(clusters) if isinstance(num_clusters, Mapping) else num_clusters
        self.pooling_options = pooling_options
        self.product_dtype = product_dtype
        self.stream_dtype = input_dtype  # Keras uses the name `input_dtype` for casts.
        self.joint_input_normalization = joint_input_normalization
        self.input_batch_normalization = input_batch_normalization
        self.batch_normalization_momentum = momentum
        self.num_frames_per_stream = num_frames_per_stream
        self._pooling_name = pooling if isinstance(pooling, str) else None
        self._pooling_names = {name: value if isinstance(value, str) else None for name, value in poolings.items()}
        self._pooling_layer_names = {name: layer.name for name, layer in layers.items()}
        self._inner_dtype_policy = dtype_policy

    @property
    def pooling(self) -> Any:
        """The name of the pooling, or a dict with the name or the layer of each stream."""
        if self._pooling_name is not None:
            return self._pooling_name
        return {stream: name or self.pooling_layers[stream] for stream, name in self._pooling_names.items()}

    @property
    def pooling_layers(self) -> dict[str, keras.Layer]:
        """The pooling layer of each stream, for example to call `adapt`."""
        return {stream: self.get_layer(name) for stream, name in self._pooling_layer_names.items()}

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self._inner_dtype_policy),
            "feature_sizes": dict(self.feature_sizes),
            "num_clusters": plain(self.num_clusters),
            "product_dtype": self.product_dtype,
            "pooling": serialize_pooling(self.pooling),
            "pooling_options": keras.saving.serialize_keras_object(plain(self.pooling_options)),
            "input_dtype": self.stream_dtype,
            "joint_input_normalization": self.joint_input_normalization,
            "input_batch_normalization": self.input_batch_normalization,
            "batch_normalization_momentum": self.batch_normalization_momentum,
            "num_frames_per_stream": self.num_frames_per_stream,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> "VideoEncoder":
        """Makes a new encoder with the arguments that `get_config` returned."""
        return cls(**deserialize_arguments(config, custom_objects))

    def with_input_dtype(self, input_dtype: Literal["float32", "uint8"]) -> "VideoEncoder":
        """Makes the same encoder for inputs of another dtype, with a copy of the weights.

        Train on bytes and publish for floats: the artifact of the float model also has a signature for bytes.

        Args:
            input_dtype: `"float32"` or `"uint8"`.

        Returns:
            A `VideoEncoder`; it is not compiled.

        Example:

        >>> from keras_netvlad import VideoEncoder
        >>> encoder = VideoEncoder({"rgb": 8}, num_clusters=2, input_dtype="uint8")
        >>> encoder.with_input_dtype("float32").input["rgb"].dtype
        'float32'

        Raises:
            ValueError: If `input_dtype` is invalid.
        """
        copy = type(self).from_config({**self.get_config(), "input_dtype": input_dtype})
        copy_weights(self, copy)
        return copy


def deserialize_arguments(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the arguments that a configuration describes, with their layers and regularizers."""
    arguments = dict(config)
    with keras.saving.custom_object_scope(dict(custom_objects or {})):
        if arguments.get("pooling_options"):
            arguments["pooling_options"] = keras.saving.deserialize_keras_object(arguments["pooling_options"])
        if "pooling" in arguments:
            arguments["pooling"] = deserialize_pooling(arguments["pooling"])
    return arguments


def check_dtype(dtype: Any) -> keras.DTypePolicy:
    """Returns the dtype policy of the layers, or raises if Keras does not know it."""
    try:
        return keras.dtype_policies.get(dtype)
    except (ValueError, TypeError):
        raise ValueError(
            "`dtype` must be a floating dtype, a dtype policy of Keras, or the name of one, such as 'mixed_bfloat16'. "
            f"Received: dtype={dtype!r}"
        ) from None


def check_feature_sizes(feature_sizes: Any) -> dict[str, int]:
    """Returns the feature sizes of the streams, or raises if a name or a size is invalid."""
    if not isinstance(feature_sizes, Mapping) or not feature_sizes:
        raise ValueError(
            "`feature_sizes` must be a dict from the name of each stream to its feature size, such as "
            f'{{"frames": 1152}}. Received: feature_sizes={feature_sizes!r}'
        )
    for name in feature_sizes:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                "The name of a stream must consist of letters, digits and underscores, because it names a model input. "
                f"Received: {name!r}"
            )
        if name in (NUM_FRAMES, SCORES, DESCRIPTOR):
            raise ValueError(f"A stream must not have the name of another input or output. Received: {name!r}")
    return {name: check_integer(f"feature_sizes[{name!r}]", size, 1) for name, size in feature_sizes.items()}


def _jointly_normalized(features: dict[str, keras.KerasTensor]) -> dict[str, keras.KerasTensor]:
    """Divides the features of each frame by the L2 norm of all streams together. Frames of zeros stay zeros."""
    squared = sum(squared_norm(frames) for frames in features.values())  # (B, T, 1)
    scale = inverse_root(squared, squared > SQUARED_EPSILON)
    return {name: frames * scale for name, frames in features.items()}


def _pooled(layer: keras.Layer, frames: keras.KerasTensor, mask: keras.KerasTensor) -> keras.KerasTensor:
    """Calls a pooling layer, and raises if the result is not a descriptor."""
    output = layer(frames, mask=mask)
    shape = getattr(output, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] is None:
        raise ValueError(
            "A `pooling` layer must return one descriptor (B, F) of known size F for each video. "
            f"Received: {layer.name!r}, which returns {shape if shape is not None else type(output).__name__}"
        )
    if layer.supports_masking and layer.compute_mask(frames, mask) is not None:
        raise ValueError(
            "A `pooling` layer that supports masking must return None from `compute_mask`, because a mask of frames "
            f"does not fit the descriptor. Received: {layer.name!r}, which passes the mask on"
        )
    return output
