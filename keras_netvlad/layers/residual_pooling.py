"""`ResidualPooling`: what NetVLAD and VLAD share, all but the assignment."""

from operator import attrgetter

import keras
import numpy as np
from keras import ops

from keras_netvlad.layers.adaptation import find_centroids, import_kmeans, sample_descriptors
from keras_netvlad.layers.descriptors import check_inputs, check_mask, flatten_inputs, flatten_mask, is_boolean
from keras_netvlad.layers.safe_norm import SQUARED_EPSILON, inverse_root, normalize, squared_norm
from keras_netvlad.layers.validation import check_boolean, check_integer

# Sums of assignments below this count as none: a cluster's residuals would have to be longer than 1e6 to show. Smaller,
# and the gradient of the quotient overflows on JAX.
LEAST_SUM = 1e-18


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
        # Without autocast float32 inputs, and weights made with `autocast=False`, reach the sums unrounded under a
        # mixed policy.
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
        self.product_dtype = None
        self.feature_size = None

    def build(self, input_shape):
        self.feature_size = check_inputs(self.name, input_shape, self._channel_axis)
        self._build_assignment()
        self.centroids = self.add_weight(
            name="centroids",
            autocast=False,
            shape=(self.num_clusters, self.feature_size),
            initializer=self.centroids_initializer,
            regularizer=self.centroids_regularizer,
            constraint=self.centroids_constraint,
        )

    def call(self, inputs, mask=None, training=None):
        descriptors, assignments = self._assigned(inputs, mask, training)
        second_sum = ops.sum(assignments, axis=1)  # (B, K)
        # The mean descriptor of each cluster, divided before the product, where it is cheaper than after: a training
        # step of 300 frames takes 0.9 to 0.95 times as long.
        shares = assignments * _inverse(ops.expand_dims(second_sum, 1))
        means = self._product(_sums_of_products, shares, descriptors)
        return self._described(means - ops.cast(self.centroids, self._sum_dtype), second_sum)

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

        Raises:
            ValueError: As the layer's.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad import NetVLAD
        >>> frames = np.random.default_rng(0).normal(size=(1, 100, 16)).astype("float32")
        >>> layer = NetVLAD(num_clusters=4)
        >>> (first, second), (more, more_second) = layer.aggregate(frames[:, :60]), layer.aggregate(frames[:, 60:])
        >>> bool(np.allclose(layer.describe(first + more, second + more_second), layer(frames), atol=1e-6))
        True
        """
        descriptors, assignments = self._assigned(inputs, mask, training)
        return _sums_of_products(assignments, ops.cast(descriptors, self._sum_dtype)), ops.sum(assignments, axis=1)

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
        means = first_sum * _inverse(ops.expand_dims(second_sum, 2))
        return self._described(means - ops.cast(self.centroids, self._sum_dtype), second_sum)

    def assign(self, inputs, mask=None):
        """Returns which cluster each descriptor goes to, to look at.

        Args:
            inputs: As the layer's.
            mask: As the layer's.

        Returns:
            Assignments `(B, N, K)`. Rows sum to 1, or to less where ghost clusters take a share; rows that `mask`
            leaves out are 0, weighted rows are multiplied by their weight. `N` runs frame by frame, row by row.

        Raises:
            ValueError: As the layer's.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad import NetVLAD
        >>> frames = np.random.default_rng(0).normal(size=(1, 100, 16)).astype("float32")
        >>> assignments = NetVLAD(num_clusters=4).assign(frames)
        >>> tuple(assignments.shape), bool(np.allclose(np.sum(assignments, axis=2), 1))
        ((1, 100, 4), True)
        """
        return self._assigned(inputs, mask, training=False)[1]

    def adapt(self, data, mask=None, *, sample_size=None, batch_size=32, steps=None, seed=None, verbose="auto"):
        """Starts the clusters where the data is: k-means on a sample of its descriptors.

        The centroids become those of k-means, most populated first, and the assignment of `NetVLAD` prefers the
        nearest: between the two nearest clusters of a descriptor the logits differ by `ln(100)` on average. Ghost
        clusters get the centroids that fewest descriptors are near to. Batch-normalized assignment starts with
        the statistics of the sample, so that inference and training begin alike. Random weights take many epochs
        to get there or never do.

        May be called before the layer's first call, which then builds it, or at any time after, also once the
        model is compiled. What k-means finds is assigned after everything has succeeded; on an error the layer is
        as it was. Needs scikit-learn: `pip install 'keras_netvlad[adapt]'`.

        Args:
            data: Inputs as the layer's: an array; or a `tf.data.Dataset`, `keras.utils.PyDataset`, generator or
                other iterable of batches, `inputs` or `(inputs, mask)`, without labels. A second item that has
                the shape of a mask is taken as one. Batches may differ in length.
            mask: Optional, with an array. What `mask` leaves out may hold NaN and is not drawn; weights above 0
                count alike.
            sample_size: Integer, descriptors to draw, uniformly and without replacement from all that are read.
                Memory holds these and one batch. Default: 256 for each cluster and ghost cluster.
            batch_size: Integer, videos or images to read at a time, if `data` is an array. Does not change the
                result.
            steps: Integer, batches to read at most; by default all. Needed for data without an end; a Python
                generator cannot be known to have none, and would be read forever.
            seed: Integer, of sample and k-means; on more than two cores k-means repeats to rounding. By default
                drawn from NumPy's global state, which `keras.utils.set_random_seed` sets.
            verbose: `"auto"`, 0, 1 or 2: progress while reading, as of `fit`.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad import NetVLAD
        >>> frames = np.random.default_rng(0).normal(size=(8, 100, 16)).astype("float32")
        >>> layer = NetVLAD(num_clusters=4)
        >>> layer.adapt(frames, mask=np.arange(100) < np.full((8, 1), 70), seed=0, verbose=0)
        >>> tuple(layer.centroids.shape), bool(np.abs(layer.centroids.numpy()).max() < 4)
        ((4, 16), True)

        Raises:
            ValueError: If descriptors that the mask keeps hold NaN or infinity, if there are fewer of them, or
                fewer distinct ones, than clusters and ghost clusters, if they have another size than the layer's,
                if a second item is no mask, if `data` is known to be infinite and `steps` is `None`, or if an
                argument is out of range.
            TypeError: If `data` or what it yields is of another type.
            ImportError: If scikit-learn is not installed.

        Reference:
            - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 3.1, equations 2 and 3; alpha
              as in appendix A, where it is chosen to make assignments close to hard.
        """
        import_kmeans()  # before any data is read
        # The global generator, unlike `default_rng()`, is what `keras.utils.set_random_seed` governs.
        seed = np.random.randint(2**31) if seed is None else check_integer("seed", seed, 0)  # noqa: NPY002
        rng = np.random.default_rng(seed)
        kmeans_seed = int(rng.integers(2**31))
        sample, input_shape = sample_descriptors(
            self, data, mask, self._num_assigned, sample_size, batch_size, steps, rng, verbose
        )
        sample = ops.convert_to_numpy(self._normalized(ops.convert_to_tensor(sample)))
        centroids = find_centroids(self.name, sample, self._num_assigned, kmeans_seed)
        weights = {"centroids": centroids[: self.num_clusters], **self._adapted_assignment(sample, centroids)}
        for path, value in weights.items():
            dtype = self._sum_dtype if path.startswith("batch_normalization") else self.variable_dtype
            weights[path] = ops.cast(value, dtype)
            if not np.isfinite(ops.convert_to_numpy(ops.cast(weights[path], "float32"))).all():
                raise ValueError(
                    f"`adapt` of `{self.name}` needs descriptors of a scale that suits {dtype} weights; scale them, "
                    f"or use `normalize_input=True`. Received: descriptors of up to {np.abs(sample).max():.3g} that "
                    f"make `{path}` infinite"
                )
        if not self.built:
            self.build(input_shape)
        for path, value in weights.items():
            attrgetter(path)(self).assign(value)

    def _build_assignment(self):
        """Creates the weights of the assignment, where there are any beside the centroids."""

    def _assign(self, descriptors, present, training):
        """Assignments `(B, N, K)` of descriptors `(B, N, D)`; `present` `(B, N)` is boolean or `None`."""
        raise NotImplementedError

    def _adapted_assignment(self, sample, centroids):
        """Values of the assignment's weights, by attribute, for k-means centroids of a sample `(S, D)`."""
        return {}

    def _assigned(self, inputs, mask, training):
        """Descriptors `(B, N, D)` with zeros for padding, and their masked or weighted assignments `(B, N, K)`.

        Descriptors are of `product_dtype` already, unless they were normalized.
        """
        inputs = ops.convert_to_tensor(inputs)
        mask = None if mask is None else ops.convert_to_tensor(mask)
        self._check_call(inputs, mask)
        if not self.built:
            self.build(inputs.shape)
        dtype = self._sum_dtype if self.normalize_input or not self.product_dtype else self.product_dtype
        descriptors = ops.cast(flatten_inputs(inputs, self._channel_axis), dtype)
        if mask is None:
            descriptors = self._normalized(descriptors)
            return descriptors, self._assign(descriptors, None, training)
        weights = flatten_mask(mask, inputs, self._channel_axis)  # (B, N)
        present = weights if is_boolean(weights) else weights > 0
        picks = ops.expand_dims(present, 2)
        # Picked, not multiplied: 0 * NaN is NaN, forward and backward. What is left is finite.
        descriptors = self._normalized(ops.where(picks, descriptors, ops.cast(0.0, dtype)))
        assignments = self._assign(descriptors, present, training)
        weights = picks if is_boolean(weights) else ops.where(picks, ops.expand_dims(weights, 2), 0)
        return descriptors, assignments * ops.cast(weights, self._sum_dtype)

    def _product(self, product, *factors):
        """A matrix product whose factors, and with them its result, are rounded to `product_dtype` if there is one."""
        if self.product_dtype is None:
            return product(*factors)
        return ops.cast(product(*(ops.cast(factor, self.product_dtype) for factor in factors)), self._sum_dtype)

    def _normalized(self, descriptors):
        return normalize(descriptors) if self.normalize_input else descriptors

    def _described(self, mean_residuals, second_sum):
        """The descriptor from `A / M - c` `(B, K, D)` and `M` `(B, K)`.

        `M (A / M - c)` is the sum of the residuals, which thus never exist one by one; nor does `M c`, which would be
        as large as the sum. What normalizing divides out again is not multiplied in.
        """
        squared = squared_norm(mean_residuals)  # (B, K, 1)
        masses = ops.expand_dims(second_sum, 2)
        squared_sums = squared * ops.square(masses)
        if self.intra_normalization:
            is_filled = squared_sums > SQUARED_EPSILON
            if self.output_normalization:
                # Each filled cluster has norm 1 by then, so together they have the root of their number.
                squared = squared * ops.sum(ops.cast(is_filled, self._sum_dtype), axis=1, keepdims=True)
            scales = inverse_root(squared, is_filled)
        elif self.output_normalization:
            squared = ops.sum(squared_sums, axis=1, keepdims=True)
            scales = masses * inverse_root(squared, squared > SQUARED_EPSILON)
        else:
            scales = masses
        descriptor = mean_residuals * scales
        descriptor = ops.reshape(descriptor, (-1, self.num_clusters * self.feature_size))  # (B, K * D)
        return ops.cast(descriptor, self.compute_dtype)

    def _check_call(self, inputs, mask):
        check_inputs(self.name, inputs.shape, self._channel_axis, self.feature_size)
        if mask is not None:
            check_mask(self.name, mask, inputs.shape, self._channel_axis)

    @property
    def _num_assigned(self):
        """Clusters that take part in the assignment."""
        return self.num_clusters

    @property
    def _channel_axis(self):
        return -3 if self.data_format == "channels_first" else -1

    @property
    def _sum_dtype(self):
        return "float64" if self.compute_dtype == "float64" else "float32"


def _inverse(second_sum):
    """`1 / M`, finite where no descriptor counts."""
    return ops.reciprocal(ops.maximum(second_sum, LEAST_SUM))


def _sums_of_products(assignments, descriptors):
    """`a^T x` `(B, K, D)` of `(B, N, K)` and `(B, N, D)`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # As a flag: the gradient of a transpose of its own is one more, and a training step 1.02 to 1.15 times as long.
        return tf.matmul(assignments, descriptors, transpose_a=True)
    return ops.transpose(assignments, (0, 2, 1)) @ descriptors
