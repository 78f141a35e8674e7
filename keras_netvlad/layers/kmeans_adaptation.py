"""`KMeansAdaptation`: `adapt`, which starts the clusters of a pooling from k-means."""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_netvlad.base.validation import check_integer
from keras_netvlad.layers.kmeans import find_centroids, import_kmeans, sample_features
from keras_netvlad.layers.vlad_ops import normalize


class KMeansAdaptation:
    """Mixin for cluster poolings with `centroids` that lie among the features.

    The layer may define `_adapted_weights(sample, centroids)` for the weights that it has besides the centroids.
    """

    num_ghost_clusters: int = 0
    distance: str = "euclidean"

    # Provided by the layer; declared for type checkers.
    name: str
    built: bool
    variable_dtype: str
    sum_dtype: Any
    num_clusters: int
    normalize_input: bool
    build: Callable[[Any], None]

    def adapt(
        self,
        data: ArrayLike | Iterable[Any],
        mask: ArrayLike | None = None,
        *,
        sample_size: int | None = None,
        batch_size: int = 32,
        steps: int | None = None,
        seed: int | None = None,
        verbose: Literal["auto", 0, 1, 2] = "auto",
    ) -> None:
        """Starts the clusters from k-means on a sample of the data.

        From random weights, training takes many epochs to find the clusters of the data, or fails to. `adapt` sets
        the centroids to those of k-means, most populated first. It sets the assignment of `NetVLAD` to prefer the
        nearest centroid: the logits of the two nearest clusters of a feature differ by `ln(100)` on average. Ghost
        clusters get the centroids with the fewest features. A batch-normalized assignment starts with the statistics
        of the sample, so that inference and training begin alike.

        Call it before the layer's first call, which then builds the layer, or at any time after, also when the model is
        compiled. Weights change only after everything has succeeded. Needs scikit-learn:
        `pip install 'keras_netvlad[adapt]'`.

        Args:
            data: Inputs as for the layer: an array; or a `tf.data.Dataset`, `keras.utils.PyDataset`, generator or
                other iterable of batches, `inputs` or `(inputs, mask)`, without labels. A second item that has
                the shape of a mask is taken as one. Batches may differ in length.
            mask: Optional, for an array. Features that the mask leaves out are not drawn and may be NaN. All weights
                above 0 count alike.
            sample_size: Integer, number of features to draw, uniformly and without replacement from all that are read.
                They are held in memory, with one batch. The default is 256 per cluster and ghost cluster.
            batch_size: Integer, number of videos or images to read at a time from an array. It does not change the
                result.
            steps: Integer, the most batches to read; by default all. It is required for data without an end. A Python
                generator without an end is not recognized and would be read forever.
            seed: Integer, for the sample and k-means. On more than two cores, k-means repeats only to rounding. The
                default is drawn from NumPy's global state, which `keras.utils.set_random_seed` sets.
            verbose: `"auto"`, 0, 1 or 2: progress while reading, as in `fit`.

        Example:

        >>> import numpy as np
        >>> from keras_netvlad import NetVLAD
        >>> frames = np.random.default_rng(0).normal(size=(8, 100, 16)).astype("float32")
        >>> layer = NetVLAD(num_clusters=4)
        >>> layer.adapt(frames, mask=np.arange(100) < np.full((8, 1), 70), seed=0, verbose=0)
        >>> tuple(layer.centroids.shape), bool(np.abs(layer.centroids.numpy()).max() < 4)
        ((4, 16), True)

        Raises:
            ValueError: If real features hold NaN or infinity, if there are fewer of them, or fewer distinct ones, than
                clusters and ghost clusters, if their size is not the layer's, if a second item is not a mask, if
                `data` is known to be infinite and `steps` is `None`, or if an argument is out of range.
            TypeError: If `data` or what it yields is of another type.
            ImportError: If scikit-learn is not installed.

        Reference:
            - [Arandjelović et al. 2016](https://arxiv.org/abs/1511.07247), section 3.1, equations 2 and 3; alpha
              as in appendix A, where it is chosen to make assignments close to hard.
        """
        import_kmeans()  # before any data is read
        # The global generator, unlike `default_rng()`, is the one that `keras.utils.set_random_seed` seeds.
        seed = np.random.randint(2**31) if seed is None else check_integer("seed", seed, 0)  # noqa: NPY002
        rng = np.random.default_rng(seed)
        kmeans_seed = int(rng.integers(2**31))
        num_centroids = self.num_clusters + self.num_ghost_clusters
        sample, input_shape = sample_features(
            self, data, mask, num_centroids, sample_size, batch_size, steps, rng, verbose
        )
        if self.normalize_input:
            sample = ops.convert_to_numpy(normalize(ops.convert_to_tensor(sample)))
        centroids = find_centroids(self.name, sample, num_centroids, kmeans_seed, self.distance)
        weights = {"centroids": centroids[: self.num_clusters], **self._adapted_weights(sample, centroids)}
        for path, value in weights.items():
            dtype = self.sum_dtype if path.startswith("batch_normalization") else self.variable_dtype
            weights[path] = ops.cast(value, dtype)
            if not np.isfinite(ops.convert_to_numpy(ops.cast(weights[path], "float32"))).all():
                raise ValueError(
                    f"`adapt` of `{self.name}` needs features of a scale that suits {dtype} weights; scale them, "
                    f"or use `normalize_input=True`. Received: features of up to {np.abs(sample).max():.3g} that "
                    f"make `{path}` infinite"
                )
        if not self.built:
            self.build(input_shape)
        for path, value in weights.items():
            attrgetter(path)(self).assign(value)

    def _adapted_weights(self, sample, centroids):
        """Returns values for weights by attribute, from a sample `(S, D)` and its centroids, ghosts included."""
        return {}
