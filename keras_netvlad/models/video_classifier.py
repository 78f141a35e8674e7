"""`VideoClassifier`: frame features in, class scores and a descriptor out."""

from collections.abc import Mapping
from typing import Any, Literal

import keras

from keras_netvlad.base.names import DESCRIPTOR, SCORES
from keras_netvlad.base.validation import check_boolean, check_integer, check_number
from keras_netvlad.layers import ContextGating, MixtureOfExperts
from keras_netvlad.layers.batch_normalization import MOMENTUM
from keras_netvlad.layers.weight_options import InitializerLike, RegularizerLike
from keras_netvlad.models.classifier_arguments import (
    check_gating,
    check_initializer,
    check_projection,
    check_regularizer,
    check_scores,
    encoder_from,
)
from keras_netvlad.models.model_registration import register_model
from keras_netvlad.models.poolings import argument_names, check_keywords
from keras_netvlad.models.presets import preset_settings
from keras_netvlad.models.scoring_model import ScoringModel
from keras_netvlad.models.video_encoder import PoolingName, VideoEncoder, deserialize_arguments
from keras_netvlad.models.weights import copy_weights


@register_model
class VideoClassifier(ScoringModel):
    """Classifies videos from frame features: a `VideoEncoder`, a hidden projection and a classifier.

    It is a functional `keras.Model` with one input for each stream and the input `num_frames`. `fit`, `save`, `summary`
    and `keras.utils.plot_model` work as usual. A loss, metrics and labels that are not dicts belong to `scores`; dicts
    may also name `descriptor`. `quantize` changes the hidden layer and the classifier, which hold nearly all weights,
    and leaves the pooling in float32.

    The default is a small model. The options between pooling and scores are those of YouTube-8M's winners, and
    `VideoClassifier.from_preset` sets them as published:

        frames -> L2 norm -> batch norm -> pooling -> unit norm -> batch norm -> dropout -> hidden -> batch norm
        -> activation
               -> context gating -> dense layer or mixture of experts -> context gating -> scores

    Limits: `keras.models.clone_model` returns a `ScoringModel` of the same graph with new weights. It accepts plain
    labels, too, but has none of the attributes below. `VideoClassifier.from_config(model.get_config())` returns a new
    `VideoClassifier`. Keras also saves and loads the model as `.h5`, its legacy format; prefer `.keras`.

    Args:
        feature_sizes: Dict from the name of each stream to its feature size, such as `{"frames": 1152}` or
            `{"rgb": 1024, "audio": 128}`. Or a `VideoEncoder`, whose layers and weights the classifier then shares,
            for example one trained for retrieval; leave out all arguments that `VideoEncoder` has.
        num_classes: Integer, `C`.
        num_clusters: Integer or dict, as in `VideoEncoder`.
        hidden_units: Integer, width of the projection of the descriptor; or `None` to classify the descriptor
            directly.
        activation: `"sigmoid"` for classes that may occur together, `"softmax"` for one class per video.
        product_dtype: `None` or `"bfloat16"`, as in `VideoEncoder`.
        dtype: Dtype or dtype policy of the layers.
        pooling: Name, layer, or dict of either for each stream, as in `VideoEncoder`.
        pooling_options: Dict, as in `VideoEncoder`.
        input_dtype: `"float32"` or `"uint8"`, as in `VideoEncoder`.
        joint_input_normalization: Boolean, as in `VideoEncoder`.
        input_batch_normalization: Boolean, as in `VideoEncoder`.
        batch_normalization_momentum: Number, as in `VideoEncoder`, for every batch normalization of the classifier.
        num_frames_per_stream: Boolean, as in `VideoEncoder`.
        descriptor_normalization: Boolean, whether to scale the descriptor to unit L2 norm before the projection, as the
            code of YouTube-8M does with mean features. The output `descriptor` is not scaled.
        descriptor_batch_normalization: Boolean, whether to batch-normalize the descriptor before the projection. The
            output `descriptor` is not normalized by it.
        dropout: Number from 0 to below 1, share of the descriptor that training drops before the projection.
        hidden_activation: Name of the projection's activation, such as `"relu"`; or `None` for a linear projection.
        hidden_batch_normalization: Boolean, whether to batch-normalize the projection. It replaces the bias.
        gate_features: Boolean, whether `ContextGating` gates the projection.
        gate_scores: Boolean, whether `ContextGating` gates the scores.
        gating_batch_normalization: Boolean, whether gates are batch-normalized.
        gating_reduction: Integer, `reduction` of the gating of features; or `None`.
        num_mixtures: Integer, to classify with a `MixtureOfExperts`; or `None` for a dense layer.
        classifier_regularizer: Regularizer of the classifier's kernels.
        classifier_bias_regularizer: Regularizer of the classifier's bias, with `num_mixtures` of the experts' bias.
        hidden_initializer, gating_initializer, classifier_initializer: Initializers of the kernels of the projection,
            of both gatings and of the classifier; or `None` for the default of the layer.
        **kwargs: `name` and `trainable` of the model.

    Attributes:
        encoder: The `VideoEncoder` of the classifier, with the same layers and weights. Use it for retrieval, `Embed`
            or export after training, or set `encoder.trainable = False` to train the head alone.

    Call arguments:
        inputs: Dict of each stream and `num_frames`, as in `VideoEncoder`.

    Output shape:
        Dict of `scores` `(B, C)` and `descriptor` `(B, F)`, both float32 or better, with `F` as in `VideoEncoder`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad import VideoClassifier
    >>> model = VideoClassifier({"frames": 64}, num_classes=10, num_clusters=8, hidden_units=None)
    >>> video = {"frames": np.ones((2, 30, 64), "float32"), "num_frames": np.array([30, 12], "int32")}
    >>> {name: tuple(values.shape) for name, values in model(video).items()}
    {'scores': (2, 10), 'descriptor': (2, 512)}
    >>> list(model.encoder(video))
    ['descriptor']

    Raises:
        ValueError: If an argument is invalid.
        TypeError: If an argument is unknown.

    Reference:
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905), figure 1.
        - [Lin et al. 2018](https://arxiv.org/abs/1811.05014), figure 3 (dropout, gating with a bottleneck).
    """

    def __init__(
        self,
        feature_sizes: Mapping[str, int] | VideoEncoder,
        num_classes: int,
        num_clusters: int | Mapping[str, int] = 64,
        hidden_units: int | None = 1024,
        activation: Literal["sigmoid", "softmax"] = "sigmoid",
        product_dtype: Literal["bfloat16"] | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        # Never used. `keras.models.clone_model` calls the class of a model, rather than losing it, only if its
        # constructor has `*args` and `**kwargs`; see `ScoringModel.__new__`.
        *args: Any,
        pooling: PoolingName | keras.Layer | Mapping[str, PoolingName | keras.Layer] = "netvlad",
        pooling_options: Mapping[str, Any] | None = None,
        input_dtype: Literal["float32", "uint8"] = "float32",
        joint_input_normalization: bool = False,
        input_batch_normalization: bool = False,
        batch_normalization_momentum: float = MOMENTUM,
        num_frames_per_stream: bool = False,
        descriptor_normalization: bool = False,
        descriptor_batch_normalization: bool = False,
        dropout: float = 0.0,
        hidden_activation: str | None = "relu",
        hidden_batch_normalization: bool = False,
        gate_features: bool = False,
        gate_scores: bool = False,
        gating_batch_normalization: bool = True,
        gating_reduction: int | None = None,
        num_mixtures: int | None = None,
        classifier_regularizer: RegularizerLike = None,
        classifier_bias_regularizer: RegularizerLike = None,
        hidden_initializer: InitializerLike = None,
        gating_initializer: InitializerLike = None,
        classifier_initializer: InitializerLike = None,
        **kwargs: Any,
    ) -> None:
        # === Arguments ===
        check_keywords(type(self), kwargs, args)
        num_classes = check_integer("num_classes", num_classes, 1)
        check_boolean("descriptor_normalization", descriptor_normalization)
        check_boolean("descriptor_batch_normalization", descriptor_batch_normalization)
        check_number("dropout", dropout, 0, 1, exclusive_maximum=True)
        hidden_units = check_projection(hidden_units, hidden_activation, hidden_batch_normalization, gate_features)
        check_scores(activation, gate_scores, num_mixtures)
        check_gating(gating_batch_normalization, gating_reduction)
        regularizer = check_regularizer("classifier_regularizer", classifier_regularizer)
        bias_regularizer = check_regularizer("classifier_bias_regularizer", classifier_bias_regularizer)
        hidden_initializer = check_initializer("hidden_initializer", hidden_initializer)
        gating_initializer = check_initializer("gating_initializer", gating_initializer)
        classifier_initializer = check_initializer("classifier_initializer", classifier_initializer)

        # === Encoder ===
        encoder = encoder_from(
            feature_sizes,
            pooling=pooling,
            num_clusters=num_clusters,
            pooling_options=pooling_options,
            product_dtype=product_dtype,
            input_dtype=input_dtype,
            joint_input_normalization=joint_input_normalization,
            input_batch_normalization=input_batch_normalization,
            batch_normalization_momentum=batch_normalization_momentum,
            num_frames_per_stream=num_frames_per_stream,
            dtype=dtype,
        )
        dtype_policy = encoder._inner_dtype_policy
        momentum = encoder.batch_normalization_momentum
        scores_dtype = encoder.output[DESCRIPTOR].dtype
        # The descriptor before the cast to the dtype of the output.
        features = encoder.get_layer(DESCRIPTOR).input

        # === Projection ===
        hidden_options = _given("kernel_initializer", hidden_initializer)
        gating_options = {
            "batch_normalization": gating_batch_normalization,
            "batch_normalization_momentum": momentum,
            **_given("kernel_initializer", gating_initializer),
        }
        if descriptor_normalization:
            features = keras.layers.UnitNormalization(dtype=scores_dtype, name="descriptor_normalization")(features)
        if descriptor_batch_normalization:
            normalize = keras.layers.BatchNormalization(
                momentum=momentum, dtype=dtype_policy, name="descriptor_batch_normalization"
            )
            features = normalize(features)
        if dropout:
            features = keras.layers.Dropout(dropout, dtype=dtype_policy, name="dropout")(features)
        if hidden_units is not None and hidden_batch_normalization:
            project = keras.layers.Dense(
                hidden_units, use_bias=False, dtype=dtype_policy, name="hidden", **hidden_options
            )
            normalize = keras.layers.BatchNormalization(
                momentum=momentum, dtype=dtype_policy, name="hidden_batch_normalization"
            )
            activate = keras.layers.Activation(
                hidden_activation or "linear", dtype=dtype_policy, name="hidden_activation"
            )
            features = activate(normalize(project(features)))
        elif hidden_units is not None:
            project = keras.layers.Dense(
                hidden_units, hidden_activation, dtype=dtype_policy, name="hidden", **hidden_options
            )
            features = project(features)
        if gate_features:
            gate = ContextGating(
                reduction=gating_reduction, dtype=dtype_policy, name="feature_gating", **gating_options
            )
            features = gate(features)

        # === Scores ===
        # The last layer is named `scores` because Keras matches losses and metrics by output name.
        name = "ungated_scores" if gate_scores else SCORES
        if num_mixtures is None:
            classifier = keras.layers.Dense(
                num_classes,
                activation,
                kernel_regularizer=regularizer,
                bias_regularizer=bias_regularizer,
                dtype=scores_dtype,
                name=name,
                **_given("kernel_initializer", classifier_initializer),
            )
        else:
            classifier = MixtureOfExperts(
                num_classes,
                num_mixtures,
                gate_kernel_regularizer=regularizer,
                expert_kernel_regularizer=regularizer,
                expert_bias_regularizer=bias_regularizer,
                dtype=scores_dtype,
                name=name,
                **_given("gate_kernel_initializer", classifier_initializer),
                **_given("expert_kernel_initializer", classifier_initializer),
            )
        scores = classifier(features)
        if gate_scores:
            scores = ContextGating(dtype=scores_dtype, name=SCORES, **gating_options)(scores)
        super().__init__(
            inputs=encoder.input, outputs={SCORES: scores, DESCRIPTOR: encoder.output[DESCRIPTOR]}, **kwargs
        )

        # === Configuration ===
        # Keras tracks attributes that are layers and would save the layers of the encoder twice.
        object.__setattr__(self, "_encoder", encoder)
        self.feature_sizes = encoder.feature_sizes
        self.num_clusters = encoder.num_clusters
        self.pooling_options = encoder.pooling_options
        self.product_dtype = encoder.product_dtype
        self.stream_dtype = encoder.stream_dtype
        self.joint_input_normalization = encoder.joint_input_normalization
        self.input_batch_normalization = encoder.input_batch_normalization
        self.batch_normalization_momentum = momentum
        self.num_frames_per_stream = encoder.num_frames_per_stream
        self.num_classes = num_classes
        self.hidden_units = hidden_units
        self.activation = activation
        self.descriptor_normalization = descriptor_normalization
        self.descriptor_batch_normalization = descriptor_batch_normalization
        self.dropout = dropout
        self.hidden_activation = hidden_activation
        self.hidden_batch_normalization = hidden_batch_normalization
        self.gate_features = gate_features
        self.gate_scores = gate_scores
        self.gating_batch_normalization = gating_batch_normalization
        self.gating_reduction = gating_reduction
        self.num_mixtures = num_mixtures
        self.classifier_regularizer = regularizer
        self.classifier_bias_regularizer = bias_regularizer
        self.hidden_initializer = hidden_initializer
        self.gating_initializer = gating_initializer
        self.classifier_initializer = classifier_initializer

    @property
    def encoder(self) -> VideoEncoder:
        """The `VideoEncoder` that shares the layers and weights of the classifier."""
        return self._encoder

    @property
    def pooling(self) -> Any:
        """The name of the pooling, or a dict with the name or the layer of each stream."""
        return self.encoder.pooling

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, and which layers were quantized or frozen since."""
        return {
            **self.encoder.get_config(),
            "name": self.name,
            "trainable": self.trainable,
            "encoder_trainable": self.encoder.trainable,
            "num_classes": self.num_classes,
            "hidden_units": self.hidden_units,
            "activation": self.activation,
            "descriptor_normalization": self.descriptor_normalization,
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
            "classifier_bias_regularizer": keras.regularizers.serialize(self.classifier_bias_regularizer),
            "hidden_initializer": keras.initializers.serialize(self.hidden_initializer),
            "gating_initializer": keras.initializers.serialize(self.gating_initializer),
            "classifier_initializer": keras.initializers.serialize(self.classifier_initializer),
            "quantized_layers": {
                layer.name: layer.quantization_mode for layer in self.layers if layer.quantization_mode
            },
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> "VideoClassifier":
        """Makes a new model with the arguments that `get_config` returned, also those of earlier releases."""
        arguments = deserialize_arguments(config, custom_objects)
        quantized_layers = arguments.pop("quantized_layers", {})
        is_encoder_trainable = arguments.pop("encoder_trainable", True)
        model = cls(**arguments)
        if not is_encoder_trainable:
            model.encoder.trainable = False
        for name, mode in quantized_layers.items():
            model.get_layer(name).quantize(mode)
        return model

    @classmethod
    def from_preset(
        cls, preset: str, num_classes: int = 3862, *, load_weights: bool = False, **overrides: Any
    ) -> "VideoClassifier":
        """Makes the architecture of a published model of YouTube-8M, with new weights.

        No trained weights are published for these architectures. Train the model, or load a `.keras` file of your own.

        - Miech et al., the winners of 2017: `gated_netvlad`, their best single model, `gated_netrvlad`, `gated_netfv`,
          `gated_soft_dbow`, `soft_dbow`.
        - Lin et al. 2018: `nextvlad`, a quarter of the parameters of the first.
        - Skalic & Austin, the winners of 2018: `skalic_austin_2018_netvlad_1` and `_2`, `skalic_austin_2018_netfv`,
          `skalic_austin_2018_soft_dbow_1`, `_2` and `_3`, of which they made an ensemble.
        - Abu-El-Haija et al. 2016, the data set's own: `youtube8m_moe`, a mixture of experts on mean features, which
          takes frames, or the records at video level as clips of one frame.

        docs/presets.md describes each model, its source, and what its authors measured.

        Streams are `{"rgb": 1024, "audio": 128}` as in YouTube-8M. Give `feature_sizes` for your own features. A stream
        that is not named `audio` takes the settings of `rgb`.

        Args:
            preset: String, one of the names above.
            num_classes: Integer, `C`; YouTube-8M has 3862 classes since 2018.
            load_weights: `False`. `True` raises an error, because no trained weights are published.
            **overrides: Any argument of `VideoClassifier`, instead of the preset's. Another `pooling` discards the
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
            ValueError: If the preset does not exist, if `load_weights` is not `False`, or if an override is invalid.
        """
        if check_boolean("load_weights", load_weights):
            raise ValueError(
                "`load_weights` must be False, because no trained weights are published for the presets; train the "
                "model, or load your own file with `keras_netvlad.models.load_model`. Received: load_weights=True"
            )
        settings = preset_settings(preset, overrides.get("feature_sizes"))
        unknown = set(overrides) - set(argument_names(cls)) - {"name", "trainable"}
        if unknown:
            raise ValueError(f"Overrides must be arguments of `VideoClassifier`. Received: {sorted(unknown)}")
        if overrides.get("pooling", settings["pooling"]) != settings["pooling"]:
            settings["pooling_options"] = None
        return cls(**{"name": preset, **settings, "num_classes": num_classes, **overrides})

    def with_input_dtype(self, input_dtype: Literal["float32", "uint8"]) -> "VideoClassifier":
        """Makes the same model for inputs of another dtype, with a copy of the weights.

        Train on bytes and publish for floats: the artifact of the float model also has a signature for bytes.

        Args:
            input_dtype: `"float32"` or `"uint8"`.

        Returns:
            A `VideoClassifier`; it is not compiled.

        Example:

        >>> from keras_netvlad import VideoClassifier
        >>> model = VideoClassifier({"rgb": 8}, num_classes=3, num_clusters=2, input_dtype="uint8")
        >>> model.with_input_dtype("float32").input["rgb"].dtype
        'float32'

        Raises:
            ValueError: If `input_dtype` is invalid.
        """
        copy = type(self).from_config({**self.get_config(), "input_dtype": input_dtype})
        copy_weights(self, copy)
        return copy


def _given(argument: str, initializer: keras.Initializer | None) -> dict[str, Any]:
    """Returns `{argument: initializer}`, or an empty dict for the default initializer of the layer.

    The layer draws the seed of its default initializer itself, and the weights of seeded models depend on when it does.
    """
    return {} if initializer is None else {argument: initializer}
