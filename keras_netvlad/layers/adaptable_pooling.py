"""`AdaptablePooling`: residual poolings whose clusters can start from k-means."""

from operator import attrgetter

import numpy as np
from keras import ops

from keras_netvlad.layers.adaptation import find_centroids, import_kmeans, sample_descriptors
from keras_netvlad.layers.residual_pooling import ResidualPooling
from keras_netvlad.layers.validation import check_integer


class AdaptablePooling(ResidualPooling):
    """Pools residuals of the descriptors as they are, so that k-means of a sample of them is a start."""

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

    def _adapted_assignment(self, sample, centroids):
        """Values of the assignment's weights, by attribute, for k-means centroids of a sample `(S, D)`."""
        return {}
