"""`ResidualPooling`: what NetVLAD and VLAD share, all but the assignment."""

import keras
from keras import ops

from keras_netvlad.layers.descriptors import check_inputs, check_mask, flatten_inputs, flatten_mask, is_boolean
from keras_netvlad.layers.safe_norm import inverse_norm
from keras_netvlad.layers.validation import check_boolean, check_integer


class ResidualPooling(keras.Layer):
    """Pools descriptors into normalized sums of their residuals to `K` learnable centroids.

    Subclasses say which descriptor belongs to which cluster, in `_assign`. Everything between the input and the
    output is computed in float32 (float64 under a float64 policy): a float16 sum overflows and float16 logits are
    off by whole units.

    Shapes in comments: `B` batch, `N` descriptors of a video or image, `D` feature size, `K` clusters.
    """

    def __init__(
        self,
        num_clusters,
        normalize_input,
        intra_normalization,
        output_normalization,
        data_format,
        centroids_initializer,
        centroids_regularizer,
        centroids_constraint,
        **kwargs,
    ):
        # Without autocast, weights and float32 inputs reach the sums unrounded under a mixed policy.
        super().__init__(autocast=False, **kwargs)
        self.num_clusters = check_integer("num_clusters", num_clusters, 1)
        self.normalize_input = check_boolean("normalize_input", normalize_input)
        self.intra_normalization = check_boolean("intra_normalization", intra_normalization)
        self.output_normalization = check_boolean("output_normalization", output_normalization)
        self.data_format = data_format
        self.centroids_initializer = keras.initializers.get(
            centroids_initializer
            or keras.initializers.VarianceScaling(1.0, mode="fan_out", distribution="truncated_normal")
        )
        self.centroids_regularizer = keras.regularizers.get(centroids_regularizer)
        self.centroids_constraint = keras.constraints.get(centroids_constraint)
        self.supports_masking = True
        self.feature_size = None

    def build(self, input_shape):
        self.feature_size = check_inputs(self.name, input_shape, self._channel_axis)
        self._build_assignment()
        self.centroids = self.add_weight(
            name="centroids",
            shape=(self.num_clusters, self.feature_size),
            initializer=self.centroids_initializer,
            regularizer=self.centroids_regularizer,
            constraint=self.centroids_constraint,
        )

    def call(self, inputs, mask=None, training=None):
        return self.describe(*self.aggregate(inputs, mask=mask, training=training))

    def compute_mask(self, inputs, previous_mask):
        """Returns `None`: pooling consumes the mask. Passed on, Keras would multiply the loss by it."""
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_clusters * check_inputs(self.name, input_shape, self._channel_axis))

    def compute_output_spec(self, inputs, mask=None, training=None):
        self._check_call(inputs, mask)
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_clusters": self.num_clusters,
            "normalize_input": self.normalize_input,
            "intra_normalization": self.intra_normalization,
            "output_normalization": self.output_normalization,
            "data_format": self.data_format,
            "centroids_initializer": keras.initializers.serialize(self.centroids_initializer),
            "centroids_regularizer": keras.regularizers.serialize(self.centroids_regularizer),
            "centroids_constraint": keras.constraints.serialize(self.centroids_constraint),
        }

    def aggregate(self, inputs, mask=None, training=None):
        """Sums descriptors and assignments over the frames: the part of pooling that is additive.

        The sums of a video are the sums of its chunks, in any split and order, so a long or live video is pooled
        in constant memory and machines can each sum frames of their own.

        Args:
            inputs: As the layer's.
            mask: As the layer's.
            training: As the layer's.

        Returns:
            `A` `(B, K, D)`, the sum of the assigned descriptors, and `M` `(B, K)`, the sum of the assignments
            (Arandjelović et al. 2016, equation 4, taken apart), in float32 (float64 under a float64 policy).
        """
        descriptors, assignments = self._assigned(inputs, mask, training)
        first = ops.matmul(ops.transpose(assignments, (0, 2, 1)), descriptors)  # (B, K, D)
        return first, ops.sum(assignments, axis=1)

    def describe(self, first_sum, second_sum):
        """Turns the sums of `aggregate` into the descriptor.

        Args:
            first_sum: `A` `(B, K, D)`.
            second_sum: `M` `(B, K)`.

        Returns:
            The descriptor `(B, K * D)`, cluster-major, in the layer's compute dtype.

        Raises:
            ValueError: If the layer was never called, or the sums have other shapes.
        """
        if not self.built:
            raise ValueError(f"`{self.name}` has no centroids yet; call it or `aggregate` on inputs first.")
        first_sum = ops.cast(first_sum, self._sum_dtype)
        second_sum = ops.cast(second_sum, self._sum_dtype)
        sizes = (self.num_clusters, self.feature_size)
        if tuple(first_sum.shape[1:]) != sizes or tuple(second_sum.shape[1:]) != sizes[:1]:
            raise ValueError(
                f"`describe` of `{self.name}` takes the sums of `aggregate`, (batch, {sizes[0]}, {sizes[1]}) and "
                f"(batch, {sizes[0]}). Received: shapes {tuple(first_sum.shape)} and {tuple(second_sum.shape)}"
            )
        # sum_n a (x - c) without the residuals (B, N, K, D) ever existing.
        residuals = first_sum - ops.expand_dims(second_sum, 2) * ops.cast(self.centroids, self._sum_dtype)
        if self.intra_normalization:
            scale, is_filled = inverse_norm(residuals)  # (B, K, 1) both
            if self.output_normalization:
                # Every filled cluster has norm 1 now, so the whole has the root of their number.
                num_filled = ops.sum(ops.cast(is_filled, self._sum_dtype), axis=1, keepdims=True)  # (B, 1, 1)
                scale = scale * ops.rsqrt(ops.maximum(num_filled, 1.0))
            residuals = residuals * scale
        descriptor = ops.reshape(residuals, (-1, self.num_clusters * self.feature_size))  # (B, K * D)
        if self.output_normalization and not self.intra_normalization:
            descriptor = descriptor * inverse_norm(descriptor)[0]
        return ops.cast(descriptor, self.compute_dtype)

    def assign(self, inputs, mask=None):
        """Returns which cluster each descriptor goes to, to look at.

        Args:
            inputs: As the layer's.
            mask: As the layer's.

        Returns:
            Assignments `(B, N, K)`. Rows sum to 1, or to less where ghost clusters take a share; rows that `mask`
            leaves out are 0, weighted rows are multiplied by their weight. `N` runs frame by frame, row by row.
        """
        return self._assigned(inputs, mask, training=False)[1]

    def _build_assignment(self):
        """Creates the weights of the assignment, where there are any beside the centroids."""

    def _assign(self, descriptors, present, training):
        """Assignments `(B, N, K)` of descriptors `(B, N, D)`; `present` `(B, N)` is boolean or `None`."""
        raise NotImplementedError

    def _assigned(self, inputs, mask, training):
        """Descriptors `(B, N, D)` with zeros for padding, and their masked or weighted assignments `(B, N, K)`."""
        inputs = ops.convert_to_tensor(inputs)
        mask = None if mask is None else ops.convert_to_tensor(mask)
        self._check_call(inputs, mask)
        if not self.built:
            self.build(inputs.shape)
        descriptors = ops.cast(flatten_inputs(inputs, self._channel_axis), self._sum_dtype)
        if mask is None:
            descriptors = self._normalized(descriptors)
            return descriptors, self._assign(descriptors, None, training)
        weights = flatten_mask(mask, inputs, self._channel_axis)  # (B, N)
        present = weights if is_boolean(weights) else weights > 0
        # Picked, not multiplied: 0 * NaN is NaN, forward and backward.
        descriptors = self._normalized(ops.where(ops.expand_dims(present, 2), descriptors, 0.0))
        assignments = self._assign(descriptors, present, training)
        if is_boolean(weights):
            return descriptors, ops.where(ops.expand_dims(present, 2), assignments, 0.0)
        weights = ops.where(present, ops.cast(weights, self._sum_dtype), 0.0)
        return descriptors, assignments * ops.expand_dims(weights, 2)

    def _normalized(self, descriptors):
        return descriptors * inverse_norm(descriptors)[0] if self.normalize_input else descriptors

    def _check_call(self, inputs, mask):
        check_inputs(self.name, inputs.shape, self._channel_axis, self.feature_size)
        if mask is not None:
            check_mask(self.name, mask, inputs.shape, self._channel_axis)

    @property
    def _channel_axis(self):
        return -3 if self.data_format == "channels_first" else -1

    @property
    def _sum_dtype(self):
        return "float64" if self.compute_dtype == "float64" else "float32"
