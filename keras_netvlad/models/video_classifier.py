"""`VideoClassifier`: frame features in, class scores and a descriptor out."""

import functools
import inspect
from collections.abc import Mapping

import keras
from keras import ops

from keras_netvlad.base.names import DESCRIPTOR, NUM_FRAMES, SCORES
from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.layers import (
    AttentionPooling,
    ContextGating,
    Dequantize,
    FrameMask,
    MaxPooling,
    MeanPooling,
    MeanStdPooling,
    MixtureOfExperts,
    NetFV,
    NetRVLAD,
    NetVLAD,
    NeXtVLAD,
    SoftDBoW,
)
from keras_netvlad.models.presets import preset_settings
from keras_netvlad.models.scoring_model import ScoringModel

POOLINGS = {
    "netvlad": NetVLAD,
    "netrvlad": NetRVLAD,
    "netfv": NetFV,
    "soft_dbow": SoftDBoW,
    "nextvlad": NeXtVLAD,
    "mean": MeanPooling,
    "mean_std": MeanStdPooling,
    "max": MaxPooling,
    "attention": AttentionPooling,
}
INPUT_DTYPES = ("float32", "uint8")


@keras.saving.register_keras_serializable(package="keras_netvlad")
class VideoClassifier(ScoringModel):
    """Classifies videos from frame features: a pooling layer for each stream, a hidden projection, a classifier.

    One input a stream of features, and `num_frames`, which says how many frames are real. It is a plain functional
    `keras.Model`: `fit`, `save`, `summary` and `keras.utils.plot_model` work as ever. Loss, metrics and labels that
    are no dicts belong to `scores`; dicts may name `descriptor`, too. `quantize` changes the hidden layer and the
    classifier, where nearly all weights are, and leaves the pooling in float32.

    By default it is small and plain. The options between the two are those of YouTube-8M's winners, and
    `VideoClassifier.from_preset` sets them as they did:

        frames -> batch norm -> pooling -> batch norm -> dropout -> hidden -> batch norm -> activation
               -> context gating -> dense layer or mixture of experts -> context gating -> scores

    Args:
        feature_sizes: Dict from the name of each stream to its feature size, such as `{"frames": 1152}` or
            `{"rgb": 1024, "audio": 128}`. Streams share the time axis and `num_frames`; each has a pooling layer.
        num_classes: Integer, `C`.
        num_clusters: Integer, `K`; or a dict with the number of clusters of each stream. Poolings without clusters
            leave it aside.
        hidden_units: Integer, width of the projection of the descriptor; or `None` for a classifier right behind the
            descriptor.
        activation: `"sigmoid"` for classes that may occur together, `"softmax"` for one class a video.
        product_dtype: `None` or `"bfloat16"`, as of `NetVLAD`.
        pooling: Name of the pooling layer: `"netvlad"`, `"netrvlad"`, `"netfv"`, `"soft_dbow"`, `"nextvlad"`,
            `"mean"`, `"mean_std"`, `"max"` or `"attention"`.
        pooling_options: Dict of further arguments of the pooling layers, such as
            `{"assignment_batch_normalization": True}`; or a dict of such dicts, one for each stream.
        input_dtype: `"float32"` (float64 under a float64 policy), or `"uint8"` for streams of bytes, which
            `Dequantize` turns into features: a quarter of the traffic to a training device.
        input_batch_normalization: Boolean, whether to batch-normalize the features of each stream, leaving padding
            out of the statistics.
        descriptor_batch_normalization: Boolean, whether to batch-normalize what the poolings give on its way to the
            projection; the output `descriptor` is from before.
        dropout: Number from 0 to below 1, share of the descriptor that training drops before the projection.
        hidden_activation: Name of the projection's activation, such as `"relu"`; or `None` for a linear projection.
        hidden_batch_normalization: Boolean, whether to batch-normalize the projection, whose bias it replaces.
        gate_features: Boolean, whether `ContextGating` gates the projection.
        gate_scores: Boolean, whether `ContextGating` gates the scores.
        gating_batch_normalization: Boolean, whether gates are batch-normalized.
        gating_reduction: Integer, `reduction` of the gating of features; or `None`.
        num_mixtures: Integer, for a `MixtureOfExperts` as the classifier; or `None` for a dense layer.
        classifier_regularizer: Regularizer of the classifier's kernels.
        **kwargs: `name`, `trainable` and `dtype` of the model; a dtype policy reaches every layer.

    Call arguments:
        inputs: Dict of each stream, `(B, T, D)` of `input_dtype`, and `num_frames`, integer `(B,)`. Zero frames or
            fewer give a descriptor of zeros; more than `T` mean `T`. Frames beyond `num_frames` may hold anything.

    Output shape:
        Dict of `scores` `(B, C)` and `descriptor` `(B, F)`, both in float32 or better; `F` is the sum of what the
        streams' poolings give, `K * D` of `NetVLAD`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.models import VideoClassifier
    >>> model = VideoClassifier({"frames": 64}, num_classes=10, num_clusters=8, hidden_units=None)
    >>> frames = np.random.default_rng(0).normal(size=(2, 30, 64)).astype("float32")
    >>> outputs = model({"frames": frames, "num_frames": np.array([30, 12], "int32")})
    >>> tuple(outputs["scores"].shape), tuple(outputs["descriptor"].shape)
    ((2, 10), (2, 512))

    Raises:
        ValueError: On an argument that is none of the above.
        TypeError: On an argument of another name.

    Reference:
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905), figure 1.
        - [Lin et al. 2018](https://arxiv.org/abs/1811.05014), figure 3 (dropout, gating with a bottleneck).
    """

    def __init__(
        self,
        feature_sizes,
        num_classes,
        num_clusters=64,
        hidden_units=1024,
        activation="sigmoid",
        product_dtype=None,
        dtype=None,
        *,
        pooling="netvlad",
        pooling_options=None,
        input_dtype="float32",
        input_batch_normalization=False,
        descriptor_batch_normalization=False,
        dropout=0.0,
        hidden_activation="relu",
        hidden_batch_normalization=False,
        gate_features=False,
        gate_scores=False,
        gating_batch_normalization=True,
        gating_reduction=None,
        num_mixtures=None,
        classifier_regularizer=None,
        **kwargs,
    ):
        unknown = sorted(set(kwargs) - {"name", "trainable"})
        if unknown:  # Keras would take them without a word
            raise TypeError(
                f"`VideoClassifier` takes the arguments {[*_arguments(type(self)), 'name', 'trainable']}. "
                f"Received: {unknown}"
            )
        feature_sizes = _check_feature_sizes(feature_sizes)
        clusters = _check_num_clusters(num_clusters, feature_sizes)
        num_classes = check_integer("num_classes", num_classes, 1)
        if hidden_units is not None:
            hidden_units = check_integer("hidden_units", hidden_units, 1)
        if activation not in ("sigmoid", "softmax"):
            raise ValueError(f"`activation` must be 'sigmoid' or 'softmax'. Received: activation={activation!r}")
        if not isinstance(pooling, str) or pooling not in POOLINGS:
            raise ValueError(f"`pooling` must be one of {list(POOLINGS)}. Received: pooling={pooling!r}")
        options = _check_pooling_options(pooling, pooling_options, product_dtype, feature_sizes)
        if input_dtype not in INPUT_DTYPES:
            raise ValueError(
                f"`input_dtype` must be one of {list(INPUT_DTYPES)}. Received: input_dtype={input_dtype!r}"
            )
        _check_head(hidden_units, activation, hidden_batch_normalization, gate_features, gate_scores, num_mixtures)
        check_boolean("input_batch_normalization", input_batch_normalization)
        check_boolean("descriptor_batch_normalization", descriptor_batch_normalization)
        check_boolean("gating_batch_normalization", gating_batch_normalization)
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be a number from 0 to below 1. Received: dropout={dropout!r}")
        if gating_reduction is not None:
            check_integer("gating_reduction", gating_reduction, 1)
        _check_known(keras.activations, "hidden_activation", hidden_activation)
        classifier_regularizer = _check_known(keras.regularizers, "classifier_regularizer", classifier_regularizer)

        dtype_policy = keras.dtype_policies.get(dtype)
        # Answers leave a mixed-precision model in float32: a float16 score has three digits.
        answer_dtype = "float64" if dtype_policy.compute_dtype == "float64" else "float32"
        stream_dtype = "uint8" if input_dtype == "uint8" else answer_dtype
        streams = {
            name: keras.Input((None, size), name=name, dtype=stream_dtype) for name, size in feature_sizes.items()
        }
        num_frames = keras.Input((), name=NUM_FRAMES, dtype="int32")
        pooled = []
        for name, stream in streams.items():
            mask = FrameMask(name=f"{name}_mask")(num_frames, stream)
            frames = stream
            if input_dtype == "uint8":
                frames = Dequantize(dtype=answer_dtype, name=f"{name}_dequantize")(frames)
            if input_batch_normalization:
                # The pooling picks real frames by itself, but only after the normalization's weights have met the
                # padding, and their gradient would be 0 * NaN.
                frames = ops.where(ops.expand_dims(mask, -1), frames, 0.0)
                normalize = keras.layers.BatchNormalization(dtype=answer_dtype, name=f"{name}_batch_normalization")
                frames = normalize(frames, mask=mask)
            layer = POOLINGS[pooling]
            if "num_clusters" in _arguments(layer):
                layer = functools.partial(layer, clusters[name])
            pooled.append(layer(name=f"{name}_{pooling}", dtype=dtype_policy, **options[name])(frames, mask=mask))
        descriptor = pooled[0] if len(pooled) == 1 else keras.layers.Concatenate(dtype=dtype_policy)(pooled)
        features = descriptor
        if descriptor_batch_normalization:
            normalize = keras.layers.BatchNormalization(dtype=dtype_policy, name="descriptor_batch_normalization")
            features = normalize(features)
        if dropout:
            features = keras.layers.Dropout(dropout, dtype=dtype_policy, name="dropout")(features)
        if hidden_units is not None:
            dense = {"activation": hidden_activation, "dtype": dtype_policy, "name": "hidden"}
            if hidden_batch_normalization:
                dense.update(activation=None, use_bias=False)
            features = keras.layers.Dense(hidden_units, **dense)(features)
            if hidden_batch_normalization:
                normalize = keras.layers.BatchNormalization(dtype=dtype_policy, name="hidden_batch_normalization")
                features = normalize(features)
                features = keras.layers.Activation(
                    hidden_activation or "linear", dtype=dtype_policy, name="hidden_activation"
                )(features)
        if gate_features:
            features = ContextGating(
                gating_batch_normalization, gating_reduction, dtype=dtype_policy, name="feature_gating"
            )(features)
        # The layer that answers bears the answer's name, by which Keras finds losses and metrics.
        name = "ungated_scores" if gate_scores else SCORES
        if num_mixtures is None:
            classifier = keras.layers.Dense(
                num_classes, activation, kernel_regularizer=classifier_regularizer, dtype=answer_dtype, name=name
            )
        else:
            classifier = MixtureOfExperts(
                num_classes,
                num_mixtures,
                gate_kernel_regularizer=classifier_regularizer,
                expert_kernel_regularizer=classifier_regularizer,
                dtype=answer_dtype,
                name=name,
            )
        scores = classifier(features)
        if gate_scores:
            scores = ContextGating(gating_batch_normalization, dtype=answer_dtype, name=SCORES)(scores)
        descriptor = keras.layers.Activation("linear", dtype=answer_dtype, name=DESCRIPTOR)(descriptor)
        super().__init__(
            inputs={**streams, NUM_FRAMES: num_frames},
            outputs={SCORES: scores, DESCRIPTOR: descriptor},
            **kwargs,
        )
        self.feature_sizes = feature_sizes
        self.num_classes = num_classes
        self.num_clusters = dict(clusters) if isinstance(num_clusters, Mapping) else num_clusters
        self.hidden_units = hidden_units
        self.activation = activation
        self.product_dtype = product_dtype
        self.pooling = pooling
        self.pooling_options = pooling_options
        self.stream_dtype = input_dtype  # `input_dtype` is Keras's, of casts
        self.input_batch_normalization = input_batch_normalization
        self.descriptor_batch_normalization = descriptor_batch_normalization
        self.dropout = dropout
        self.hidden_activation = hidden_activation
        self.hidden_batch_normalization = hidden_batch_normalization
        self.gate_features = gate_features
        self.gate_scores = gate_scores
        self.gating_batch_normalization = gating_batch_normalization
        self.gating_reduction = gating_reduction
        self.num_mixtures = num_mixtures
        self.classifier_regularizer = classifier_regularizer
        self._inner_dtype_policy = dtype_policy

    def get_config(self):
        """Returns the constructor's arguments, and which layers `quantize` changed since."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self._inner_dtype_policy),
            "feature_sizes": dict(self.feature_sizes),
            "num_classes": self.num_classes,
            "num_clusters": self.num_clusters if isinstance(self.num_clusters, int) else dict(self.num_clusters),
            "hidden_units": self.hidden_units,
            "activation": self.activation,
            "product_dtype": self.product_dtype,
            "pooling": self.pooling,
            "pooling_options": keras.saving.serialize_keras_object(_plain(self.pooling_options)),
            "input_dtype": self.stream_dtype,
            "input_batch_normalization": self.input_batch_normalization,
            "descriptor_batch_normalization": self.descriptor_batch_normalization,
            "dropout": self.dropout,
            "hidden_activation": self.hidden_activation,
            "hidden_batch_normalization": self.hidden_batch_normalization,
            "gate_features": self.gate_features,
            "gate_scores": self.gate_scores,
            "gating_batch_normalization": self.gating_batch_normalization,
            "gating_reduction": self.gating_reduction,
            "num_mixtures": self.num_mixtures,
            "classifier_regularizer": keras.regularizers.serialize(self.classifier_regularizer),
            "quantized_layers": {
                layer.name: layer.quantization_mode for layer in self.layers if layer.quantization_mode
            },
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model again from `get_config`."""
        config = dict(config)
        quantized_layers = config.pop("quantized_layers", {})
        if config.get("pooling_options"):
            config["pooling_options"] = keras.saving.deserialize_keras_object(config["pooling_options"])
        model = cls(**config)
        for name, mode in quantized_layers.items():
            model.get_layer(name).quantize(mode)
        return model

    @classmethod
    def from_preset(cls, preset, num_classes=3862, **overrides):
        """Makes the architecture of a published model of YouTube-8M, with fresh weights.

        - Miech et al., the winners of 2017: `gated_netvlad`, their best single model, `gated_netrvlad`, `gated_netfv`,
          `gated_soft_dbow`.
        - Lin et al. 2018: `nextvlad`, a quarter of the parameters of the first.
        - Skalic & Austin, the winners of 2018: `skalic_austin_2018_netvlad_1` and `_2`, `skalic_austin_2018_netfv`,
          `skalic_austin_2018_soft_dbow_1`, `_2` and `_3`, of which they made an ensemble.

        What each consists of, its source, and what its authors measured: docs/presets.md.

        Streams are `{"rgb": 1024, "audio": 128}` as in YouTube-8M. Give `feature_sizes` for features of your own; a
        stream that is not called `audio` takes the settings of `rgb`.

        Args:
            preset: String, one of the names above.
            num_classes: Integer, `C`; YouTube-8M has 3862 classes since 2018.
            **overrides: Any argument of `VideoClassifier`, in place of the preset's. Another `pooling` leaves out the
                preset's `pooling_options`.

        Returns:
            A `VideoClassifier`, named after the preset unless `name` is given.

        Example:

        >>> from keras_netvlad import VideoClassifier
        >>> model = VideoClassifier.from_preset(
        ...     "gated_netvlad", num_classes=9, feature_sizes={"frames": 12}, num_clusters=16, hidden_units=32
        ... )
        >>> model.output["scores"].shape, model.get_layer("scores").__class__.__name__
        ((None, 9), 'ContextGating')

        Raises:
            ValueError: If there is no such preset, or on an override that is no argument of the right kind.
        """
        settings = preset_settings(preset, overrides.get("feature_sizes"))
        unknown = set(overrides) - set(_arguments(cls)) - {"name", "trainable"}
        if unknown:
            raise ValueError(f"Overrides must be arguments of `VideoClassifier`. Received: {sorted(unknown)}")
        if overrides.get("pooling", settings["pooling"]) != settings["pooling"]:
            settings["pooling_options"] = None
        return cls(**{"name": preset, **settings, "num_classes": num_classes, **overrides})

    def with_input_dtype(self, input_dtype):
        """Makes the same model, with a copy of its weights, for inputs of another dtype.

        Train on bytes, publish for floats: the artefact of the float model has a signature for bytes, too.

        Args:
            input_dtype: `"float32"` or `"uint8"`.

        Returns:
            A `VideoClassifier`; it is not compiled.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad import VideoClassifier
        >>> model = VideoClassifier({"rgb": 8}, num_classes=3, num_clusters=2, input_dtype="uint8")
        >>> model.with_input_dtype("float32").input["rgb"].dtype
        'float32'

        Raises:
            ValueError: If `input_dtype` is none of the above.
        """
        copy = type(self).from_config({**self.get_config(), "input_dtype": input_dtype})
        for weight, original in zip(copy.weights, self.weights, strict=True):
            weight.assign(original)
        return copy


def _check_feature_sizes(feature_sizes):
    if not isinstance(feature_sizes, Mapping) or not feature_sizes:
        raise ValueError(
            "`feature_sizes` must be a dict from the name of each stream to its feature size, such as "
            f'{{"frames": 1152}}. Received: feature_sizes={feature_sizes!r}'
        )
    for name in feature_sizes:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                "A stream's name must be made of letters, digits and underscores, for it names a model input. "
                f"Received: {name!r}"
            )
        if name in (NUM_FRAMES, SCORES, DESCRIPTOR):
            raise ValueError(f"A stream can't bear the name of another input or output. Received: {name!r}")
    return {name: check_integer(f"feature_sizes[{name!r}]", size, 1) for name, size in feature_sizes.items()}


def _check_pooling_options(pooling, pooling_options, product_dtype, feature_sizes):
    """Further arguments of the pooling layer of each stream."""
    if pooling_options is not None and not isinstance(pooling_options, Mapping):
        raise ValueError(
            "`pooling_options` must be a dict of arguments of the pooling layer, or one such dict for each stream. "
            f"Received: pooling_options={pooling_options!r}"
        )
    options = _plain(pooling_options) or {}
    if set(options) != set(feature_sizes):
        options = dict.fromkeys(feature_sizes, options)
    known = _arguments(POOLINGS[pooling])
    allowed = sorted(set(known) - {"num_clusters", "product_dtype"})
    for stream in options:
        if not isinstance(options[stream], Mapping) or not set(options[stream]) <= set(allowed):
            raise ValueError(
                f"`pooling_options` of {pooling!r} must be some of {allowed}, or a dict of such dicts with an entry "
                f"for each stream of {sorted(feature_sizes)}. Received: pooling_options={pooling_options!r}"
            )
    if product_dtype is None:
        return options
    if "product_dtype" not in known:
        raise ValueError(
            f"`product_dtype` must be None for pooling={pooling!r}, which has no such option. "
            f"Received: product_dtype={product_dtype!r}"
        )
    return {stream: {**options[stream], "product_dtype": product_dtype} for stream in options}


def _check_head(hidden_units, activation, hidden_batch_normalization, gate_features, gate_scores, num_mixtures):
    for name, value in (
        ("hidden_batch_normalization", hidden_batch_normalization),
        ("gate_features", gate_features),
        ("gate_scores", gate_scores),
    ):
        check_boolean(name, value)
    if hidden_units is None and (hidden_batch_normalization or gate_features):
        raise ValueError(
            "`hidden_batch_normalization` and `gate_features` work on the hidden projection; give `hidden_units`. "
            "Received: hidden_units=None"
        )
    if num_mixtures is not None:
        check_integer("num_mixtures", num_mixtures, 1)
    if activation != "sigmoid" and (num_mixtures is not None or gate_scores):
        raise ValueError(
            "`num_mixtures` and `gate_scores` give each class a score of its own, not shares of one; leave "
            f"`activation` 'sigmoid'. Received: activation={activation!r}"
        )


def _check_known(module, name, value):
    """What an argument stands for in a module of Keras, or raises if it stands for nothing there."""
    try:
        return module.get(value)
    except (ValueError, TypeError):
        kind = {"hidden_activation": "an activation", "classifier_regularizer": "a regularizer"}[name]
        raise ValueError(f"`{name}` must be {kind} of Keras, its name, or None. Received: {name}={value!r}") from None


def _arguments(layer):
    """Names of the arguments that a class takes by name beside Keras's own."""
    parameters = inspect.signature(layer.__init__).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]


def _plain(options):
    """A dict, whose values may be dicts: Keras wraps those that belong to a model."""
    if isinstance(options, Mapping):
        return {key: _plain(value) for key, value in options.items()}
    return options


def _check_num_clusters(num_clusters, feature_sizes):
    if not isinstance(num_clusters, Mapping):
        return dict.fromkeys(feature_sizes, check_integer("num_clusters", num_clusters, 1))
    if set(num_clusters) != set(feature_sizes):
        raise ValueError(
            f"`num_clusters` must be an integer or a dict with an entry for each stream of {sorted(feature_sizes)}. "
            f"Received: {sorted(num_clusters)}"
        )
    return {name: check_integer(f"num_clusters[{name!r}]", num_clusters[name], 1) for name in feature_sizes}
