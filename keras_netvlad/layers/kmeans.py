"""k-means on a sample of features, from which `adapt` sets the weights of a pooling layer."""

import itertools
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_netvlad.base.validation import check_integer
from keras_netvlad.layers.frame_inputs import check_inputs, check_mask

# FAISS also clusters at most 256 points per centroid. More points change the centroids little and take much longer.
FEATURES_PER_CLUSTER = 256
# FAISS's default.
MAX_ITERATIONS = 25
# The nearest cluster of an average feature gets 100 times the assignment of the second nearest.
LOG_RATIO = np.log(100.0)


def import_kmeans() -> type:
    """Returns scikit-learn's `KMeans`, or raises naming the extra that installs it."""
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError(
            "`adapt` clusters with scikit-learn, which is not installed. Install it with "
            "`pip install 'keras_netvlad[adapt]'`."
        ) from error
    return KMeans


def sample_features(
    layer: Any,
    data: Any,
    mask: Any,
    num_clusters: int,
    sample_size: int | None,
    batch_size: int,
    steps: int | None,
    rng: np.random.Generator,
    verbose: Any,
) -> tuple[NDArray[Any], tuple[int | None, ...]]:
    """Draws features uniformly and without replacement from data of unknown length, in bounded memory.

    Args:
        layer: Pooling layer, built or not, whose inputs the data holds.
        data: Data, as for `adapt`.
        mask: Mask, as for `adapt`.
        num_clusters: Number of clusters and ghost clusters. At least as many features are needed.
        sample_size: Number of features to draw, `S`; or `None` for 256 per cluster.
        batch_size: Number of videos to read at a time if `data` is an array.
        steps: Number of batches to read; or `None` for all.
        rng: NumPy generator. It draws one number for each feature, so the sample does not depend on the batch size.
        verbose: Verbosity, as for `adapt`.

    Returns:
        The sample `(S, D)` in random order, and the static shape of an input with `None` for all dimensions except
        `D`.
    """
    sample_size = _check_sample_size(sample_size, num_clusters)
    steps = None if steps is None else check_integer("steps", steps, 1)
    verbose = _check_verbose(verbose)
    batches, num_batches = _batches(layer, data, mask, check_integer("batch_size", batch_size, 1), steps)
    progress = keras.utils.Progbar(num_batches, verbose=verbose)
    reservoir, num_read = _Reservoir(sample_size, rng), 0
    shape: list[int | None] | None = None
    for num_read, element in enumerate(batches, 1):
        inputs, weights = _unpack(layer, element, num_read)
        size = check_inputs(layer.name, inputs.shape, layer.channel_axis, layer.feature_size)
        if shape is None:
            shape = [None] * inputs.ndim
            shape[_size_axis(layer, inputs)] = size
        elif size not in shape:
            raise ValueError(
                f"`adapt` of `{layer.name}` needs data with a single feature size; drop inputs of other sizes. "
                f"Received: batch {num_read} of shape {inputs.shape} after inputs of shape {tuple(shape)}"
            )
        features = _kept_features(layer, inputs, weights).astype(layer.sum_dtype, copy=False)
        num_broken = int((~np.isfinite(features).all(axis=1)).sum())
        if num_broken:
            raise ValueError(
                f"`adapt` of `{layer.name}` needs finite features; mask out or drop those that are not. "
                f"Received: NaN or infinity in {num_broken} of the {len(features)} features of batch {num_read}"
            )
        reservoir.add(features)
        progress.update(num_read, finalize=False)
    if reservoir.num_seen < num_clusters:
        raise ValueError(
            f"`adapt` of `{layer.name}` needs at least {num_clusters} features, one for each cluster and ghost "
            f"cluster; give more data or ask for fewer clusters. Received: {reservoir.num_seen} features that the "
            f"mask keeps, in {num_read} batches"
        )
    progress.update(num_read, finalize=True)
    return reservoir.sample(), tuple(shape or ())


def find_centroids(
    layer_name: str,
    sample: NDArray[Any],
    num_clusters: int,
    seed: int | None,
    distance: str = "euclidean",
) -> NDArray[Any]:
    """Clusters a sample `(S, D)` with k-means and returns the centroids `(K + G, D)`, the most populated first.

    With `distance="cosine"`, features belong to the centroid with the largest cosine.

    `KMeans` with FAISS's 25 iterations took 1.5 s for K=64, D=1024 and 3.3 s for K=256, D=128 on two cores.
    `MiniBatchKMeans` with batches of 4096 took 2.5 and 0.9 s, but its inertia was 0.1 and 1.4 % higher, and its
    smallest of 256 clusters held one feature where `KMeans` left 48.
    """
    directions = _directions(sample) if distance == "cosine" else None
    num_distinct = _num_distinct(sample if directions is None else directions, num_clusters)
    if num_distinct < num_clusters:
        raise ValueError(
            f"`adapt` of `{layer_name}` needs at least {num_clusters} distinct features, one for each cluster and "
            "ghost cluster; give more varied data or ask for fewer clusters. "
            f"Received: {num_distinct} distinct among {len(sample)}"
        )
    if directions is None:
        kmeans = import_kmeans()(num_clusters, n_init=1, max_iter=MAX_ITERATIONS, random_state=seed).fit(sample)
        centroids, labels = kmeans.cluster_centers_.astype("float64"), kmeans.labels_
    else:
        centroids, labels = _cosine_kmeans(sample, directions, num_clusters, seed)
    population = np.bincount(labels, minlength=num_clusters)
    return centroids[np.argsort(-population, kind="stable")]


def _cosine_kmeans(sample, directions, num_clusters, seed):
    """Returns the centroids `(K, D)` and the cluster of each feature `(S,)` of k-means by the cosine.

    Lloyd's iterations from the start of k-means++. A centroid is the mean of its features, as in AnyLoc (Keetha et al.
    2023). A cluster that loses its last feature keeps its centroid.
    """
    from sklearn.cluster import kmeans_plusplus

    centroids = kmeans_plusplus(directions, num_clusters, random_state=seed)[0].astype("float64")
    labels = np.full(len(sample), -1)
    for _ in range(MAX_ITERATIONS):
        towards = _directions(centroids).astype(directions.dtype).T
        parts = [directions[start : start + 4096] @ towards for start in range(0, len(directions), 4096)]
        nearest = np.concatenate([part.argmax(axis=1) for part in parts])
        if np.array_equal(nearest, labels):
            break
        labels = nearest
        for cluster in np.unique(labels):
            centroids[cluster] = sample[labels == cluster].mean(axis=0, dtype="float64")
    return centroids, labels


def _directions(rows):
    """Returns rows of unit length. A row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def assignment_from_centroids(
    layer_name: str, sample: NDArray[Any], centroids: NDArray[Any], use_bias: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns kernel `(D, K)` and bias `(K,)` that assign a sample softly to its nearest centroids.

    With a bias, the logits are `-alpha ||x - c||^2` without the term `-alpha ||x||^2`, which all clusters share
    (Arandjelović et al. 2016, equations 2 and 3): `W = 2 alpha c`, `b = -alpha ||c||^2`. Without a bias, the logits are
    `alpha c_hat . x`. `alpha` is chosen so that the logits of the two nearest clusters differ by `ln(100)` on average.

    Args:
        layer_name: Name for messages.
        sample: Features `(S, D)`.
        centroids: `(K, D)`, float64.
        use_bias: Boolean. If it is false, the returned bias is zero.
    """
    if len(centroids) == 1:
        return np.zeros(centroids.T.shape), np.zeros(1)
    squared = np.sum(centroids**2, axis=1)
    if use_bias:
        kernel, bias = 2.0 * centroids.T, -squared
    else:
        kernel, bias = (centroids / np.sqrt(np.where(squared > 0, squared, 1.0))[:, None]).T, np.zeros(len(centroids))
    gap, size = 0.0, 0.0
    for start in range(0, len(sample), 4096):  # float64 logits of the whole sample would be 134 MB for K=256
        logits = sample[start : start + 4096].astype("float64") @ kernel + bias
        second, first = np.partition(logits, -2, axis=1)[:, -2:].T
        gap += np.sum(first - second) / len(sample)
        size = max(size, np.abs(logits).max())
    # A gap as small as the rounding of the logits would give an alpha that amplifies this rounding to whole units.
    if not gap > np.finfo(sample.dtype).eps * size:
        raise ValueError(
            f"`adapt` of `{layer_name}` needs features that clusters can tell apart; give more varied data, ask for "
            f"fewer clusters or, if only the lengths of the features differ, use `use_bias=True`. Received: "
            f"{len(sample)} features as near to the second nearest of {len(centroids)} centroids as to the nearest"
        )
    alpha = LOG_RATIO / gap
    return alpha * kernel, alpha * bias


class _Reservoir:
    """A uniform sample of a stream: each feature gets a random key, and those with the smallest keys are kept."""

    def __init__(self, size, rng):
        self.size, self.rng, self.num_seen = size, rng, 0
        self.keys = np.empty(0)
        self.rows: Any = None  # an array `(n, D)` after the first `add`

    def add(self, features):
        keys = self.rng.random(len(features))
        self.num_seen += len(keys)
        room = self.size - len(self.keys)
        if self.rows is None:
            self.rows = np.empty((0, features.shape[1]), features.dtype)
        if room > 0:
            self._append(keys[:room], features[:room])
            keys, features = keys[room:], features[room:]
        if not len(keys):
            return
        all_keys = np.concatenate([self.keys, keys])
        staying = np.argpartition(all_keys, self.size - 1)[: self.size]
        newcomers = np.sort(staying[staying >= self.size])
        leaving = np.setdiff1d(np.arange(self.size), staying, assume_unique=True)
        self.keys[leaving] = all_keys[newcomers]
        self.rows[leaving] = features[newcomers - self.size]

    def sample(self):
        # Sorted, so that the sample does not depend on how the stream was cut into batches.
        return self.rows[: len(self.keys)][np.argsort(self.keys)]

    def _append(self, keys, features):
        start, stop = len(self.keys), len(self.keys) + len(keys)
        if stop > len(self.rows):  # grows by half, so a size that is never reached costs nothing
            capacity = min(self.size, max(stop, len(self.rows) * 3 // 2))
            grown = np.empty((capacity, features.shape[1]), features.dtype)
            grown[:start] = self.rows[:start]
            self.rows = grown
        self.rows[start:stop] = features
        self.keys = np.concatenate([self.keys, keys])


def _batches(layer, data, mask, batch_size, steps):
    """Returns an iterator over the elements of any accepted data, and their number if it is known."""
    is_iterable = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    if isinstance(data, (str, bytes, dict, tuple, keras.KerasTensor)) or not is_iterable:
        raise TypeError(
            f"`data` for `adapt` of `{layer.name}` must be an array, optionally with `mask=`, or a "
            f"tf.data.Dataset, PyDataset or iterable of `inputs` or `(inputs, mask)`. Received: {_kind(data)}"
        )
    if ops.is_tensor(data) or hasattr(data, "__array__"):
        check_inputs(layer.name, data.shape, layer.channel_axis, layer.feature_size)
        if mask is not None:
            mask = _to_array(layer, mask, "mask")
            check_mask(layer.name, mask, data.shape, layer.channel_axis)
        starts = range(0, data.shape[0], batch_size)
        parts = [slice(start, start + batch_size) for start in starts]
        elements = ((data[part], None if mask is None else mask[part]) for part in parts)
        num_batches = len(parts)
    else:
        if mask is not None:
            raise ValueError(
                "`mask` is for arrays; let a dataset or generator yield pairs `(inputs, mask)` instead. "
                f"Received: a mask and {_kind(data)}"
            )
        elements, num_batches = data, _length(data, steps)
    if steps is not None:
        num_batches = steps if num_batches is None else min(steps, num_batches)
    return itertools.islice(iter(elements), steps), num_batches


def _length(data, steps):
    """Returns the number of elements if it is known; raises if it is known to be infinite and `steps` is `None`."""
    is_infinite = False
    if isinstance(data, keras.utils.PyDataset):
        try:
            length = data.num_batches
        except NotImplementedError:
            length = None
        is_infinite = length is None
    else:
        if hasattr(data, "cardinality"):  # tf.data: -1 is infinite, -2 unknown
            is_infinite = int(data.cardinality()) == -1
        try:
            length = len(data)
        except TypeError:
            length = None
    if is_infinite and steps is None:
        raise ValueError(
            "`adapt` reads its data to the end; set `steps`, the number of batches to read, for infinite data. "
            f"Received: infinite {_kind(data)} and steps=None"
        )
    return length


def _unpack(layer, element, index):
    """Returns inputs and mask of one element as arrays, or raises if it is neither `inputs` nor `(inputs, mask)`."""
    if not isinstance(element, (tuple, list)):
        return _to_array(layer, element, "inputs"), None
    if len(element) not in (1, 2):
        raise _not_a_mask(layer, f"{len(element)} items in batch {index}")
    inputs = _to_array(layer, element[0], "inputs")
    if len(element) == 1 or element[1] is None:
        return inputs, None
    mask = _to_array(layer, element[1], "mask")
    check_inputs(layer.name, inputs.shape, layer.channel_axis)
    positions = list(inputs.shape)
    del positions[_size_axis(layer, inputs)]
    has_shape = list(mask.shape) == positions or (inputs.ndim == 5 and list(mask.shape) == positions[:2])
    # Integers beyond 0 and 1 are labels of frames.
    if not has_shape or (np.issubdtype(mask.dtype, np.integer) and np.any((mask < 0) | (mask > 1))):
        values = f" and values from {mask.min()} to {mask.max()}" if has_shape else ""
        raise _not_a_mask(
            layer, f"second item of shape {mask.shape}{values} for inputs of shape {inputs.shape} in batch {index}"
        )
    check_mask(layer.name, mask, inputs.shape, layer.channel_axis)
    return inputs, mask


def _not_a_mask(layer, received):
    return ValueError(
        f"`data` for `adapt` of `{layer.name}` must yield `inputs` or `(inputs, mask)`, without labels; drop those, "
        f"for example with `.map(lambda x, y: x)`. Received: {received}"
    )


def _size_axis(layer, inputs):
    """Returns the axis of the feature dimension, counted from the front."""
    return inputs.ndim + (-1 if inputs.ndim == 3 else layer.channel_axis)


def _kept_features(layer, inputs, mask):
    """Returns the features `(n, D)` that the mask keeps, as `frame_inputs.flatten_inputs` orders them."""
    inputs = np.moveaxis(inputs, _size_axis(layer, inputs), -1)
    if mask is not None:
        inputs = inputs[mask > 0]
    return inputs.reshape(-1, inputs.shape[-1])


def _num_distinct(sample, enough):
    """Returns the number of distinct rows, or `enough` if there are at least as many."""
    seen = set()
    for row in sample:
        seen.add((row + 0.0).tobytes())  # -0.0 becomes 0.0
        if len(seen) == enough:
            break
    return len(seen)


def _to_array(layer, value, name):
    """Returns a tensor of any framework as a NumPy array of a type that NumPy computes with."""
    try:
        # A torch tensor that has a gradient or is on a device converts only through Keras.
        array = ops.convert_to_numpy(value) if ops.is_tensor(value) else np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = np.asarray(None)
    if hasattr(value, "row_splits"):  # a ragged tensor, which converts to one padded with zeros
        array = np.asarray(None)
    if array.dtype == bool or np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer):
        return array
    if str(array.dtype) == "bfloat16":
        return array.astype("float32")
    raise TypeError(
        f"`{name}` for `adapt` of `{layer.name}` must be an array of numbers; pick it from a dict with "
        '`.map(lambda x: x["frames"])`, pad ragged videos and mask the padding. '
        f"Received: {_kind(value)}"
    )


def _kind(value):
    return f"a {type(value).__name__}"


def _check_sample_size(sample_size, num_clusters):
    if sample_size is None:
        return FEATURES_PER_CLUSTER * num_clusters
    sample_size = check_integer("sample_size", sample_size, 1)
    if sample_size < num_clusters:
        raise ValueError(
            f"`sample_size` must be at least {num_clusters}, the number of clusters with ghost clusters. "
            f"Received: sample_size={sample_size}"
        )
    return sample_size


def _check_verbose(verbose):
    if verbose == "auto":
        return 1 if keras.config.is_interactive_logging_enabled() else 2
    if isinstance(verbose, bool) or verbose not in (0, 1, 2):
        raise ValueError(f"`verbose` must be 'auto', 0, 1 or 2. Received: verbose={verbose!r}")
    return verbose
