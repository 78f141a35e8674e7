"""`SALAD`: assignment to clusters and a dustbin by optimal transport."""

from typing import Any, Literal

import keras
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_boolean, check_integer, check_number
from keras_netvlad.layers.frame_pooling import FramePooling, Shape
from keras_netvlad.layers.optimal_transport import transported_assignments
from keras_netvlad.layers.vlad_ops import cluster_means, matmul, normalize, normalized_descriptor
from keras_netvlad.layers.weight_options import (
    ConstraintLike,
    InitializerLike,
    RegularizerLike,
    add_weight,
    set_weight_options,
    weight_config,
)


@keras.saving.register_keras_serializable(package="keras_netvlad")
class SALAD(FramePooling):
    """Pools features into one sum per cluster, assigned by optimal transport instead of a softmax.

    Every cluster receives the same share of the features, and a dustbin takes uninformative ones. It was made for
    the patch tokens of DINOv2 and place recognition.

        f[n] = relu(x[n] U1 + d1) U2 + d2       projected features
        s[n] = relu(x[n] W1 + b1) W2            scores of the clusters
        a = transport(s)                        as many features for each cluster; the dustbin gets the rest
        V[k] = sum_n a[n, k] f[n]               one sum per cluster, no centroid
        V[k] = V[k] / ||V[k]||                  intra-normalization
        y = (g, V) / ||(g, V)||                 with an optional global token g of unit norm

    The transport is a fixed number of Sinkhorn iterations on logarithms, in float32 (float64 under a float64 policy); a
    mixed policy sets only the dtype of the output. Of `n` features each of the `K` clusters gets 1 and the dustbin
    `n - K`. With no more features than clusters, for which the paper defines nothing, the clusters and the dustbin
    each get `n / (K + 1)`; at `n = K + 1` both are the same. Weights `m` of a mask count as numbers of features: `n` is
    their sum, and a feature of weight 2 counts like two equal ones. A video without frames gives zeros, or its token
    alone.

    The published code also learns a score of the dustbin and a bias of the scores. Both are the same for all features,
    so the first step of each iteration cancels them, and they have no effect and no gradient. This layer has neither.

    The assignment of a feature depends on all features of the video, so there are no sums of chunks, no stream and no
    live-stream signatures.

    Args:
        num_clusters: Integer, `K`.
        cluster_size: Integer, `L`, the size of the projected features.
        token_size: Integer, `T`, the size of the projected global token; or `None` for a descriptor without one.
        hidden_units: Integer, `H`, the units of the hidden layer of each projection.
        dropout: Number from 0 to below 1, the share of hidden units of features and scores that training drops.
        iterations: Integer, the number of Sinkhorn iterations.
        normalize_input: Boolean, whether to scale each feature to unit L2 norm first.
        output_normalization: Boolean, whether to scale the output to unit L2 norm.
        data_format: `"channels_last"` or `"channels_first"`, for maps. `channels_first` maps are `(B, D, H, W)`
            and `(B, T, D, H, W)`.
        kernel_initializer, bias_initializer: Initializers of all projections.
        kernel_regularizer, bias_regularizer: Regularizers.
        kernel_constraint, bias_constraint: Constraints.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Call arguments:
        inputs: Features `(B, N, D)`; or maps, `(B, H, W, D)` of images or `(B, T, H, W, D)` of videos, every
            position of which is a feature.
        mask: Optional. Booleans, true for real features, or weights, finite and not negative. The shape is
            `(B, N)`, `(B, H, W)` or `(B, T, H, W)`, as of the input, or `(B, T)` for video maps. Padding may hold NaN.
        training: Boolean, whether to apply dropout.
        token: `(B, D)`, such as the class token of a vision transformer. Required with a `token_size`.

    Input shape:
        `(B, N, D)`, `(B, H, W, D)` or `(B, T, H, W, D)`.

    Output shape:
        `(B, K * L)`, cluster-major: the first `L` values belong to the first cluster. With a token `(B, T + K * L)`:
        the token comes first. The published code orders the sums the other way, `(L, K)`.

    Weights:
        `score_hidden_kernel` `(D, H)`, `score_hidden_bias` `(H,)`, `score_kernel` `(H, K)`; `feature_hidden_kernel`,
        `feature_hidden_bias`, `feature_kernel` `(H, L)` and `feature_bias` `(L,)`; with a token the same of `token`,
        with `T` instead of `L`.

    Example:

    >>> import numpy as np
    >>> from keras_netvlad.layers import SALAD
    >>> rng = np.random.default_rng(0)
    >>> patches, token = rng.normal(size=(2, 16, 16, 48)).astype("float32"), rng.normal(size=(2, 48)).astype("float32")
    >>> SALAD(num_clusters=8, cluster_size=16)(patches).shape[1]
    128
    >>> SALAD(num_clusters=8, cluster_size=16, token_size=32)(patches, token=token).shape[1]
    160

    Raises:
        ValueError: If an argument, the input, the mask or the token is invalid.

    Reference:
        - [Izquierdo & Civera 2024](https://arxiv.org/abs/2311.15937), section 3; iterations, sizes and dropout as in
          its code.
        - [Cuturi 2013](https://arxiv.org/abs/1306.0895) (Sinkhorn's iterations).
    """

    def __init__(
        self,
        num_clusters: int = 64,
        cluster_size: int = 128,
        token_size: int | None = None,
        hidden_units: int = 512,
        dropout: float = 0.3,
        iterations: int = 3,
        normalize_input: bool = False,
        output_normalization: bool = True,
        data_format: Literal["channels_last", "channels_first"] = "channels_last",
        kernel_initializer: InitializerLike = "lecun_normal",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(normalize_input, data_format, **kwargs)
        self.num_clusters = check_integer("num_clusters", num_clusters, 1)
        self.cluster_size = check_integer("cluster_size", cluster_size, 1)
        self.token_size = None if token_size is None else check_integer("token_size", token_size, 1)
        self.hidden_units = check_integer("hidden_units", hidden_units, 1)
        self.dropout = check_number("dropout", dropout, 0, 1, exclusive_maximum=True)
        self.iterations = check_integer("iterations", iterations, 1)
        self.output_normalization = check_boolean("output_normalization", output_normalization)
        set_weight_options(self, "kernel", kernel_initializer, kernel_regularizer, kernel_constraint)
        set_weight_options(self, "bias", bias_initializer, bias_regularizer, bias_constraint)
        self._drop = keras.layers.Dropout(self.dropout, dtype=self.sum_dtype)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self._add_perceptron("score", self.num_clusters, use_bias=False)
        self._add_perceptron("feature", self.cluster_size)
        if self.token_size is not None:
            self._add_perceptron("token", self.token_size)

    def call(
        self,
        inputs: ArrayLike,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        token: ArrayLike | None = None,
    ) -> keras.KerasTensor:
        # a = transport(s), with s = relu(x W1 + b1) W2; zero for padding.
        x, a = self._assigned(inputs, mask, training)  # (B, N, D), (B, N, K)
        self._check_token(token, x.shape[0])
        f = self._projected(x, "feature", training)  # relu(x U1 + d1) U2 + d2 (B, N, L)
        # V[k] = sum_n a[n, k] f[n] = A[k] = M[k] (A[k] / M[k]), where M = sum_n a; V[k] = V[k] / ||V[k]||
        means, mass = cluster_means(a, f)  # A / M (B, K, L), M (B, K)
        y = normalized_descriptor(means, mass, intra_normalization=True, output_normalization=False)  # (B, K * L)
        # y = (g, V) / ||(g, V)||
        if self.token_size is not None:
            token = ops.cast(ops.convert_to_tensor(token), x.dtype)  # (B, D)
            g = normalize(self._projected(token, "token", training=False))  # (B, T)
            y = ops.concatenate([g, y], axis=1)
        y = normalize(y) if self.output_normalization else y
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self._check_shape(input_shape)
        return input_shape[0], (self.token_size or 0) + self.num_clusters * self.cluster_size

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_clusters": self.num_clusters,
            "cluster_size": self.cluster_size,
            "token_size": self.token_size,
            "hidden_units": self.hidden_units,
            "dropout": self.dropout,
            "iterations": self.iterations,
            "normalize_input": self.normalize_input,
            "output_normalization": self.output_normalization,
            "data_format": self.data_format,
            **weight_config(self, "kernel", "bias"),
        }

    def compute_output_spec(
        self, inputs: Any, mask: Any = None, training: bool | None = None, token: Any = None
    ) -> keras.KerasTensor:
        output = super().compute_output_spec(inputs, mask)
        self._check_token(token, inputs.shape[0])
        return output

    def assign(self, inputs: ArrayLike, mask: ArrayLike | None = None) -> keras.KerasTensor:
        """Returns the share of each feature that each cluster gets. The dustbin gets the rest.

        Args:
            inputs: Features, as for the layer.
            mask: Mask, as for the layer.

        Returns:
            Assignments `(B, N, K)`, zero for padding.

        Raises:
            ValueError: If the inputs or the mask are invalid, as for the layer.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad.layers import SALAD
        >>> frames = np.random.default_rng(0).normal(size=(1, 100, 16)).astype("float32")
        >>> tuple(SALAD(num_clusters=4, hidden_units=8).assign(frames).shape)
        (1, 100, 4)
        """
        return self._assigned(inputs, mask, training=False)[1]

    def _assigned(self, inputs, mask, training):
        """Returns the features `x` `(B, N, D)` and their assignments `a` `(B, N, K)`, both zero for padding."""
        x, weights, present = self._real_features(inputs, mask)  # (B, N, D), (B, N, 1), (B, N)
        weights = ops.ones_like(x[..., :1]) if weights is None else weights
        s = self._projected(x, "score", training)  # (B, N, K)
        return x, transported_assignments(s, weights, present, self.iterations)

    def _projected(self, x, name, training):
        """Returns `relu(x W1 + b1) W2 + b2` with the weights of a name, and dropout in training."""
        hidden = matmul(x, ops.cast(getattr(self, f"{name}_hidden_kernel"), x.dtype))
        hidden = ops.relu(hidden + ops.cast(getattr(self, f"{name}_hidden_bias"), x.dtype))
        y = matmul(self._drop(hidden, training=training), ops.cast(getattr(self, f"{name}_kernel"), x.dtype))
        return y if name == "score" else y + ops.cast(getattr(self, f"{name}_bias"), x.dtype)

    def _add_perceptron(self, name, units, use_bias=True):
        """Adds the weights of `_projected` with a name."""
        shapes = {
            "hidden_kernel": (self.feature_size, self.hidden_units),
            "hidden_bias": (self.hidden_units,),
            "kernel": (self.hidden_units, units),
            **({"bias": (units,)} if use_bias else {}),
        }
        for part, shape in shapes.items():
            options = "kernel" if part.endswith("kernel") else "bias"
            setattr(self, f"{name}_{part}", add_weight(self, f"{name}_{part}", shape, options))

    def _check_token(self, token, batch):
        if (token is None) != (self.token_size is None):
            raise ValueError(
                f"`{self.name}` takes a `token` if it has a `token_size`, and only then. "
                f"Received: token_size={self.token_size} and {'no token' if token is None else 'a token'}"
            )
        if token is None:
            return
        shape = tuple(token.shape)
        expected = (batch, self.feature_size)
        if len(shape) != 2 or any(a != b for a, b in zip(shape, expected, strict=True) if None not in (a, b)):
            raise ValueError(
                f"`token` of `{self.name}` must have the shape {expected}, one for each video or image. "
                f"Received: shape {shape}"
            )
