"""`VideoClassifier`: frame features in, class scores and a descriptor out."""

from collections.abc import Mapping

import keras

from keras_netvlad.layers import FrameMask, NetVLAD
from keras_netvlad.layers.validation import check_integer

NUM_FRAMES = "num_frames"
SCORES = "scores"
DESCRIPTOR = "descriptor"


@keras.saving.register_keras_serializable(package="keras_netvlad")
class VideoClassifier(keras.Model):
    """Classifies videos from frame features: NetVLAD, an optional hidden projection, a classifier.

    One input a stream of features, and `num_frames`, which says how many frames are real. It is a plain functional
    `keras.Model`: `fit`, `save`, `summary` and `keras.utils.plot_model` work as ever. Loss, metrics and labels that
    are no dicts belong to `scores`; dicts may name `descriptor`, too. `quantize` changes the hidden layer and the
    classifier, where nearly all weights are, and leaves the pooling in float32.

    Args:
        feature_sizes: Dict from the name of each stream to its feature size, such as `{"frames": 1152}` or
            `{"rgb": 1024, "audio": 128}`. Streams share the time axis and `num_frames`; each has a NetVLAD.
        num_classes: Integer, `C`.
        num_clusters: Integer, `K`; or a dict with the number of clusters of each stream.
        hidden_units: Integer, width of a ReLU projection of the descriptor; or `None` for a linear classifier.
        activation: `"sigmoid"` for classes that may occur together, `"softmax"` for one class a video.
        product_dtype: `None` or `"bfloat16"`, as of `NetVLAD`.
        **kwargs: `name`, `trainable` and `dtype` of the model; a dtype policy reaches every layer.

    Call arguments:
        inputs: Dict of each stream, float `(B, T, D)`, and `num_frames`, integer `(B,)`. Zero frames or fewer
            give a descriptor of zeros; more than `T` mean `T`. Frames beyond `num_frames` may hold anything.

    Output shape:
        Dict of `scores` `(B, C)` and `descriptor` `(B, sum of K * D over the streams)`, both in float32 or better.

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

    Reference:
        - [Miech et al. 2017](https://arxiv.org/abs/1706.06905), figure 1 (without its gating).
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
        **kwargs,
    ):
        feature_sizes = _check_feature_sizes(feature_sizes)
        clusters = _check_num_clusters(num_clusters, feature_sizes)
        num_classes = check_integer("num_classes", num_classes, 1)
        if hidden_units is not None:
            hidden_units = check_integer("hidden_units", hidden_units, 1)
        if activation not in ("sigmoid", "softmax"):
            raise ValueError(f"`activation` must be 'sigmoid' or 'softmax'. Received: activation={activation!r}")

        dtype_policy = keras.dtype_policies.get(dtype)
        # Answers leave a mixed-precision model in float32: a float16 score has three digits.
        answer_dtype = "float64" if dtype_policy.compute_dtype == "float64" else "float32"
        streams = {
            name: keras.Input((None, size), name=name, dtype=answer_dtype) for name, size in feature_sizes.items()
        }
        num_frames = keras.Input((), name=NUM_FRAMES, dtype="int32")
        pooled = []
        for name, stream in streams.items():
            mask = FrameMask(name=f"{name}_mask")(num_frames, stream)
            options = {"product_dtype": product_dtype, "dtype": dtype_policy}
            pooled.append(NetVLAD(clusters[name], name=f"{name}_netvlad", **options)(stream, mask=mask))
        descriptor = pooled[0] if len(pooled) == 1 else keras.layers.Concatenate(dtype=dtype_policy)(pooled)
        features = descriptor
        if hidden_units is not None:
            features = keras.layers.Dense(hidden_units, activation="relu", dtype=dtype_policy, name="hidden")(features)
        scores = keras.layers.Dense(num_classes, activation=activation, dtype=answer_dtype, name=SCORES)(features)
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
        self._inner_dtype_policy = dtype_policy

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """As Keras's, but labels that are no dict are those of `scores`: the descriptor has none."""
        return super().compute_loss(x, *_labelled(y, y_pred), sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As Keras's, but labels that are no dict are those of `scores`."""
        return super().compute_metrics(x, *_labelled(y, y_pred), sample_weight)

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
            "quantized_layers": {
                layer.name: layer.quantization_mode for layer in self.layers if layer.quantization_mode
            },
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes the model again from `get_config`."""
        config = dict(config)
        quantized_layers = config.pop("quantized_layers", {})
        model = cls(**config)
        for name, mode in quantized_layers.items():
            model.get_layer(name).quantize(mode)
        return model


def _labelled(y, y_pred):
    """The labels by output, and the outputs that they speak of."""
    y = y if isinstance(y, Mapping) else {SCORES: y}
    return y, {name: y_pred[name] for name in y}


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


def _check_num_clusters(num_clusters, feature_sizes):
    if not isinstance(num_clusters, Mapping):
        return dict.fromkeys(feature_sizes, check_integer("num_clusters", num_clusters, 1))
    if set(num_clusters) != set(feature_sizes):
        raise ValueError(
            f"`num_clusters` must be an integer or a dict with an entry for each stream of {sorted(feature_sizes)}. "
            f"Received: {sorted(num_clusters)}"
        )
    return {name: check_integer(f"num_clusters[{name!r}]", num_clusters[name], 1) for name in feature_sizes}
