"""`ScoredVLAD`: `NetVLAD` with given scores or assignments."""

import inspect
from typing import Any

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_boolean, check_integer
from keras_netvlad.layers.cluster_pooling import ClusterPooling
from keras_netvlad.layers.frame_inputs import flatten_inputs
from keras_netvlad.layers.frame_pooling import Shape
from keras_netvlad.layers.vlad_ops import (
    cast_like,
    cluster_means,
    cluster_sums,
    normalized_descriptor,
    soft_assignments,
)
from keras_netvlad.layers.weight_options import (
    ConstraintLike,
    InitializerLike,
    RegularizerLike,
    add_weight,
    set_centroid_options,
    weight_config,
)


@keras.saving.register_keras_serializable(package="keras_netvlad")
class ScoredVLAD(ClusterPooling):
    """Pools features with scores or assignments that other layers compute.

    Use it where the assignment is not a linear function of the features: GhostVLAD scores each place with a convolution
    of another tensor, and your own model may know the cluster of a feature from elsewhere.

        a = softmax(s)                          s: given scores; or a itself is given
        V[k] = sum_n a[n, k] (x[n] - c[k])      residuals, one sum per cluster
        V[k] = V[k] / ||V[k]||                  intra-normalization
        y = V / ||V||                           output normalization

    The scores are an argument of the call, or `score_layer` computes them from the features. Scores equal to those of a
    `NetVLAD` give its descriptor. Inputs, masks, precision and empty videos are treated as in `NetVLAD`.

    `NetVLADStream` and the live-stream signatures of an export pool chunk by chunk. They need scores that are computed
    from each frame alone, such as those of a `Dense` layer. An export does not offer these signatures for a
    `score_layer` that combines frames.

    Args:
        num_clusters: Integer, `K`.
        num_ghost_clusters: Integer, `G`. The last `G` scores belong to ghost clusters, which take part in the softmax
            and are dropped after it.
        softmax: Boolean, whether the scores are turned into assignments with a softmax. Otherwise they are the
            assignments: finite numbers of 0 or more, of which the last `G` of each feature are dropped.
        score_layer: Optional Keras layer that maps the features, in the shape of the inputs and zero for padding, to
            `K + G` scores of each; such as `keras.layers.Dense(K + G)`, or `keras.layers.Conv1D(K + G, 7,
            padding="same")` for frames. It gets the mask of frames, as booleans, if its `call` takes one.
        use_centroids: Boolean, whether clusters have centroids. Otherwise `c = 0`, as in `NetRVLAD`.
        normalize_input: Boolean, whether to scale each feature to unit L2 norm first.
        intra_normalization: Boolean, whether to scale each cluster's residuals to unit L2 norm.
        output_normalization: Boolean, whether to scale the output to unit L2 norm. GhostVLAD does not.
        centroids_initializer: Initializer, by default a truncated normal of standard deviation `1 / sqrt(D)`.
        centroids_regularizer: Regularizer.
        centroids_constraint: Constraint.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Call arguments:
        inputs: Features `(B, N, D)`; or maps, `(B, H, W, D)` of images or `(B, T, H, W, D)` of videos, every
            position of which is a feature.
        mask: Optional. Booleans, true for real features, or weights, finite and not negative. The shape is
            `(B, N)`, `(B, H, W)` or `(B, T, H, W)`, as of the input, or `(B, T)` for video maps. Padding may hold NaN.
        training: Boolean, passed to `score_layer`.
        scores: Scores or assignments, of the shape of the inputs with `K + G` instead of `D`. Required without a
            `score_layer`, and used instead of it. Those of padding may be NaN.

    Input shape:
        `(B, N, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`.

    Output shape:
        `(B, K * D)`, cluster-major: the first `D` values belong to the first cluster.

    Weights:
        `centroids` `(K, D)`, and those of `score_layer`.

    Example:

    >>> import keras
    >>> from keras_netvlad import VideoEncoder
    >>> from keras_netvlad.layers import ScoredVLAD
    >>> maps = keras.Input((7, 16, 64))  # GhostVLAD: features and scores are convolutions of the same maps
    >>> features = keras.layers.Conv2D(32, (7, 1), activation="relu")(maps)
    >>> scores = keras.layers.Conv2D(10, (7, 1))(maps)
    >>> ScoredVLAD(8, num_ghost_clusters=2, output_normalization=False)(features, scores=scores).shape
    (None, 256)
    >>> scoring = keras.layers.Conv1D(10, 7, padding="same")  # for the models of this package
    >>> encoder = VideoEncoder({"frames": 64}, pooling=ScoredVLAD(8, num_ghost_clusters=2, score_layer=scoring))
    >>> encoder.output["descriptor"].shape
    (None, 512)

    Raises:
        ValueError: If an argument, the inputs, the scores or the mask are invalid.
        TypeError: If `score_layer` is not a layer.

    Reference:
        - [Zhong et al. 2018](https://arxiv.org/abs/1810.09951), section 3.1 (GhostVLAD).
        - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 3.1, equation 1.
    """

    def __init__(
        self,
        num_clusters: int,
        num_ghost_clusters: int = 0,
        softmax: bool = True,
        score_layer: keras.Layer | dict[str, Any] | None = None,
        use_centroids: bool = True,
        normalize_input: bool = False,
        intra_normalization: bool = True,
        output_normalization: bool = True,
        centroids_initializer: InitializerLike = None,
        centroids_regularizer: RegularizerLike = None,
        centroids_constraint: ConstraintLike = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_clusters, normalize_input, intra_normalization, output_normalization, "channels_last", **kwargs
        )
        self.num_ghost_clusters = check_integer("num_ghost_clusters", num_ghost_clusters, 0)
        self.softmax = check_boolean("softmax", softmax)
        self.use_centroids = check_boolean("use_centroids", use_centroids)
        if isinstance(score_layer, dict):  # of a configuration
            score_layer = keras.saving.deserialize_keras_object(score_layer)
        if score_layer is not None and not isinstance(score_layer, keras.Layer):
            raise TypeError(f"`score_layer` must be a Keras layer or None. Received: score_layer={score_layer!r}")
        self.score_layer: Any = score_layer
        set_centroid_options(self, centroids_initializer, centroids_regularizer, centroids_constraint)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if self.use_centroids:
            self.centroids = add_weight(self, "centroids", (self.num_clusters, self.feature_size))
        if self.score_layer is not None:
            self._check_scores(input_shape, self.score_layer.compute_output_shape(input_shape))
            if not self.score_layer.built:
                self.score_layer.build(input_shape)

    def call(
        self,
        inputs: ArrayLike,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        scores: ArrayLike | None = None,
    ) -> keras.KerasTensor:
        # a = softmax(s), zero for padding.
        x, a = self._assigned(inputs, mask, training, scores)  # (B, N, D), (B, N, K)
        # V[k] = sum_n a[n, k] (x[n] - c[k]) = M[k] (A[k] / M[k] - c[k]), where A = sum_n a x and M = sum_n a.
        means, mass = cluster_means(a, x)  # A / M (B, K, D), M (B, K)
        residuals = self._residuals(means)  # V / M (B, K, D)
        # V[k] = V[k] / ||V[k]||, y = V / ||V||
        y = normalized_descriptor(residuals, mass, self.intra_normalization, self.output_normalization)  # (B, K * D)
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], self.num_clusters * self._check_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        score_layer = keras.saving.serialize_keras_object(self.score_layer)
        if score_layer is not None:
            score_layer.pop("build_config", None)  # this layer builds it
        return {
            **super().get_config(),
            "num_clusters": self.num_clusters,
            "num_ghost_clusters": self.num_ghost_clusters,
            "softmax": self.softmax,
            "score_layer": score_layer,
            "use_centroids": self.use_centroids,
            "normalize_input": self.normalize_input,
            "intra_normalization": self.intra_normalization,
            "output_normalization": self.output_normalization,
            **weight_config(self, "centroids"),
        }

    def compute_output_spec(
        self, inputs: Any, mask: Any = None, training: bool | None = None, scores: Any = None
    ) -> keras.KerasTensor:
        self._check_given(inputs.shape, scores)
        return super().compute_output_spec(inputs, mask)

    def assign(
        self, inputs: ArrayLike, mask: ArrayLike | None = None, scores: ArrayLike | None = None
    ) -> keras.KerasTensor:
        """Returns the share of each feature that each cluster gets, as `NetVLAD.assign` does.

        Args:
            inputs: Features, as for the layer.
            mask: Mask, as for the layer.
            scores: Scores, as for the layer.

        Returns:
            Assignments `(B, N, K)`, zero for padding.

        Raises:
            ValueError: If the inputs, the scores or the mask are invalid, as for the layer.
        """
        return self._assigned(inputs, mask, False, scores)[1]

    def aggregate(
        self,
        inputs: ArrayLike,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        scores: ArrayLike | None = None,
    ) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Sums features and assignments over the frames, as `NetVLAD.aggregate` does.

        Args:
            inputs: Features, as for the layer.
            mask: Mask, as for the layer.
            training: Boolean, as for the layer.
            scores: Scores, as for the layer.

        Returns:
            `A` `(B, K, D)`, the sum of the assigned features, and `M` `(B, K)`, the sum of the assignments. The sums of
            chunks add up to those of the video if the scores of a feature depend on this feature alone.

        Raises:
            ValueError: If the inputs, the scores or the mask are invalid, as for the layer.
        """
        x, a = self._assigned(inputs, mask, training, scores)
        return cluster_sums(a, x)

    def _assigned(self, inputs, mask, training, scores=None):
        """Returns the features `x` `(B, N, D)` and their assignments `a` `(B, N, K)`, both zero for padding."""
        x, weights, present = self._real_features(inputs, mask)  # (B, N, D), (B, N, 1), (B, N)
        inputs = ops.convert_to_tensor(inputs)
        scores = None if scores is None else ops.convert_to_tensor(scores)
        self._check_given(inputs.shape, scores)
        if scores is None:
            scores = self._scored(x if len(inputs.shape) == 3 else ops.reshape(x, ops.shape(inputs)), present, training)
        s = ops.cast(flatten_inputs(scores, -1), x.dtype)  # (B, N, K + G)
        if present is not None:
            # Selected before the softmax, whose gradient would be 0 * NaN.
            s = ops.where(ops.expand_dims(present, 2), s, ops.cast(0.0, s.dtype))
        if self.softmax:
            return x, soft_assignments(s, self.num_clusters, weights)
        a = s[..., : self.num_clusters]
        return x, a if weights is None else a * weights

    def _residuals(self, means):
        return means - cast_like(self.centroids, means) if self.use_centroids else means

    def _scored(self, features, present, training):
        """Returns the scores that `score_layer` gives features in the shape of the inputs."""
        takes_mask = "mask" in inspect.signature(self.score_layer.call).parameters
        masked = takes_mask and present is not None and len(features.shape) == 3
        return self.score_layer(features, training=training, **({"mask": present} if masked else {}))

    def _check_given(self, input_shape, scores):
        if scores is not None:
            self._check_scores(input_shape, scores.shape)
        elif self.score_layer is None:
            raise ValueError(
                f"`{self.name}` needs `scores`, {self.num_clusters + self.num_ghost_clusters} for each feature, or a "
                f"`score_layer` that computes them. Received: scores=None"
            )

    def _check_scores(self, input_shape, shape):
        expected = (*input_shape[:-1], self.num_clusters + self.num_ghost_clusters)
        pairs = zip(shape, expected, strict=False)
        if len(shape) != len(expected) or any(a != b for a, b in pairs if a is not None and b is not None):
            raise ValueError(
                f"The scores of `{self.name}` must have the shape {expected}, one for each cluster and ghost cluster "
                f"of every feature. Received: shape {tuple(shape)}"
            )
